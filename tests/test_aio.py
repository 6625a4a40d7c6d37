"""Tasks, loops and threads on one flight, and every way a caller can leave."""

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from test_flow import Gate, in_thread, until

from tiercache import Cache, CacheClosed, LoadTimeout, Policy
from tiercache.testing import MemoryCache, MemoryRedis


class AsyncGate:
    """An async loader that says when it runs and goes on when it is let."""

    def __init__(self, value: Any = 1) -> None:
        self.value = value
        self.runs = 0
        self.cancelled = 0
        self.running = asyncio.Event()
        self.go = asyncio.Event()

    async def __call__(self) -> Any:
        self.runs += 1
        self.running.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return self.value


async def joined(cache: Cache, count: int) -> None:
    """Wait until so many callers wait for a flight."""
    for _ in range(4000):
        if cache.stats()["joins"] >= count:
            return
        await asyncio.sleep(0.002)
    raise AssertionError("they did not join")


def test_the_waiters_of_one_flight_end_each_in_its_own_time() -> None:
    """Whoever waits briefly is told in time, whether he came before or after the patient ones, who get the value."""

    async def main() -> None:
        async with Cache() as cache:
            gate = AsyncGate("value")
            patient = [asyncio.ensure_future(cache.aget_or_load("k", gate, timeout=60))]
            await gate.running.wait()
            for timeout in (0.2, 60, 0.05, 0.1):
                waiting = asyncio.ensure_future(cache.aget_or_load("k", gate, timeout=timeout))
                if timeout == 60:
                    patient.append(waiting)
                    continue
                with pytest.raises(LoadTimeout):
                    await asyncio.wait_for(waiting, 30)
            brief = [asyncio.ensure_future(cache.aget_or_load("k", gate, timeout=each)) for each in (0.1, 0.05, 0.15)]
            for each in brief:
                with pytest.raises(LoadTimeout):
                    await asyncio.wait_for(each, 30)
            assert not any(each.done() for each in patient)
            gate.go.set()
            assert await asyncio.gather(*patient) == ["value", "value"]
            assert gate.runs == 1

    asyncio.run(main())


def test_a_refresh_by_the_caller_keeps_the_callers_timeout() -> None:
    """Its value is at hand: after `timeout` it has that, while the load goes on for the others."""

    async def main() -> None:
        policy = Policy(ttl=0.01, jitter=0, beta=0, stale_while_revalidate=60, refresh="caller", timeout=0.05)
        cache, gate = MemoryCache(policy=policy), AsyncGate("new")
        await cache.aset("k", "old")
        while cache.table.peek("k").fresh > cache._process.node.now():
            await asyncio.sleep(0.005)
        async with asyncio.timeout(30):
            assert await cache.aget_or_load("k", gate) == "old"
        assert gate.runs == 1
        await cache.aclose()

    asyncio.run(main())


def test_tasks_share_one_load() -> None:
    """A hundred tasks, one run of the loader."""

    async def main() -> None:
        cache, gate = MemoryCache(), AsyncGate()
        tasks = [asyncio.create_task(cache.aget_or_load("k", gate)) for _ in range(100)]
        await joined(cache, 99)
        gate.go.set()
        assert await asyncio.gather(*tasks) == [1] * 100
        assert gate.runs == 1
        await cache.aclose()

    asyncio.run(main())


