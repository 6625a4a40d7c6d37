"""The awaitable of a hit stands in for a coroutine wherever asyncio takes one."""

import asyncio
import collections.abc
import contextlib
import gc
import inspect
import sys
import traceback
import types
import weakref
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from loops import KINDS, runner_of

from tiercache.local.face import Face
from tiercache.local.ready import Ready
from tiercache.local.table import Table

VALUES = [
    None,
    0,
    "text",
    (),
    (1, 2),
    (1, (2,)),
    [1],
    ValueError("a value, not raised"),
    ValueError,
    StopIteration("a value"),
    StopIteration(),
    StopAsyncIteration(1),
    asyncio.CancelledError("a value"),
    KeyboardInterrupt(),
    float("nan"),
    Ready(1),
]


def hit(value: Any) -> Any:
    """What an async hit returns."""
    face = Face(Table(), lambda: 0.0)
    flight = face.table.probe("k", 0.0)[1]
    face.table.settle(flight, value, (value, 9.0, 9.0, 9.0, 0.0, 1.0, 1, b"", 0))
    return face.aget("k")


async def awaited(value: Any) -> Any:
    return await hit(value)


async def in_a_task(value: Any) -> Any:
    return await asyncio.create_task(hit(value))


async def in_an_ensured_future(value: Any) -> Any:
    return await asyncio.ensure_future(hit(value))


async def gathered(value: Any) -> Any:
    first, second, other = await asyncio.gather(hit(value), hit(value), asyncio.sleep(0, "other"))
    assert first is second
    assert other == "other"
    return first


async def waited_for(value: Any) -> Any:
    return await asyncio.wait_for(hit(value), 10)


async def waited_for_without_end(value: Any) -> Any:
    return await asyncio.wait_for(hit(value), None)


async def shielded(value: Any) -> Any:
    return await asyncio.shield(hit(value))


async def in_a_group(value: Any) -> Any:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(hit(value))
    return task.result()


async def within_a_timeout(value: Any) -> Any:
    async with asyncio.timeout(10):
        return await hit(value)


async def as_completed(value: Any) -> Any:
    for future in asyncio.as_completed([hit(value)]):
        return await future


async def in_another_awaitable(value: Any) -> Any:
    class Wrapper:
        def __await__(self) -> Any:
            return hit(value).__await__()

    return await Wrapper()


async def by_yield_from(value: Any) -> Any:
    @types.coroutine
    def generator() -> Any:
        return (yield from hit(value))

    return await generator()


WAYS: list[Callable[[Any], Coroutine[Any, Any, Any]]] = [
    awaited,
    in_a_task,
    in_an_ensured_future,
    gathered,
    waited_for,
    waited_for_without_end,
    shielded,
    in_a_group,
    within_a_timeout,
    as_completed,
    in_another_awaitable,
    by_yield_from,
]


