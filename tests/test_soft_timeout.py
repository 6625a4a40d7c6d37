"""soft_timeout: a caller who may have an old value waits so long for a new one; the load goes on and is stored."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from both import FACES
from test_flow import BYPASSES, Gate, in_thread, until

from tiercache import Cache, Policy
from tiercache.testing import MemoryCache, MemoryRedis, SteppedClock

POLICY = Policy(ttl=100, jitter=0, beta=0, stale_if_error=50, soft_timeout=0.01)


@pytest.fixture(params=FACES, ids=lambda face: face.name)
def cache(request: pytest.FixtureRequest, fleet: MemoryRedis) -> Iterator[Any]:
    face = request.param(MemoryCache(fleet, policy=POLICY))
    yield face
    face.close()


def ask(cache: Any, gate: Gate, **policy: Any) -> Any:
    return cache.get_or_load("k", gate, **policy)


@pytest.mark.parametrize("where", ["tier 1", "redis"])
def test_the_old_value_serves_while_the_load_goes_on_and_is_stored(cache: Any, clock: SteppedClock, where: str) -> None:
    """The caller leaves with the old value, flagged and counted; the next one finds the new."""
    gate = Gate("new")
    cache.set("k", "old")
    if where == "redis":
        cache.clear_local()
    clock.step(120)
    assert ask(cache, gate) == "old"
    assert gate.running.wait(20)
    assert cache.stats()["stale_served"] == 1
    gate.go.set()
    until(lambda: cache.get("k") == "new")
    cache.clear_local()
    assert cache.get("k") == "new"
    assert gate.runs == 1
    assert not any(cache.stats()[name] for name in (*BYPASSES, "soft_timeouts_skipped", "loads_abandoned"))


@pytest.mark.parametrize("old", ["none", "too old", "invalidated softly"])
def test_without_an_old_value_that_may_serve_it_waits_on(cache: Any, clock: SteppedClock, old: str) -> None:
    """A cold key, one past its horizon, and one that is kept for failures alone."""
    gate = Gate("new")
    if old != "none":
        cache.set("k", "old")
    if old == "too old":
        clock.step(151)
    if old == "invalidated softly":
        cache.invalidate("k", keep_stale=True)
    threading.Timer(0.2, gate.go.set).start()
    assert ask(cache, gate) == "new"
    assert cache.stats()["stale_served"] == 0


def test_a_cold_load_stays_in_its_callers_frame(fleet: MemoryRedis) -> None:
    """A sync load leaves the caller's thread only where there is an old value to leave with."""
    cache, threads = MemoryCache(fleet, policy=POLICY), []
    cache.get_or_load("k", lambda: threads.append(threading.current_thread()))
    assert threads == [threading.current_thread()]
    cache.close()


def test_a_quick_load_is_waited_for(cache: Any, clock: SteppedClock) -> None:
    """Who gets the new value in time has it."""
    cache.set("k", "old")
    clock.step(120)
    assert cache.get_or_load("k", cache.loader(lambda: "new"), soft_timeout=20) == "new"
    assert cache.stats()["stale_served"] == 0


def test_joiners_leave_too(fleet: MemoryRedis, clock: SteppedClock) -> None:
    """Of thirty callers of one process each gets the old value, and one load runs."""
    cache, gate = MemoryCache(fleet, policy=POLICY), Gate("new")
    cache.set("k", "old")
    cache.clear_local()
    clock.step(120)
    calls = [in_thread(lambda: cache.get_or_load("k", gate)) for _ in range(30)]
    assert [call() for call in calls] == ["old"] * 30
    gate.go.set()
    until(lambda: cache.get("k") == "new")
    assert gate.runs == 1
    assert cache.stats()["stale_served"] == 30
    cache.close()


def test_waiters_of_another_process_leave_too(cache: Any, fleet: MemoryRedis, clock: SteppedClock) -> None:
    """Who waits for a lease that somebody else holds has his own patience."""
    holder, gate = MemoryCache(fleet, policy=POLICY), Gate("new")
    holder.set("k", "old")
    clock.step(120)
    first = in_thread(lambda: holder.get_or_load("k", gate, soft_timeout=None))
    assert gate.running.wait(20)
    assert ask(cache, gate) == "old"
    assert cache.stats()["stale_served"] == 1
    gate.go.set()
    assert first() == "new"
    until(lambda: cache.get("k") == "new")
    assert gate.runs == 1
    holder.close()