def test_a_cancelled_caller_takes_the_result_from_nobody() -> None:
    """The caller that started the load is cancelled; the others get its value."""

    async def main() -> None:
        cache, gate = MemoryCache(), AsyncGate()
        first = asyncio.create_task(cache.aget_or_load("k", gate))
        await gate.running.wait()
        others = [asyncio.create_task(cache.aget_or_load("k", gate)) for _ in range(10)]
        await joined(cache, 10)
        first.cancel()
        others[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        gate.go.set()
        assert await asyncio.gather(*others[1:]) == [1] * 9
        assert (gate.runs, gate.cancelled) == (1, 0)
        await cache.aclose()

    asyncio.run(main())


def test_who_never_awaits_a_call_is_warned_once_and_in_its_own_name(recwarn: pytest.WarningsRecorder) -> None:
    """As of any coroutine; nothing of our inside shows."""
    with MemoryCache() as cache:
        cache.aget_or_load("k", AsyncGate())
    assert [str(each.message) for each in recwarn] == ["coroutine 'Cache.aget_or_load' was never awaited"]


def test_a_task_that_ends_the_program_leaves_nobody_waiting() -> None:
    """SystemExit in one of those that a load lets go on stops the loop; when it runs again, the others go on."""
    went: list[int] = []
    cache, gate = MemoryCache(), AsyncGate()

    async def call(number: int) -> None:
        await cache.aget_or_load("k", gate)
        went.append(number)
        if number == 3:
            raise SystemExit(number)

    async def main() -> list[asyncio.Task[None]]:
        tasks = [asyncio.create_task(call(number)) for number in range(10)]
        await joined(cache, 9)
        gate.go.set()
        return tasks

    async def rest(tasks: list[asyncio.Task[None]]) -> None:
        async with asyncio.timeout(20):
            await asyncio.wait(tasks)
        await cache.aclose()

    with asyncio.Runner() as runner:
        tasks = runner.run(main())
        with pytest.raises(SystemExit):
            runner.run(asyncio.sleep(60))
        runner.run(rest(tasks))
    assert sorted(went) == list(range(10))


def test_who_followed_a_load_that_ended_without_answer_asks_again() -> None:
    """The task that loads is cancelled from outside; those who followed it load once more, together."""

    async def main() -> None:
        cache, gate, again = MemoryCache(), AsyncGate(), AsyncGate()
        first = asyncio.create_task(cache.aget_or_load("k", gate))
        await gate.running.wait()
        others = [asyncio.create_task(cache.aget_or_load("k", again)) for _ in range(10)]
        await joined(cache, 10)
        for task in cache._process.loops().tasks:
            task.cancel()
        async with asyncio.timeout(20):
            await again.running.wait()
        again.go.set()
        assert await asyncio.gather(*others) == [1] * 10
        assert again.runs == 1
        with pytest.raises(asyncio.CancelledError):
            await first
        await cache.aclose()

    asyncio.run(main())


def test_a_load_that_nobody_waits_for_is_cancelled() -> None:
    """When the last caller has left, the lease goes back and the next caller loads at once."""

    async def main() -> None:
        fleet = MemoryRedis()
        cache, other, gate = MemoryCache(fleet), MemoryCache(fleet), AsyncGate()
        calls = [asyncio.create_task(cache.aget_or_load("k", gate)) for _ in range(3)]
        await gate.running.wait()
        await joined(cache, 2)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert await other.aget_or_load("k", lambda: 2) == 2
        assert gate.cancelled == cache.stats()["loads_abandoned"] == 1
        await cache.aclose()
        await other.aclose()

    asyncio.run(main())


def test_an_abandoned_load_may_finish() -> None:
    """on_abandon="finish" keeps it running and stores what it gives."""

    async def main() -> None:
        cache, gate = MemoryCache(), AsyncGate()
        call = asyncio.create_task(cache.aget_or_load("k", gate, on_abandon="finish"))
        await gate.running.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        gate.go.set()
        for _ in range(1000):
            if cache.get("k") == 1:
                break
            await asyncio.sleep(0.002)
        assert cache.get("k") == 1
        await cache.aclose()

    asyncio.run(main())


def test_a_thread_and_a_loop_share_one_load() -> None:
    """A sync caller waits for the flight of a task, and a task for that of a thread."""

    async def main() -> None:
        cache, gate = MemoryCache(), AsyncGate()
        task = asyncio.create_task(cache.aget_or_load("k", gate))
        await gate.running.wait()
        result = in_thread(lambda: cache.get_or_load("k", lambda: 0))
        await joined(cache, 1)
        gate.go.set()
        assert await task == 1
        assert await asyncio.to_thread(result) == 1
        blocking = Gate(2)
        result = in_thread(lambda: cache.get_or_load("k2", blocking))
        await asyncio.to_thread(blocking.running.wait, 10)
        task = asyncio.create_task(cache.aget_or_load("k2", gate))
        await joined(cache, 2)
        blocking.go.set()
        assert (await task, await asyncio.to_thread(result)) == (2, 2)
        await cache.aclose()

    asyncio.run(main())


def test_a_sync_call_in_a_coroutine_does_not_deadlock_its_loop() -> None:
    """It loads by itself, counted, because the flight it would wait for runs on this very loop."""

    async def main() -> None:
        cache, gate = MemoryCache(), AsyncGate()
        task = asyncio.create_task(cache.aget_or_load("k", gate))
        await gate.running.wait()
        assert cache.get_or_load("k", lambda: "own") == "own"
        assert cache.stats()["bypass_loop"] == 1
        gate.go.set()
        assert await task == 1
        await cache.aclose()

    asyncio.run(main())


def test_a_sync_loader_of_an_async_call_runs_on_a_thread_with_the_callers_context() -> None:
    """The loop goes on, and context variables are there."""
    user = contextvars.ContextVar("user", default="nobody")

    async def main() -> None:
        cache = MemoryCache()
        user.set("ada")
        where: list[Any] = []

        def load() -> str:
            where.append(threading.current_thread())
            return user.get()

        assert await cache.aget_or_load("k", load) == "ada"
        assert where[0] is not threading.current_thread()
        assert where[0].daemon
        await cache.aclose()

    asyncio.run(main())


def test_a_loader_that_returns_an_awaitable_is_awaited() -> None:
    """`lambda: fetch(1)` works in an async call."""

    async def fetch(number: int) -> int:
        await asyncio.sleep(0)
        return number

    async def main() -> None:
        cache = MemoryCache()
        assert await cache.aget_or_load("k", lambda: fetch(1)) == 1
        await cache.aclose()

    asyncio.run(main())


def test_an_async_loader_in_a_sync_call_is_a_type_error() -> None:
    """Whether it is known before the call or only by what it returns; no coroutine is left un-awaited."""

    async def fetch() -> int:
        return 1

    cache = MemoryCache()
    with pytest.raises(TypeError, match="async"):
        cache.get_or_load("k", fetch)
    with pytest.raises(TypeError, match="async"):
        cache.get_or_load("k2", lambda: fetch())


def test_the_loaders_own_cancellation_reaches_its_caller() -> None:
    """A loader that is cancelled from inside does not run for ever in turn."""

    async def main() -> None:
        cache = MemoryCache()
        runs = []

        async def load() -> None:
            runs.append(1)
            raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(cache.aget_or_load("k", load), 10)
        assert len(runs) == 1
        await cache.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("loader", ["async", "thread"])
def test_a_stop_iteration_becomes_an_error(loader: str) -> None:
    """A coroutine can't raise it; the caller gets a RuntimeError and nothing hangs."""

    async def stop() -> None:
        raise StopIteration

    def stop_in_thread() -> None:
        raise StopIteration

    async def main() -> None:
        cache = MemoryCache()
        with pytest.raises(RuntimeError, match="StopIteration"):
            await asyncio.wait_for(cache.aget_or_load("k", stop if loader == "async" else stop_in_thread), 10)
        await cache.aclose()

    asyncio.run(main())


def test_an_async_load_past_max_load_is_cancelled() -> None:
    """Its callers get LoadTimeout and the next caller may load."""

    async def main() -> None:
        cache, gate = MemoryCache(), AsyncGate()
        calls = [cache.aget_or_load("k", gate, lease=0.1, max_load=0.2) for _ in range(5)]
        for ended in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(ended, LoadTimeout)
            assert "max_load" in str(ended)
        assert gate.runs == cache.stats()["loads_overdue"] == 1
        for _ in range(1000):
            if gate.cancelled:
                break
            await asyncio.sleep(0.002)
        assert gate.cancelled == 1
        assert await cache.aget_or_load("k", lambda: 2) == 2
        await cache.aclose()

    asyncio.run(main())


def test_a_caller_with_a_timeout_leaves_and_the_load_goes_on() -> None:
    """timeout is the caller's alone."""

    async def main() -> None:
        cache, gate = MemoryCache(), AsyncGate()
        patient = asyncio.create_task(cache.aget_or_load("k", gate))
        await gate.running.wait()
        with pytest.raises(LoadTimeout):
            await cache.aget_or_load("k", gate, timeout=0.05)
        gate.go.set()
        assert await patient == 1
        await cache.aclose()

    asyncio.run(main())


def test_a_stale_value_is_served_while_a_task_refreshes_it() -> None:
    """The refresh is a task of the loop, behind the caller."""

    async def main() -> None:
        cache = MemoryCache(policy=Policy(ttl=0.05, jitter=0, beta=0, stale_while_revalidate=60))
        await cache.aget_or_load("k", lambda: "old")
        while cache.table.peek("k").fresh > cache._process.node.now():
            await asyncio.sleep(0.01)
        gate = AsyncGate("new")
        assert await cache.aget_or_load("k", gate) == "old"
        await gate.running.wait()
        gate.go.set()
        for _ in range(1000):
            if cache.get("k") == "new":
                break
            await asyncio.sleep(0.002)
        assert gate.runs == 1
        await cache.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["redis", "memory"])
