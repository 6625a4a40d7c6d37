"""Many threads, and loops among them, on one table and on one cache, with the interpreter switching all the time."""

import asyncio
import random
import re
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cachetools
import pytest

from tiercache import Cache, LoadFailed, Policy
from tiercache.local.face import Face
from tiercache.local.flight import Flight
from tiercache.local.table import Mode, Table, Verdict

HIT, DUE, LEAD, JOIN, ALONE = map(int, Verdict)
LOAD, READ, FORCE, WRITE, VERIFY, _ = map(int, Mode)
DEADLINE = 60.0
KEYS = "abcdefgh"
PATIENT: dict[str, Any] = {"connect_timeout": 30.0, "call_timeout": 30.0, "call_budget": 60.0}


@pytest.fixture
def together() -> Iterator[Callable[[int, Callable[[int], object]], None]]:
    """Runs work(0), work(1), ... in threads that start together; raises what the first one to fail raised."""

    def run(threads: int, work: Callable[[int], object]) -> None:
        failures: list[BaseException] = []
        barrier = threading.Barrier(threads)

        def guarded(seed: int) -> None:
            try:
                barrier.wait(DEADLINE)
                work(seed)
            except BaseException as error:
                failures.append(error)

        running = [threading.Thread(target=guarded, args=(seed,)) for seed in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        if failures:
            raise failures[0]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield run
    sys.setswitchinterval(interval)


class Waker:
    """A turnstile that notes how often it was called."""

    def __init__(self) -> None:
        self.calls = 0
        self.gate = threading.Lock()
        self.gate.acquire()

    def __call__(self) -> None:
        self.calls += 1
        self.gate.release()

    def wait(self) -> bool:
        if not self.gate.acquire(timeout=DEADLINE):
            return False
        self.gate.release()
        return True


class Short(Face):
    """Answers hits, and None instead of the long way."""

    def _get(self, key: str, default: Any) -> Any:
        return default


class Crowd:
    """What the threads do to one table, and what they saw of it."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.face = Short(table, lambda: 0.5)
        self.seen: Counter[str] = Counter()
        self.flights: defaultdict[str, list[Flight]] = defaultdict(list)
        self.ending: set[Flight] = set()
        self.settlements: Counter[Flight] = Counter()
        self.wakers: Counter[Waker] = Counter()
        self.lock = threading.Lock()  # guards the two counters above

    def work(self, seed: int, steps: int) -> None:
        chance = random.Random(seed)
        seen: Counter[str] = Counter()
        for _ in range(steps):
            key = chance.choice(KEYS)
            act = chance.random()
            if act < 0.8:
                self.read(key, chance, seen, seed)
            elif act < 0.9:
                seen["short hits"] += self.face.get(key) is not None
            else:
                self.disturb(key, act, seed)
        with self.lock:
            self.seen.update(seen)

    def read(self, key: str, chance: random.Random, seen: Counter[str], seed: int) -> None:
        now = chance.choice([0.0, 0.9, 1.5])
        mode = chance.choice([LOAD, LOAD, LOAD, READ, FORCE, WRITE, VERIFY])
        verdict, *rest = self.table.probe(key, now, chance.choice([1.0, 1e-9]), 1.0, 1.0, mode)
        if mode != VERIFY:
            seen["hits"] += verdict in (HIT, DUE)
        if verdict in (HIT, DUE) and rest[0] is not None:
            assert rest[0][0] == key
        seen["dues"] += verdict == DUE
        seen["joins"] += verdict == JOIN
        if verdict in (LEAD, DUE):
            seen["led"] += 1
            self.lead(rest[-1], chance)
        elif verdict == JOIN:
            self.follow(rest[0], seed, give_up=chance.random() < 0.05)

    def lead(self, flight: Flight, chance: random.Random) -> None:
        mine = self.flights[flight.key]
        mine.append(flight)
        joinable = [each for each in list(mine) if not each.cut and not each.settled and each not in self.ending]
        assert len(joinable) <= 1, "two flights of one key can be joined"
        if chance.random() < 0.1:
            self.table.cut(flight.key)
        value = (flight.key, chance.random())
        fill = (value, 1.0, 2.0, 10.0, 0.01, 1.0, self.table.stamp(), b"", chance.randrange(1, 40))
        self.settle(flight, value, None if chance.random() < 0.2 else fill)
        assert flight.settled
        mine.remove(flight)

    def settle(self, flight: Flight, value: Any, fill: Any = None) -> None:
        self.ending.add(flight)
        settled = self.table.settle(flight, value, fill)
        with self.lock:
            self.settlements[flight] += settled

    def follow(self, flight: Flight, seed: int, give_up: bool) -> None:
        mine = Waker()
        waker = flight.follow(seed % 5, mine)
        with self.lock:
            self.wakers[mine] += waker is mine
        if waker is not None:
            if give_up:
                self.settle(flight, "too late")
            assert waker.wait(), "nobody woke a follower"
            flight.leave()
        assert flight.settled
        assert flight.outcome is not None

    def disturb(self, key: str, act: float, seed: int) -> None:
        table = self.table
        if act < 0.93:
            table.cut(key)
        elif act < 0.94:
            table.quiet(key, 5.0, 0.5)
        elif act < 0.95:
            table.unquiet(key)
        elif act < 0.96:
            table.cut_all(verified=seed % 2 == 0)
        elif act < 0.965:
            table.cut_flights()
        elif act < 0.97:
            table.clear()
        elif act < 0.98:
            table.count("counted")
        elif act < 0.99:
            assert table.stats()["entries"] <= 6
        elif (entry := table.peek(key)) is not None:
            assert entry.value[0] == entry.key == key


STORES = {"LRU": lambda: None, "LFU": lambda: cachetools.LFUCache(6, getsizeof=None)}


@pytest.mark.parametrize("store", STORES)
def test_a_table_keeps_its_promises_among_many_threads(
    store: str, amount: Callable[[int, int], int], together: Any, record_property: Any
) -> None:
    """One joinable flight per key; each settled once, each waker called once, nobody left waiting; sums add up."""
    table = Table(6, 100 if store == "LRU" else None, STORES[store]())
    crowd = Crowd(table)
    threads, steps = amount(32, 64), amount(2_500, 25_000)
    together(threads, lambda seed: crowd.work(seed, steps))
    assert set(crowd.settlements.values()) == {1}
    assert len(crowd.settlements) >= crowd.seen["led"]
    assert all(waker.calls == registered for waker, registered in crowd.wakers.items())
    assert not any(crowd.flights.values())
    assert crowd.seen["joins"] > 0
    stats = table.stats()
    assert stats["joins"] == crowd.seen["joins"]
    assert stats["early_refreshes"] == crowd.seen["dues"]
    assert stats["hits_local"] == crowd.seen["hits"] + crowd.seen["short hits"]
    entries = [entry for entry in map(table.peek, KEYS) if entry is not None]
    assert stats["entries"] == len(entries) <= 6
    assert stats["bytes"] == sum(entry.weight for entry in entries)
    assert all(table.probe(key, 0.0, mode=LOAD)[0] in (HIT, DUE, LEAD) for key in KEYS), "a flight was left behind"
    record_property("table_operations", threads * steps)


class Fleet:
    """What threads and loops do to one cache whose values say when their load began."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.versions = dict.fromkeys(KEYS, 0)  # invalidations and writes that were begun
        self.ended = dict.fromkeys(KEYS, 0)  # the same that have returned
        self.lock = threading.Lock()  # guards both
        self.calls = 0

    def load(self, key: str) -> tuple[str, int]:
        begun = self.versions[key]
        if begun % 7 == 3:
            raise LookupError(key)
        return key, begun

    def check(self, key: str, value: Any, least: int) -> None:
        assert value[0] == key
        assert value[1] >= least, "a value from before an invalidation that had returned"

    def begin(self, key: str) -> int:
        with self.lock:
            self.versions[key] += 1
            return self.versions[key]

    def end(self, key: str, version: int) -> None:
        with self.lock:
            self.ended[key] = max(self.ended[key], version)

    def work(self, seed: int, steps: int) -> None:
        chance, cache = random.Random(seed), self.cache
        for _ in range(steps):
            key, act = chance.choice(KEYS), chance.random()
            least = self.ended[key]
            try:
                if act < 0.6:
                    self.check(key, cache.get_or_load(key, lambda key=key: self.load(key)), least)
                elif act < 0.7:
                    self.check(key, cache.refresh(key, lambda key=key: self.load(key)), least)
                elif act < 0.8:
                    for each, value in cache.get_many(list(KEYS)).items():
                        assert value[0] == each
                elif act < 0.9:
                    version = self.begin(key)
                    cache.invalidate(key)
                    self.end(key, version)
                elif act < 0.95:
                    cache.clear_local()
                elif (value := cache.get(key)) is not None:
                    self.check(key, value, least)
            except (LookupError, LoadFailed):
                pass

    async def task(self, seed: int, steps: int) -> None:
        chance, cache = random.Random(seed), self.cache
        for _ in range(steps):
            key, act = chance.choice(KEYS), chance.random()
            least = self.ended[key]

            async def load(key: str = key) -> tuple[str, int]:
                await asyncio.sleep(0)
                return self.load(key)

            try:
                if act < 0.8:
                    self.check(key, await cache.aget_or_load(key, load), least)
                elif act < 0.9:
                    version = self.begin(key)
                    await cache.ainvalidate(key)
                    self.end(key, version)
                elif (value := await cache.aget(key)) is not None:
                    self.check(key, value, least)
            except (LookupError, LoadFailed):
                pass

    def loop(self, seed: int, steps: int, tasks: int = 4) -> None:
        async def main() -> None:
            await asyncio.gather(*[self.task(seed * tasks + n, steps // tasks) for n in range(tasks)])

        asyncio.run(main())


@pytest.mark.parametrize("tiers", [1, 2])
def test_a_cache_keeps_its_promises_among_threads_and_loops(
    make_cache: Callable[..., Cache], tiers: int, amount: Callable[[int, int], int], together: Any, record_property: Any
) -> None:
    """No call that begins after an invalidation returned gets what was loaded before it; nobody waits for ever."""
    policy = Policy(ttl=0.05, stale_if_error=0, error_backoff=0.001, error_backoff_max=0.001, lease=30)
    where = {} if tiers == 2 else {"url": None}
    fleet = Fleet(make_cache(**where, **PATIENT, max_entries=6, policy=policy))
    threads, steps = amount(16, 32), amount(1_000, 10_000)
    together(threads, lambda seed: (fleet.loop if seed % 4 == 0 else fleet.work)(seed, steps))
    stats = fleet.cache.stats()
    bypasses = {name: n for name, n in stats.items() if name.startswith("bypass_") and n}
    assert not bypasses
    assert stats["loads"] <= stats["grants"]
    assert stats["leases_lost"] == stats["loads_overdue"] == stats["dead_wakers"] == 0
    assert stats["loads"] > 0
    record_property("cache_operations", threads * steps)


def test_no_module_claims_to_run_without_the_gil() -> None:
    """Free-threaded interpreters are not supported yet: importing a module there switches the GIL on again."""
    sources = [
        *Path(__file__).parent.parent.joinpath("tiercache").rglob("*.p[yx]*"),
        Path(__file__).parents[1] / "setup.py",
    ]
    assert sources
    for source in sources:
        if source.suffix in (".py", ".pyx", ".pxd"):
            assert not re.search(r"freethreading_compatible\s*=\s*True|Py_MOD_GIL_NOT_USED", source.read_text())


@pytest.mark.parametrize("tiers", [1, 2])
def test_a_load_that_fails_after_an_invalidation_brings_no_old_value_back(
    make_cache: Callable[..., Cache], tiers: int
) -> None:
    """What the failed load had seen before the invalidation serves nobody after it, stale-if-error or not."""
    cache = make_cache(**({} if tiers == 2 else {"url": None}), **PATIENT)
    cache.set("k", "old")
    running, go_on = threading.Event(), threading.Event()

    def load() -> str:
        running.set()
        assert go_on.wait(DEADLINE)
        raise LookupError("k")

    with ThreadPoolExecutor(1) as pool:
        refresh = pool.submit(cache.refresh, "k", load)
        assert running.wait(DEADLINE)
        cache.invalidate("k")
        go_on.set()
        assert isinstance(refresh.exception(DEADLINE), LookupError)
    try:
        assert cache.get_or_load("k", lambda: "new") == "new"
    except LookupError:
        pass  # its cooldown has not ended
    assert cache.get("k") in (None, "new")