def test_a_load_that_fails_behind_is_a_failed_load(cache: Any, clock: SteppedClock) -> None:
    """Its pause begins, and the old value serves through it without another load."""
    gate = Gate(OSError("down"))
    cache.set("k", "old")
    clock.step(120)
    assert ask(cache, gate) == "old"
    gate.go.set()
    until(lambda: cache.get("another") is None and cache.stats()["load_failures"] == 1)  # get lets a loop run
    assert ask(cache, gate) == "old"
    assert gate.runs == 1


def test_with_no_free_thread_the_caller_loads_itself(fleet: MemoryRedis, clock: SteppedClock) -> None:
    """It is counted, and nobody goes without an answer."""
    cache = MemoryCache(fleet, policy=POLICY, refresh_concurrency=1)
    busy, gate = Gate(), Gate("new")
    cache.set_many({"busy": "old", "k": "old"})
    clock.step(120)
    assert cache.get_or_load("busy", busy) == "old"
    assert busy.running.wait(20)
    gate.go.set()
    assert cache.get_or_load("k", gate) == "new"
    assert cache.stats()["soft_timeouts_skipped"] == 1
    busy.go.set()
    cache.close()


def test_refresh_by_the_caller_stays_in_its_frame(fleet: MemoryRedis, clock: SteppedClock) -> None:
    """A loader that needs its caller's frame gets it: the caller waits for it."""
    cache, threads = MemoryCache(fleet, policy=POLICY), []

    def load() -> str:
        threads.append(threading.current_thread())
        return "new"

    cache.set("k", "old")
    clock.step(120)
    assert cache.get_or_load("k", load, refresh="caller") == "new"
    assert threads == [threading.current_thread()]
    cache.close()


def test_refresh_waits_for_its_value(cache: Any, clock: SteppedClock) -> None:
    """Who asks for a new value takes no old one."""
    gate = Gate("new")
    cache.set("k", "old")
    clock.step(120)
    threading.Timer(0.2, gate.go.set).start()
    assert cache.refresh("k", gate) == "new"


def test_an_invalidation_ends_the_old_values_service(fleet: MemoryRedis, clock: SteppedClock) -> None:
    """Who still waits when the key is invalidated gets no value from before it."""
    cache, gate = MemoryCache(fleet, policy=POLICY), Gate("new")
    cache.set("k", "old")
    clock.step(120)
    call = in_thread(lambda: cache.get_or_load("k", gate, soft_timeout=1.0))
    assert gate.running.wait(20)
    cache.invalidate("k")
    threading.Timer(1.5, gate.go.set).start()
    assert call() == "new"
    assert cache.stats()["stale_served"] == 0
    cache.close()


def test_what_interrupts_the_loader_reaches_its_caller(fleet: MemoryRedis, clock: SteppedClock) -> None:
    """A SystemExit on a refresh thread ends nothing; the caller loads again, in his own frame."""
    cache, runs = MemoryCache(fleet, policy=POLICY), []

    def load() -> Any:
        runs.append(threading.current_thread())
        raise SystemExit(3)

    cache.set("k", "old")
    clock.step(120)
    with pytest.raises(SystemExit):
        cache.get_or_load("k", load, soft_timeout=20)
    assert len(runs) == 2
    assert runs[1] is threading.current_thread()
    cache.close()


def test_a_loader_that_nobody_awaits_any_more_is_not_cancelled(fleet: MemoryRedis, clock: SteppedClock) -> None:
    """An async load goes on after its last caller has left with the old value, whatever on_abandon says."""
    cache = MemoryCache(fleet, policy=POLICY)
    cache.set("k", "old")
    clock.step(120)

    async def main() -> None:
        go = asyncio.Event()

        async def load() -> str:
            await go.wait()
            return "new"

        assert await cache.aget_or_load("k", load) == "old"
        go.set()
        async with asyncio.timeout(20):
            while await cache.aget("k") != "new":
                await asyncio.sleep(0.001)
        await cache.aclose()

    asyncio.run(main())
    assert cache.stats()["loads_abandoned"] == 0


@pytest.mark.parametrize("shared", [True, False])
def test_it_holds_while_redis_can_not_be_asked(make_cache: Callable[..., Cache], shared: bool) -> None:
    """A load around the lease, and one without Redis at all, are left behind as well."""
    cache = make_cache("redis://127.0.0.1:1" if shared else None, policy=Policy(jitter=0, soft_timeout=0.05))
    gate = Gate("new")
    cache.get_or_load("k", lambda: "old", ttl=0.05, stale_if_error=60)
    threading.Event().wait(0.1)
    assert cache.get_or_load("k", gate, ttl=0.05, stale_if_error=60) == "old"
    gate.go.set()
    until(lambda: cache.table.peek("k").value == "new")  # type: ignore[union-attr]
    assert gate.runs == 1