@pytest.fixture(params=[*KINDS, "eager tasks"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    """Runs coroutines on a loop of each kind."""
    with runner_of(request.param) as runner:
        yield runner


@pytest.mark.parametrize("value", VALUES, ids=repr)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_the_value_comes_as_it_is(way: Any, value: Any, runner: asyncio.Runner) -> None:
    """Whatever the value is, an exception or a tuple too, it is returned and never raised or unpacked."""
    assert runner.run(way(value)) is value


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_loop_runs_it_until_complete(value: Any) -> None:
    """loop.run_until_complete and asyncio.run take it as their main coroutine."""
    loop = asyncio.new_event_loop()
    try:
        assert loop.run_until_complete(hit(value)) is value
    finally:
        loop.close()
    assert asyncio.run(hit(value)) is value


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_an_eager_task_ends_at_once() -> None:
    """Under the eager task factory the task is done when it is made."""

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        for value in VALUES:
            task = asyncio.create_task(hit(value))
            assert task.done()
            assert task.result() is value

    asyncio.run(main())


def test_it_is_a_coroutine_for_whoever_asks() -> None:
    """The abstract classes and asyncio.iscoroutine say yes, so libraries treat it as one."""
    ready = hit(1)
    assert isinstance(ready, collections.abc.Coroutine)
    assert isinstance(ready, collections.abc.Awaitable)
    assert asyncio.iscoroutine(ready)
    assert inspect.isawaitable(ready)


def test_it_never_suspends() -> None:
    """One send ends it with the value."""
    for value in VALUES:
        with pytest.raises(StopIteration) as stop:
            hit(value).send(None)
        assert stop.value.value is value
        with pytest.raises(StopIteration) as stop:
            next(hit(value))
        assert stop.value.value is value
        with pytest.raises(StopIteration) as stop:
            next(iter(hit(value).__await__()))
        assert stop.value.value is value


def test_it_may_be_awaited_again() -> None:
    """Unlike a coroutine's, its value stays there; and one that is never awaited warns nobody."""

    async def main() -> list[Any]:
        ready = hit(7)
        return [await ready, await ready, *await asyncio.gather(ready, ready)]

    assert asyncio.run(main()) == [7, 7, 7, 7]
    hit(7)
    gc.collect()


def test_close_does_nothing() -> None:
    """It can be closed, before and after it was awaited, as often as one likes."""
    ready = hit(1)
    assert ready.close() is None
    assert ready.close() is None


class Named(Exception):
    def __init__(self, *args: object) -> None:
        super().__init__(*args)


def test_throw_raises_what_it_is_given() -> None:
    """A class, a class and its argument, an instance, with or without a traceback: as for coroutines."""
    error = Named("instance")
    for arguments, text in [
        ((Named,), ""),
        ((Named, "argument"), "argument"),
        ((Named, ("two", "arguments")), "('two', 'arguments')"),
        ((error,), "instance"),
        ((Named, error), "instance"),
        ((Named, error, None), "instance"),
    ]:
        with pytest.raises(Named) as caught:
            hit(1).throw(*arguments)
        assert str(caught.value) == text
    with pytest.raises(Named) as caught:
        hit(1).throw(error)
    assert caught.value is error
    with pytest.raises(TypeError):
        hit(1).throw("not an exception")


def test_throw_keeps_the_traceback_it_is_given() -> None:
    """The frames of a traceback that is thrown in are still there when it comes out."""

    def origin() -> None:
        raise Named

    try:
        origin()
    except Named as error:
        given = error.__traceback__
    with pytest.raises(Named) as caught:
        hit(1).throw(Named, Named("again"), given)
    assert "origin" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]


def test_a_task_of_it_can_be_cancelled() -> None:
    """A task that is cancelled before its first step ends cancelled, as with a coroutine."""

    async def main() -> None:
        task = asyncio.create_task(hit(1))
        task.cancel("enough")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    asyncio.run(main())


def test_a_timeout_that_has_passed_still_gives_the_value() -> None:
    """Nothing is waited for, so there is nothing to time out."""

    async def main() -> Any:
        async with asyncio.timeout(0):
            return await hit(1)

    assert asyncio.run(main()) == 1


def test_debug_mode_can_show_it() -> None:
    """asyncio's reprs of tasks, with its frames and names, take it for a coroutine of a compiled module."""

    async def main() -> None:
        task = asyncio.create_task(hit(1))
        assert "Ready" in repr(task)
        task.get_stack()
        await task
        assert "result=1" in repr(task)

    asyncio.run(main(), debug=True)


def test_awaiting_inside_except_keeps_the_context() -> None:
    """An await of a hit while an exception is handled neither loses that exception nor joins its context."""

    async def main(value: Any) -> tuple[Any, ...]:
        try:
            raise Named("first")
        except Named as error:
            return error, await hit(value), sys.exception()

    for value in VALUES:
        error, given, handled = asyncio.run(main(value))
        assert given is value
        assert handled is error
        assert error.__context__ is None
        if isinstance(value, BaseException):
            assert value.__context__ is None


def test_it_holds_its_value_only_while_it_lives() -> None:
    """Awaiting leaves no reference behind, nor does the reuse of dead ones."""

    class Value:
        pass

    async def main() -> Any:
        value = Value()
        watch = weakref.ref(value)
        before = sys.getrefcount(value)
        for _ in range(200):
            await Ready(value)
            Ready(value)
        assert sys.getrefcount(value) == before
        ready = Ready(value)
        del value
        assert await ready is watch() is not None
        del ready
        return watch()

    assert asyncio.run(main()) is None


def test_an_end_that_was_caught_stays_as_it_was() -> None:
    """Who takes the StopIteration of a hit into their own hands keeps it, whatever is awaited meanwhile."""
    caught = []
    for value in VALUES:
        for end in (next, lambda ready: ready.send(None)):
            try:
                end(Ready(value))
            except StopIteration as error:
                caught.append((value, error))
            asyncio.run(awaited("another"))
    assert all(error.value is value for value, error in caught)
    assert len({id(error) for _, error in caught}) == len(caught)
    assert all(error.__context__ is None for _, error in caught)


@pytest.mark.parametrize("outlives", [False, True])
def test_an_end_that_was_caught_and_dropped_holds_nothing(outlives: bool) -> None:
    """Nor does its traceback, in whose frame the value stands, beyond the next hit that is awaited."""

    class Value:
        pass

    def catch() -> "weakref.ref[Value]":
        value = Value()
        ready = Ready(value) if outlives else None
        with contextlib.suppress(StopIteration):
            next(ready or Ready(value))
        return weakref.ref(value)

    watch = catch()
    if outlives:
        asyncio.run(awaited("another"))
    assert watch() is None


def test_a_cycle_through_it_is_collected() -> None:
    """A value that refers back to its awaitable is garbage like any other."""

    class Value:
        pass

    value = Value()
    value.ready = Ready(value)  # type: ignore[attr-defined]
    watch = weakref.ref(value)
    del value
    gc.collect()
    assert watch() is None


class Loud:
    """A value that runs code when it goes."""

    def __init__(self, then: Callable[[], object]) -> None:
        self.then = then

    def __del__(self) -> None:
        self.then()


def spares() -> list[Any]:
    """The dead ones that wait to serve again."""
    gc.collect()
    return [each for each in gc.get_objects() if type(each) is Ready and gc.get_referents(each) == [None]]


@pytest.mark.parametrize("at_once", [1, 64, 65, 1000])
def test_dead_ones_serve_again_each_with_its_own_value(at_once: int) -> None:
    """Whether fewer or more of them are alive at once than may wait, and none that waits holds a value."""

    class Value:
        pass

    for _ in range(3):
        values = [Value() for _ in range(at_once)]
        ready = [hit(value) for value in values]
        assert len({id(each) for each in ready}) == at_once

        async def main(ready: list[Any] = ready) -> list[Any]:
            return [await each for each in ready]

        assert all(got is value for got, value in zip(asyncio.run(main()), values, strict=True))
        watches = [weakref.ref(value) for value in values]
        del values, ready, main
        assert not any(watch() for watch in watches)
    assert 0 < len(spares()) <= 64


def test_one_that_somebody_found_is_theirs() -> None:
    """The collector shows the ones that wait; who takes hold of one keeps it, and it never gets another value."""
    del (hits := [hit(n) for n in range(8)])[:]
    found = spares()
    assert len(found) >= 8 > len(hits)
    others = [hit(n) for n in range(100)]
    assert not {id(each) for each in found} & {id(each) for each in others}
    assert [asyncio.run(awaited(each)) for each in range(3)] == [0, 1, 2]
    for each in found:
        with pytest.raises(StopIteration) as end:
            next(each)
        assert end.value.value is None


def test_a_value_that_goes_may_await_hits_itself() -> None:
    """More of them than may wait, while the one that held the value is on its way to those."""
    got: list[Any] = []

    def wave() -> None:
        got.append([_value_of(each) for each in [hit(n) for n in range(200)]])

    alive = [hit(Loud(wave)) for _ in range(70)]
    del alive[:]
    alive += [hit(n) for n in range(70)]  # none waits now
    hit(Loud(wave))
    assert got == [list(range(200))] * 71
    assert len(spares()) == 64


def test_the_collector_leaves_alone_what_serves_again() -> None:
    """One that dies with a cycle may serve a hit at once, while the cycle is still being taken apart."""
    kept: list[Any] = []

    # The collector does not track code, so what its end sets off runs in the middle of the collector's work.
    code = compile("pass", "untracked", "exec")
    watch = weakref.ref(code, lambda _: kept.extend(hit(n) for n in range(100)))
    gc.collect()
    alive = [hit(n) for n in range(70)]  # none waits now
    cycle: list[Any] = []
    dying = [Ready(cycle) for _ in range(40)]
    cycle += [code, *dying]  # a list is emptied from its end
    del cycle, dying, code
    gc.collect()
    assert watch() is None
    assert [_value_of(each) for each in alive + kept] == [*range(70), *range(100)]


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="None is not counted any more")
def test_none_is_counted_as_often_up_as_down() -> None:
    """It stands in for the value of one that waits."""
    before = sys.getrefcount(None)
    for _ in range(10_000):
        hit(7)
    assert abs(sys.getrefcount(None) - before) < 100


def _value_of(ready: Any) -> Any:
    try:
        next(ready)
    except StopIteration as end:
        return end.value