def test_one_cache_serves_many_loops_and_threads(kind: str, make_cache: Callable[..., Cache]) -> None:
    """A cache made at import time, used by several asyncio.run in turn and at once, and by threads."""
    cache = make_cache() if kind == "redis" else MemoryCache()
    runs: list[str] = []

    async def load(key: str) -> str:
        runs.append(key)
        await asyncio.sleep(0.01)
        return key

    async def main(key: str) -> list[str]:
        return await asyncio.gather(*[cache.aget_or_load(key, lambda: load(key)) for _ in range(20)])

    for key in ("a", "b"):
        assert asyncio.run(main(key)) == [key] * 20
    results = [in_thread(lambda: asyncio.run(main("c"))) for _ in range(4)]
    results.append(in_thread(lambda: [cache.get_or_load("c", lambda: runs.append("c") or "c")]))
    assert {value for result in results for value in result()} == {"c"}
    assert sorted(runs) == ["a", "b", "c"]


def test_a_loop_that_ends_with_a_load_in_flight_leaves_no_waiter_behind() -> None:
    """asyncio.run cancels the load; a thread that waited for it elects again."""
    cache = MemoryCache()
    running = threading.Event()

    async def main() -> None:
        async def load() -> None:
            running.set()
            await asyncio.Event().wait()

        call = asyncio.create_task(cache.aget_or_load("k", load))
        await asyncio.to_thread(until, lambda: cache.stats()["joins"] == 1)
        del call

    loop = in_thread(lambda: asyncio.run(main()))
    assert running.wait(10)
    waiter = in_thread(lambda: cache.get_or_load("k", lambda: "again"))
    loop()
    assert waiter() == "again"


