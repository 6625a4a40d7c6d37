"""Refresh ahead: what is popular is renewed before its end without a request, by one of the fleet, while it is so."""

import asyncio
import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from test_flow import BYPASSES, Gate, until

from tiercache import Policy, ahead
from tiercache.events import EarlyRefresh, Event
from tiercache.testing import MemoryCache, MemoryRedis, SteppedClock

POLICY = Policy(ttl=100, jitter=0, beta=0, stale_if_error=50, local_ttl=1e6, hot_rate=1, half_life=10)


class Process:
    """One process of the fleet, whose callers are threads, or tasks of a loop on a thread of its own."""

    def __init__(self, fleet: MemoryRedis, colour: str, **settings: Any) -> None:
        self.cache = MemoryCache(fleet, **{"policy": POLICY, **settings})
        self.clock: Any = fleet.clock
        self.loop = asyncio.new_event_loop() if colour == "async" else None
        if self.loop is not None:
            threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def ask(self, loader: Callable[[], Any], key: str = "k", **policy: Any) -> Any:
        if self.loop is None:
            return self.cache.get_or_load(key, loader, **policy)
        return self.run(self.cache.aget_or_load(key, loader, **policy))

    def run(self, awaitable: Any) -> Any:
        async def main() -> Any:
            return await awaitable

        assert self.loop is not None
        return asyncio.run_coroutine_threadsafe(main(), self.loop).result(20)

    def stats(self) -> dict[str, int]:
        return self.cache.stats()

    def turn(self, *, ends: bool = True) -> None:
        """Return when everything that is due now has begun, and ended if it can."""
        for _ in range(2):  # what is due may appoint something that is due at once
            done = threading.Event()

            async def job(io: Any, done: threading.Event = done) -> None:
                done.set()

            timer = self.cache._process.node.timer
            timer.appoint(self.clock(), job)
            with timer.changed:
                timer.changed.notify_all()
            assert done.wait(20)
            if self.loop is not None:
                self.run(asyncio.sleep(0))
            if ends:
                until(lambda: not self.refreshing())

    def refreshing(self) -> list[Any]:
        """The flights that were begun ahead and have not ended."""
        return [flight for flight in list(self.cache._process.node.ahead._running) if not flight.settled]

    def kept(self, key: str = "k") -> Any:
        """What tier 1 holds, without a hit."""
        entry = self.cache.table.peek(key)
        return None if entry is None else entry.value

    def holds(self, value: Any) -> None:
        """Return when tier 1 holds this."""
        until(lambda: self.kept() == value)

    def close(self) -> None:
        if self.loop is None:
            self.cache.close()
        elif not self.loop.is_closed():
            self.run(self.cache.aclose())
            self.stop()

    def stop(self) -> None:
        """End the loop."""
        assert self.loop is not None
        self.loop.call_soon_threadsafe(self.loop.stop)
        until(lambda: not self.loop.is_running())  # type: ignore[union-attr]
        self.loop.close()


@pytest.fixture(params=["sync", "async"])
def make(request: pytest.FixtureRequest, fleet: MemoryRedis) -> Iterator[Callable[..., Process]]:
    """Makes processes of one fleet, of one colour."""
    made: list[Process] = []

    def process(**settings: Any) -> Process:
        made.append(Process(fleet, request.param, **settings))
        return made[-1]

    yield process
    for each in made:
        each.close()


def numbers() -> Callable[[], int]:
    """A loader that counts: 1, 2, 3 ..."""
    return itertools.count(1).__next__


def pass_time(
    clock: SteppedClock, seconds: float, *processes: Process, hits: int = 3, key: str = "k", ends: bool = True
) -> None:
    """So many hits in each second, in each process; nothing of it enters the slow path."""
    for _ in range(int(seconds)):
        for process in processes:
            for _ in range(hits):
                assert process.cache.get(key) is not None
        clock.step(1)
        for process in processes:
            process.turn(ends=ends)


def test_what_is_popular_is_renewed_before_its_end_without_a_request(
    make: Callable[..., Process], clock: SteppedClock
) -> None:
    """Again and again: nobody misses and nobody loads in its own call."""
    process, told = make(), list[Event]()
    process.cache.on_event(told.append)
    load = numbers()
    assert process.ask(load) == 1
    for round_ in range(2, 6):
        pass_time(clock, 75, process)
        assert process.kept() == round_ - 1
        pass_time(clock, 25, process)
        process.holds(round_)
    stats = process.stats()
    assert stats["misses"] == 1
    assert stats["refreshes_ahead"] == stats["early_refreshes"] == stats["loads"] - 1 == 4
    assert len([event for event in told if isinstance(event, EarlyRefresh)]) == 4
    assert not any(stats[name] for name in (*BYPASSES, "refreshes_skipped", "load_failures", "joins", "waits"))


