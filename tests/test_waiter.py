"""What tasks wait for together stands in for a future, and one call lets all of them go on."""

import asyncio
import contextvars
import gc
import sys
import weakref
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from loops import KINDS, runner_of

from tiercache.local.waiter import Waiter, end_all

name = contextvars.ContextVar("name", default="nobody")


def waiter() -> Waiter:
    loop = asyncio.get_running_loop()
    return Waiter(loop, loop.time() + 60, asyncio.CancelledError)


async def waiting(waiters: list[Waiter], wait: Callable[[Waiter], Coroutine[Any, Any, Any]]) -> list[asyncio.Task[Any]]:
    """A task for each waiter, each of which waits."""
    tasks = [asyncio.ensure_future(wait(each)) for each in waiters]
    await asyncio.sleep(0)
    return tasks


@pytest.fixture(params=KINDS)
def run(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Runs a coroutine on a loop of each kind."""
    with runner_of(request.param) as runner:
        yield runner.run


def test_one_call_lets_all_go_on_in_their_order(run: Any) -> None:
    """When `end_all` returns, every task has taken its step, the first to wait first, each in its own context."""
    went: list[tuple[int, str]] = []

    async def wait(number: int, each: Waiter) -> None:
        name.set(f"task {number}")
        await each
        went.append((number, name.get()))

    async def main() -> None:
        waiters = [waiter() for _ in range(5)]
        tasks = [asyncio.ensure_future(wait(number, each)) for number, each in enumerate(waiters)]
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(end_all, asyncio.get_running_loop(), waiters)
        await asyncio.gather(*tasks)
        assert not waiters

    run(main())
    assert went == [(number, f"task {number}") for number in range(5)]


def test_one_is_cancelled_and_the_others_go_on(run: Any) -> None:
    """A cancelled task hears its message in its next step; nobody else notices."""

    async def wait(each: Waiter) -> str:
        try:
            await each
        except asyncio.CancelledError as error:
            return f"cancelled: {error}"
        return "woken"

    async def main() -> None:
        waiters = [waiter() for _ in range(3)]
        tasks = await waiting(waiters, wait)
        tasks[1].cancel("enough")
        assert await tasks[1] == "cancelled: enough"
        assert [each.done() for each in waiters] == [False, True, False]
        asyncio.get_running_loop().call_soon(end_all, asyncio.get_running_loop(), waiters)
        assert await tasks[0] == await tasks[2] == "woken"

    run(main())


def test_who_is_cancelled_after_the_end_is_cancelled(run: Any) -> None:
    """Between the end and the step of its task, a cancellation is the task's own to remember."""

    async def wait(each: Waiter) -> None:
        await each
        await asyncio.sleep(60)

    async def main() -> None:
        one = waiter()
        [task] = await waiting([one], wait)
        one.end()
        assert not one.cancel()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


def test_who_is_cancelled_before_it_waits_never_waits(run: Any) -> None:
    """A task that is to be cancelled at its next wait is cancelled there."""

    async def wait() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await waiter()

    async def main() -> None:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.ensure_future(wait())

    run(main())


def test_who_comes_after_the_end_does_not_wait(run: Any) -> None:
    """Awaiting what has ended goes on at once."""

    async def main() -> None:
        one = waiter()
        one.end()
        await one
        two = waiter()
        end_all(asyncio.get_running_loop(), [two])
        await two
        assert [one.done(), two.done()] == [True, True]

    run(main())


def test_the_end_alone_wakes_its_task(run: Any) -> None:
    """As when it has waited long enough; twice is once."""

    async def wait(each: Waiter) -> str:
        await each
        return "woken"

    async def main() -> None:
        one, two = waiters = [waiter(), waiter()]
        first, second = await waiting(waiters, wait)
        one.end()
        one.end()
        assert await first == "woken"
        assert not second.done()
        end_all(asyncio.get_running_loop(), waiters[:1])  # has nothing left to do
        two.end()
        assert await second == "woken"

    run(main())


def test_an_interrupt_leaves_nobody_waiting(run: Any) -> None:
    """What a task lets through comes out of the call; those after it go on in the next turn."""
    reached: list[str] = []

    async def interrupted(each: Waiter) -> None:
        await each
        raise SystemExit("of a task")

    async def wait(each: Waiter) -> None:
        await each
        reached.append("after it")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        waiters = [waiter(), waiter()]
        tasks = [asyncio.ensure_future(interrupted(waiters[0])), asyncio.ensure_future(wait(waiters[1]))]
        await asyncio.sleep(0)
        caught = loop.create_future()

        def end() -> None:
            try:
                end_all(loop, waiters)
            except SystemExit as error:
                caught.set_result((str(error), len(reached)))

        loop.call_soon(end)
        assert await caught == ("of a task", 0)
        await tasks[1]
        assert isinstance(tasks[0].exception(), SystemExit)

    run(main())
    assert reached == ["after it"]


def test_its_value_or_its_error_is_the_tasks(run: Any) -> None:
    """What is awaited gives the value, or raises the error, whether it had ended before or not."""

    async def wait(each: Waiter) -> Any:
        return await each

    async def main() -> None:
        waiters = [waiter() for _ in range(4)]
        waiters[0].value = waiters[1].value = (1, 2)
        waiters[0].end()
        waiters[2].fail(OSError("no answer"))
        tasks = await waiting(waiters, wait)
        waiters[3].fail(OSError("no answer"))
        waiters[3].fail(OSError("is told once"))
        waiters[1].end()
        for task in tasks[:2]:
            assert await task == (1, 2)
        for task in tasks[2:]:
            with pytest.raises(OSError, match="no answer"):
                await task

    run(main())


def test_nothing_is_held_when_it_is_over() -> None:
    """A task and what it waited for are gone without the garbage collector, woken or cancelled."""
    gone: list[weakref.ref[Any]] = []

    class Mark:
        pass

    async def wait(each: Waiter) -> None:
        mark = Mark()
        gone.append(weakref.ref(mark))
        await each

    async def main() -> None:
        waiters = [waiter(), waiter()]
        tasks = await waiting(waiters, wait)
        waiters[0].end()
        tasks[1].cancel()
        await asyncio.wait(tasks)
        del tasks, waiters
        await asyncio.sleep(0)

    gc.collect()
    gc.disable()
    try:
        asyncio.run(main())
        assert [each() for each in gone] == [None, None]
    finally:
        gc.enable()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_an_eager_task_waits() -> None:
    """One that begins to wait before the loop knows of it is woken like any other."""

    async def wait(each: Waiter) -> str:
        await each
        return "woken"

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
        one = waiter()
        task = asyncio.ensure_future(wait(one))
        loop.call_soon(end_all, loop, [one])
        assert await task == "woken"

    asyncio.run(main())