def test_a_closed_cache_says_so() -> None:
    """Use after close is CacheClosed, in both colours, also for keys that were cached."""

    async def main() -> None:
        cache = MemoryCache()
        cache.set("k", 1)
        await cache.aclose()
        for call in (lambda: cache.get("k"), lambda: cache.set("k", 1), lambda: cache.get_or_load("k", lambda: 1)):
            with pytest.raises(CacheClosed):
                call()
        for acall in (lambda: cache.aget("k"), lambda: cache.aset("k", 1), lambda: cache.ainvalidate("k")):
            with pytest.raises(CacheClosed):
                await acall()
        await cache.aclose()

    asyncio.run(main())


def test_around_load_shares_its_context_with_the_loader() -> None:
    """What it sets in a context variable is there in the loader, on a thread too."""
    app = contextvars.ContextVar("app", default="none")

    @contextlib.contextmanager
    def around() -> Iterator[None]:
        entered = app.set("pushed")
        yield
        app.reset(entered)

    async def load() -> str:
        return app.get()

    async def main() -> None:
        cache = MemoryCache(around_load=around)
        assert await cache.aget_or_load("thread", app.get) == "pushed"
        assert await cache.aget_or_load("task", load) == "pushed"
        await cache.aclose()

    asyncio.run(main())


def test_around_load_is_entered_where_the_loader_leaves_its_callers_frame() -> None:
    """Not for a sync caller's own load; for threads and tasks it is."""
    entered: list[str] = []

    class Around:
        def __enter__(self) -> None:
            entered.append("in")

        def __exit__(self, *exc: object) -> None:
            entered.append("out")

    async def main() -> None:
        async def load() -> int:
            assert entered[-1] == "in"
            return 2

        assert await cache.aget_or_load("task", load) == 2
        assert await cache.aget_or_load("thread", lambda: entered[-1]) == "in"
        await cache.aclose()

    cache = MemoryCache(around_load=Around)
    cache.get_or_load("own", lambda: 1)
    assert entered == []
    asyncio.run(main())
    assert entered == ["in", "out"] * 2