def test_what_is_not_popular_enough_ends_as_ever(make: Callable[..., Process], clock: SteppedClock) -> None:
    """An entry that is hit less than `hot_rate` times a second, and one whose calls did not ask for it."""
    process = make()
    process.ask(numbers())
    process.ask(numbers(), "other", refresh_ahead=False)
    for _ in range(100):
        process.cache.get("k")
        clock.step(1.7)
        process.turn()
        for _ in range(5):
            process.cache.get("other")
    assert process.stats()["refreshes_ahead"] == 0
    assert process.stats()["loads"] == 2
    assert process.cache.get("k") is process.cache.get("other") is None


def test_it_stops_by_itself_when_the_item_cools(make: Callable[..., Process], clock: SteppedClock) -> None:
    """The last value that was worth it lives to its end."""
    process = make()
    process.ask(numbers())
    pass_time(clock, 100, process)
    process.holds(2)
    for _ in range(300):
        clock.step(1)
        process.turn()
    assert process.stats()["loads"] == 2


def test_popularity_counts_what_was_hit_lately(make: Callable[..., Process], clock: SteppedClock) -> None:
    """A crowd that has gone 80 seconds ago, eight half-lives, keeps nothing alive."""
    process = make()
    process.ask(numbers())
    pass_time(clock, 5, process, hits=60)
    for _ in range(100):
        clock.step(1)
        process.turn()
    assert process.stats()["loads"] == 1


def test_one_load_in_the_fleet(make: Callable[..., Process], clock: SteppedClock) -> None:
    """Of four processes that all find it popular one loads, and the others read what it has stored."""
    fleet = [make() for _ in range(4)]
    load = numbers()
    for process in fleet:
        assert process.ask(load) == 1
    for round_ in range(2, 7):
        pass_time(clock, 100, *fleet)
        for process in fleet:
            process.holds(round_)
    totals = [process.stats() for process in fleet]
    assert sum(stats["loads"] for stats in totals) == 6
    assert sum(stats["refreshes_ahead"] - stats["busy"] for stats in totals) == 5 * 4  # who was too early comes again
    assert sum(stats["misses"] for stats in totals) == 1
    assert not any(stats[name] for stats in totals for name in (*BYPASSES, "refreshes_skipped", "joins", "waits"))


def test_processes_come_one_after_the_other(fleet: MemoryRedis, clock: SteppedClock) -> None:
    """Their appointments lie before the last moment and within SPREAD of each other, at chance."""
    made = [Process(fleet, "sync") for _ in range(200)]
    load = numbers()
    for process in made:
        process.ask(load)
    times = sorted(process.cache._process.node.ahead._due[0][0] for process in made)
    end = clock() + 100 - ahead.ROOM * 0.001
    assert end - ahead.SPREAD <= times[0] < times[-1] <= end - ahead.SPREAD / 2
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert max(gaps) < 0.25  # uniform over 2.5 seconds: (1 - 0.1)^199 is 8e-10
    for process in made:
        process.close()


def test_a_loader_that_fails_is_given_a_pause_and_the_old_value_stays(
    make: Callable[..., Process], clock: SteppedClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Each failure is counted, they are said once, and once the loader works again all is well."""
    process, outcomes = make(policy=POLICY.override({"error_backoff": 2, "error_backoff_max": 2})), [1]

    def load() -> int:
        if not outcomes:
            raise ConnectionError("the database is away")
        return outcomes.pop()

    assert process.ask(load) == 1
    with caplog.at_level(logging.WARNING, "tiercache"):
        pass_time(clock, 99, process)
    failures = process.stats()["load_failures"]
    assert failures in (1, 2)
    assert process.kept() == 1
    assert caplog.messages == ["The refresh of 'k' fails with ConnectionError: the database is away"]
    outcomes.append(2)
    clock.step(2.5)
    process.turn()
    process.holds(2)
    assert process.stats()["loads"] == failures + 2
    assert process.stats()["misses"] == 1


def test_no_more_than_refresh_concurrency_at_once(make: Callable[..., Process], clock: SteppedClock) -> None:
    """The others have their turn as soon as there is room, before their end."""
    process, permits, lock = make(refresh_concurrency=1), threading.Semaphore(3), threading.Lock()
    running, most, numbered = 0, 0, itertools.count()

    def load() -> object:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        assert permits.acquire(timeout=20)
        with lock:
            running -= 1
        return next(numbered)

    first = {key: process.ask(load, key) for key in "abc"}
    for _ in range(940):
        for key in first:
            process.cache.get(key)
        clock.step(0.1)
        process.turn()
    most = 0
    while clock() < 1099.9:
        clock.step(0.1)
        process.turn(ends=False)
        if process.refreshing():
            permits.release()
            until(lambda: not process.refreshing())
    assert most == 1
    assert all(process.kept(key) != value for key, value in first.items())


def test_callers_never_wait_for_the_loader_also_past_local_ttl(
    make: Callable[..., Process], clock: SteppedClock
) -> None:
    """While the refresh runs the entry is believed to its end: who looked at Redis again would join the load."""
    process, gate = make(policy=POLICY.override({"local_ttl": 99.5})), Gate("new")
    process.ask(lambda: "old")
    ahead_ = process.cache._process.node.ahead
    ahead_._watched["k"] = ahead_._watched["k"]._replace(loader=gate)
    pass_time(clock, 99, process, ends=False)
    assert gate.running.wait(20)
    clock.step(0.75)
    for _ in range(10):
        assert process.ask(lambda: "not run") == "old"
    assert process.stats()["joins"] == 0
    gate.go.set()
    process.holds("new")


def test_what_was_invalidated_or_set_has_no_refresh_of_its_former_value(
    make: Callable[..., Process], clock: SteppedClock
) -> None:
    """Invalidated: nothing to refresh. Set: refreshed near the end of what was set."""
    process, load = make(), numbers()
    process.ask(load)
    pass_time(clock, 50, process)
    process.cache.set("k", "set")
    pass_time(clock, 85, process)
    assert process.kept() == "set"
    assert process.stats()["refreshes_ahead"] == 0
    pass_time(clock, 14, process)
    process.holds(2)
    process.cache.invalidate("k")
    for _ in range(100):
        clock.step(1)
        process.turn()
    assert process.stats()["loads"] == 2


def test_who_has_gone_is_not_called(fleet: MemoryRedis, clock: SteppedClock) -> None:
    """A loop that was closed: its entries are forgotten."""
    process = Process(fleet, "async")
    process.ask(numbers())
    pass_time(clock, 80, process)
    process.stop()
    process.loop = None
    pass_time(clock, 20, process)
    assert process.stats()["refreshes_ahead"] == 0
    assert not process.cache._process.node.ahead._watched
    process.close()


def test_nothing_is_refreshed_after_close(make: Callable[..., Process], clock: SteppedClock) -> None:
    """And no thread stays behind."""
    before = set(threading.enumerate())
    process, gate = make(), Gate()
    gate.go.set()
    process.ask(gate)
    pass_time(clock, 80, process)
    process.close()
    clock.step(19)
    assert gate.runs == 1
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("tiercache-")]


def test_what_is_watched_is_bounded_and_the_popular_stay(
    monkeypatch: pytest.MonkeyPatch, fleet: MemoryRedis, clock: SteppedClock
) -> None:
    """Keys, and appointments too where one key is stored over and over."""
    monkeypatch.setattr(ahead, "MOST", 10)
    process = Process(fleet, "sync")
    process.ask(numbers())
    pass_time(clock, 10, process, hits=5)
    for number in range(100):
        process.ask(lambda: "cold", f"cold{number}")
    watching = process.cache._process.node.ahead
    assert len(watching._watched) == 10
    assert "k" in watching._watched
    for _ in range(1000):
        process.cache.refresh("again", lambda: 1)
    assert len(watching._due) <= 2 * 10 + 100
    process.close()


def test_the_timer_is_asked_once_for_what_comes_next(fleet: MemoryRedis, clock: SteppedClock) -> None:
    """An appointment that an earlier one has overtaken ends when its time comes, and makes no other."""
    process = Process(fleet, "sync")
    process.ask(lambda: 1, ttl=1000)
    for number in range(50):
        process.ask(lambda: 1, f"k{number}", ttl=1.2 - number / 50)
    for _ in range(110):
        clock.step(1)
        process.turn()
    assert len(process.cache._process.node.ahead._watched) == 1
    appointed = [job for _, _, job in process.cache._process.node.timer._appointed]
    assert [each for each in appointed if getattr(each, "__self__", None) is process.cache._process.node.ahead] == [
        process.cache._process.node.ahead._turn
    ]
    process.close()
