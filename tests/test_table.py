"""The table: five answers to a probe, one settlement of a flight, the fence, epochs, quiet; and foreign stores."""

import gc
import math
import random
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import cachetools
import pytest

from tiercache.local.face import Face
from tiercache.local.flight import Flight
from tiercache.local.store import Entry
from tiercache.local.table import Mode, Raises, Table, Verdict

HIT, DUE, LEAD, JOIN, ALONE = map(int, Verdict)
LOAD, READ, FORCE, WRITE, VERIFY, _ = map(int, Mode)
NEVER = math.inf
SURE = math.exp(-20.9)  # a draw that falls anywhere in the window


def fill(
    value: Any,
    *,
    fresh: float = 100.0,
    hard: float | None = None,
    verify: float = NEVER,
    delta: float = 0.0,
    beta: float = 1.0,
    epoch: int = 1,
    id: bytes = b"",
    weight: int = 0,
) -> tuple[Any, ...]:
    return (value, fresh, fresh if hard is None else hard, verify, delta, beta, epoch, id, weight)


def put(table: Table, key: str, value: Any, **ends: Any) -> None:
    flight = table.probe(key, 0.0, mode=FORCE)[-1]
    assert table.settle(flight, value, fill(value, **{"epoch": table.stamp(), **ends}))


@pytest.fixture
def table() -> Table:
    return Table()


# What happens in any order is in test_table_machine.py.

# Boundaries: an end is the first moment at which something no longer holds.


@pytest.mark.parametrize(
    ("now", "verdict"),
    [(31.999, HIT), (32.0, LEAD), (33.0, LEAD)],
)
def test_an_entry_is_verified_until_its_verify_end(table: Table, now: float, verdict: int) -> None:
    """At the verify end, and not before, a read starts a flight."""
    put(table, "k", 1, fresh=64.0, verify=32.0)
    assert table.probe("k", now)[0] == verdict


@pytest.mark.parametrize(
    ("now", "swr", "verdict"),
    [
        (63.999, 0.0, HIT),
        (64.0, 0.0, LEAD),
        (64.0, 16.0, DUE),
        (79.999, 16.0, DUE),
        (80.0, 16.0, LEAD),
        (95.999, 64.0, DUE),
        (96.0, 64.0, LEAD),
    ],
)
def test_an_entry_serves_until_its_fresh_end_and_then_stale_as_long_as_the_caller_allows(
    table: Table, now: float, swr: float, verdict: int
) -> None:
    """Past its fresh end a value is only served with a refresh behind it, within swr and the hard end."""
    put(table, "k", 1, fresh=64.0, hard=96.0)
    assert table.probe("k", now, swr=swr)[0] == verdict
    assert table.probe("k", now, swr=swr, mode=READ)[0] == {HIT: HIT, DUE: HIT, LEAD: ALONE}[verdict]


def test_nothing_is_served_at_its_hard_end(table: Table) -> None:
    """At the hard end the entry is gone for everybody, whatever they allow."""
    put(table, "k", 1, fresh=64.0, hard=96.0)
    table.quiet("k", 1000.0, 65.0)
    assert table.probe("k", 95.999, swr=1e9)[0] == HIT
    assert table.probe("k", 96.0, swr=1e9)[0] == LEAD
    assert table.stats()["entries"] == 0


def test_a_hard_end_before_the_fresh_end_wins() -> None:
    """Even a record that claims to be fresh for longer than it lives is not served past its hard end."""
    now = 0.0
    table = Table()
    face = Face(table, lambda: now)
    put(table, "k", 1, fresh=64.0, hard=32.0)
    assert face.get("k") == 1
    now = 32.0
    with pytest.raises(AttributeError):  # the long way
        face.get("k")
    assert table.probe("k", 32.0)[0] == LEAD


def test_the_ends_of_an_entry_are_readable(table: Table) -> None:
    """An entry shows what it was filled with; ends may be early by 2**-23 of their distance, never late."""
    put(table, "k", "v", fresh=1000.1, hard=1060.3, verify=1030.7, delta=0.5, id=b"\0\0\0\0\0\0\0\7", weight=9)
    entry = table.peek("k")
    assert isinstance(entry, Entry)
    assert (entry.key, entry.value, entry.fresh, entry.delta, entry.weight) == ("k", "v", 1000.1, 0.5, 9)
    assert entry.id == b"\0\0\0\0\0\0\0\7"
    assert 1060.3 - 60.2 / 2**23 - 1e-9 <= entry.hard <= 1060.3
    assert 1030.7 - 30.6 / 2**23 - 1e-9 <= entry.verify <= 1030.7
    assert repr(entry) == "<Entry 'k'>"


@pytest.mark.parametrize("ttl", [1.0, 300.0, 86_400.0, 3.15e7, 1e9])
@pytest.mark.parametrize("uptime", [0.1, 1e5 + 0.1, 1e8 + 0.1])
def test_a_long_ttl_does_not_stretch_the_other_ends(ttl: float, uptime: float) -> None:
    """With years of freshness too, the verify end is exact on the short way and never late on the long one."""
    now = uptime
    table = Table()
    face = Face(table, lambda: now)
    put(table, "k", 1, fresh=uptime + ttl, hard=uptime + ttl + 60, verify=uptime + 0.3)
    now = uptime + 0.299
    assert face.get("k") == 1
    now = uptime + 0.3 + 1e-6
    with pytest.raises(AttributeError):  # the long way
        face.get("k")
    assert table.probe("k", now)[0] == LEAD
    entry = table.peek("k")
    assert entry is not None
    assert uptime + ttl + 59.99 <= entry.hard <= uptime + ttl + 60


def test_an_entry_that_was_born_dead_is_never_served(table: Table) -> None:
    """Ends in the past, and lifetimes below zero, are misses."""
    put(table, "k", 1, fresh=-1e9, hard=-1e9, verify=-1e9)
    assert table.probe("k", 0.0, swr=1e9)[0] == LEAD
    put(table, "l", 1, fresh=50.0, hard=100.0, verify=-1e30)
    assert table.probe("l", 0.0)[0] == LEAD


def test_a_soft_stale_hit_is_counted(table: Table) -> None:
    """Each stale answer counts, and each refresh that it starts."""
    put(table, "k", 1, fresh=1.0, hard=9.0)
    table.probe("k", 2.0, swr=5.0)
    table.probe("k", 2.0, swr=5.0)
    table.probe("k", 2.0, swr=5.0, mode=READ)
    stats = table.stats()
    assert (stats["stale_served"], stats["early_refreshes"], stats["hits_local"]) == (3, 1, 3)


def test_one_refresh_at_a_time(table: Table) -> None:
    """While a flight for the key runs, whatever it is for, no coin falls."""
    put(table, "k", 1, delta=1.0)
    verdict, value, flight = table.probe("k", 99.0, SURE)
    assert (verdict, value, flight.early) == (DUE, 1, True)
    assert flight.seen == table.peek("k")
    assert table.probe("k", 99.0, SURE) == (HIT, 1)
    assert table.probe("k", 99.0, mode=FORCE) == (JOIN, flight)
    table.settle(flight, None)
    assert table.probe("k", 99.0, SURE)[0] == DUE


def test_a_verifying_probe_never_leads_and_counts_no_hit(table: Table) -> None:
    """VERIFY answers HIT or DUE and leaves the hit counter alone."""
    assert table.probe("k", 0.0, mode=VERIFY) == (HIT, None)
    put(table, "k", 1, delta=1.0)
    assert table.probe("k", 0.0, mode=VERIFY) == (HIT, 1)
    assert table.probe("k", 99.0, SURE, mode=VERIFY)[0] == DUE
    assert table.stats()["hits_local"] == 0


def test_verdicts_are_plain_ints(table: Table) -> None:
    """A member of Verdict would be looked up by name, under the lock, for each answer."""
    put(table, "k", 1)
    assert type(table.probe("k", 0.0)[0]) is int
    assert type(table.probe("l", 0.0)[0]) is int


# Negative errors.


def test_a_negative_error_never_leaves_by_the_short_way() -> None:
    """Who gets a Raises must raise it, so every read of one goes the long way, in a quiet time too."""
    table = Table()
    face = Face(table, lambda: 1.0)
    error = KeyError("no such row")
    put(table, "k", Raises(error))
    table.quiet("k", 50.0, 1.0)
    with pytest.raises(AttributeError):  # the long way
        face.get("k")
    verdict, raises = table.probe("k", 1.0)
    assert verdict == HIT
    assert raises.error is error


# Flights.


def test_a_cut_flight_fills_nothing_and_is_not_joined(table: Table) -> None:
    """After a cut the flight still tells its callers, but no reader meets it or its value."""
    flight = table.probe("k", 0.0)[1]
    table.cut("k")
    verdict, other = table.probe("k", 0.0)
    assert verdict == LEAD
    assert other is not flight
    assert table.settle(flight, "old", fill("old"))
    assert flight.outcome == "old"
    assert table.peek("k") is None
    assert table.probe("k", 0.0) == (JOIN, other)


def test_a_flight_that_was_never_the_tables_fills_nothing(table: Table) -> None:
    """A bypass settles its own callers only, beside a running flight of the key and without one."""
    stranger = Flight("k")
    assert table.settle(stranger, 1, fill(1))
    assert table.peek("k") is None
    running = table.probe("k", 0.0)[1]
    assert table.settle(Flight("k"), 2, fill(2))
    assert table.probe("k", 0.0) == (JOIN, running)
    assert not table.settle(stranger, 3)
    assert stranger.outcome == 1


def test_a_flight_of_another_table_fills_nothing(table: Table) -> None:
    """Two tables share neither flights nor entries."""
    other = Table()
    flight = other.probe("k", 0.0)[1]
    table.probe("k", 0.0)
    assert table.settle(flight, 1, fill(1))
    assert table.peek("k") is None
    assert other.peek("k") is None


def test_a_write_takes_the_place_of_what_runs(table: Table) -> None:
    """A write cuts the running flight and is joined by those who come after it."""
    load = table.probe("k", 0.0)[1]
    verdict, write = table.probe("k", 0.0, mode=WRITE)
    assert verdict == LEAD
    assert load.cut
    assert table.probe("k", 0.0) == (JOIN, write)
    table.settle(load, "loaded", fill("loaded"))
    table.settle(write, "written", fill("written"))
    assert table.probe("k", 0.0) == (HIT, "written")


def test_a_closed_table_keeps_nothing(table: Table) -> None:
    """After closing, flights are the caller's alone, no coin falls, and nothing is filled."""
    running = table.probe("k", 0.0)[1]
    table.closed = True
    table.clear()
    table.settle(running, 1, fill(1))
    for _ in range(2):
        verdict, flight = table.probe("k", 0.0)
        assert verdict == LEAD
        table.settle(flight, 1, fill(1))
    assert table.stats()["entries"] == 0
    table.closed = False
    put(table, "k", 1, delta=1.0)
    table.closed = True
    assert table.probe("k", 99.0, SURE) == (HIT, 1)


def test_a_malformed_fill_still_wakes_everybody(table: Table) -> None:
    """Whatever goes wrong with the filling, the flight is settled, its followers woken, and its key free."""
    for bad in [(), (1, 2), fill(1, epoch=-1), fill(1, id=b"123456789"), fill(1, fresh=None), fill(1, weight=None)]:  # type: ignore[arg-type]
        flight = table.probe("k", 0.0)[1]
        woken: list[int] = []
        flight.follow(None, lambda woken=woken: woken.append(1))
        with pytest.raises((TypeError, ValueError, OverflowError)):
            table.settle(flight, "value", bad)  # type: ignore[arg-type]
        assert (woken, flight.outcome) == ([1], "value")
        assert table.probe("k", 0.0)[0] == LEAD
        table.cut("k")
    assert table.peek("k") is None


class Sub(str):
    pass


@pytest.mark.parametrize("key", [None, 1, b"k", Sub("k")])
@pytest.mark.parametrize("method", ["probe", "peek", "cut", "unquiet", "quiet"])
def test_keys_are_exact_strings(table: Table, method: str, key: Any) -> None:
    """Nothing whose hash or equality could run Python code gets near the lock."""
    arguments = {"probe": (0.0,), "quiet": (1.0, 0.0)}.get(method, ())
    with pytest.raises(TypeError):
        getattr(table, method)(key, *arguments)


def test_none_is_no_flight_and_no_id(table: Table) -> None:
    """None where a flight, a key or an id belongs is a TypeError, not a crash."""
    for call in (
        lambda: table.settle(None, 1),  # type: ignore[arg-type]
        lambda: table.writing(None, b""),  # type: ignore[arg-type]
        lambda: table.writing(Flight("k"), None),  # type: ignore[arg-type]
        lambda: table.cut("k", None),  # type: ignore[arg-type]
        lambda: table.count(None),  # type: ignore[arg-type]
        lambda: Flight(None),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError):
            call()


# Epochs, quiet, the fence.


def test_epoch_zero_is_never_verified(table: Table) -> None:
    """What nobody vouches for is revalidated at each read, while the inbox is lost too."""
    put(table, "k", 1, epoch=0)
    assert table.probe("k", 0.0)[0] == LEAD
    table.cut_all(verified=False)
    assert table.stamp() == 0
    assert table.probe("k", 0.0)[0] == JOIN
    table.cut_flights()
    assert table.probe("k", 0.0)[0] == LEAD


def test_a_new_epoch_unverifies_everything(table: Table) -> None:
    """Entries of an earlier epoch are read again; the stamp of the old epoch is worth nothing afterwards."""
    put(table, "k", 1)
    stamp = table.stamp()
    table.cut_all(verified=False)
    assert table.probe("k", 0.0)[0] == LEAD
    table.cut_all()
    flight = table.probe("k", 0.0)[1]
    table.settle(flight, 1, fill(1, epoch=stamp))
    assert table.probe("k", 0.0)[0] == LEAD
    table.cut_all()
    put(table, "k", 1)
    assert table.probe("k", 0.0)[0] == HIT


def test_quiet_suppresses_the_coin_and_the_verify_end(table: Table) -> None:
    """In its quiet time an entry is served without coin and without flight, as long as policy allows."""
    put(table, "k", 1, fresh=64.0, hard=96.0, verify=8.0, delta=8.0)
    table.quiet("k", 80.0, 9.0)
    assert table.probe("k", 63.0, SURE) == (HIT, 1)
    assert table.probe("k", 70.0, swr=20.0) == (HIT, 1)
    assert table.probe("k", 80.0, swr=20.0)[0] == LEAD
    table.cut_flights()
    assert table.probe("k", 70.0)[0] == LEAD
    table.cut_flights()
    table.unquiet("k")
    assert table.probe("k", 70.0, swr=20.0)[0] == LEAD


def test_a_quiet_time_never_shortens_the_short_way() -> None:
    """An entry that was filled meanwhile keeps its own end, though an older refresh asks for quiet."""
    table = Table()
    face = Face(table, lambda: 50.0)
    put(table, "k", 1)
    table.quiet("k", 3.0, 0.0)
    assert face.get("k") == 1


def test_what_ends_the_quiet_ends_the_short_way() -> None:
    """After unquiet the next read goes the long way, even where a quiet time had opened the short one."""
    table = Table()
    face = Face(table, lambda: 99.0)
    put(table, "k", 1, delta=1.0)
    table.quiet("k", 99.5, 99.0)
    assert face.get("k") == 1
    table.unquiet("k")
    with pytest.raises(AttributeError):  # the long way
        face.get("k")
    assert table.probe("k", 99.0, SURE)[0] == DUE


def test_quiet_of_nothing_is_nothing(table: Table) -> None:
    """Quiet and unquiet of an absent key change nothing."""
    table.quiet("k", 5.0, 0.0)
    table.unquiet("k")
    assert table.stats() == {"hits_local": 0, "entries": 0, "bytes": 0}


def test_quiet_lasts_while_the_inbox_is_lost_but_not_into_the_next_epoch(table: Table) -> None:
    """With Redis down an old entry is served for its quiet time; a new epoch ends that."""
    put(table, "k", 1)
    table.cut_all(verified=False)
    table.quiet("k", 50.0, 0.0)
    assert table.probe("k", 1.0) == (HIT, 1)
    table.cut_all()
    assert table.probe("k", 1.0)[0] == LEAD


def test_a_cut_keeps_what_carries_the_id(table: Table) -> None:
    """The message of a write removes neither the entry of that write nor the flight that is writing it."""
    put(table, "k", 1, id=b"12345678")
    write = table.probe("l", 0.0, mode=WRITE)[1]
    table.writing(write, b"12345678")
    for key in "kl":
        table.cut(key, b"12345678")
    assert table.probe("k", 0.0) == (HIT, 1)
    assert table.probe("l", 0.0) == (JOIN, write)
    for key in "kl":
        table.cut(key, b"87654321")
    assert table.peek("k") is None
    assert write.cut


# Foreign stores.


STORES: list[Callable[..., Any]] = [
    cachetools.LFUCache,
    cachetools.LRUCache,
    cachetools.RRCache,
    cachetools.FIFOCache,
    lambda maxsize, **more: cachetools.TTLCache(maxsize, 1e9, **more),
]
STORE_NAMES = ["LFU", "LRU", "RR", "FIFO", "TTL"]


@pytest.mark.parametrize("make", STORES, ids=STORE_NAMES)
def test_a_foreign_store_holds_the_entries(make: Callable[..., Any]) -> None:
    """Any cachetools.Cache can be the place of the entries; evictions are counted, the bound is the store's."""
    store = make(3)
    table = Table(store=store)
    for number in range(5):
        put(table, str(number), number, weight=2)
    stats = table.stats()
    assert (stats["entries"], stats["bytes"], stats["evictions"]) == (3, 6, 2)
    assert len(store) == 3
    assert all(isinstance(entry, Entry) and entry.key == key for key, entry in store.items())
    kept = next(iter(store))
    assert table.probe(kept, 0.0) == (HIT, int(kept))
    put(table, kept, "new")
    assert table.stats()["evictions"] == 2
    assert table.probe(kept, 0.0) == (HIT, "new")
    table.cut(kept)
    assert kept not in store
    table.clear()
    assert table.stats()["entries"] == len(store) == 0


@pytest.mark.parametrize("make", STORES, ids=STORE_NAMES)
def test_a_foreign_store_sizes_entries(make: Callable[..., Any]) -> None:
    """getsizeof receives entries; one above the whole bound is not kept, and neither is what it replaces."""
    seen: list[Any] = []

    def getsizeof(entry: Entry) -> int:
        seen.append(entry)
        return entry.weight

    store = make(100, getsizeof=getsizeof)
    table = Table(store=store)
    put(table, "k", 1, weight=60)
    put(table, "l", 1, weight=30)
    assert all(type(entry) is Entry for entry in seen)
    assert store.currsize == 90
    put(table, "l", 2, weight=101)
    assert "l" not in store
    assert table.peek("k") is not None
    assert table.stats()["evictions"] == 1
    put(table, "m", 2, weight=1000)
    assert table.stats()["evictions"] == 2
    assert table.stats()["bytes"] == 60


def test_hits_of_a_foreign_store_go_the_long_way() -> None:
    """Its look-up runs Python code, which belongs under its lock, so no hit is answered without it."""
    table = Table(store=cachetools.LFUCache(3))
    put(table, "k", 1)
    with pytest.raises(AttributeError):  # the long way
        Face(table, lambda: 0.0).get("k")


def test_an_lfu_goes_on_counting_over_refills() -> None:
    """A refilled entry keeps its rank: replacing is not removing and storing anew."""
    store = cachetools.LFUCache(2)
    table = Table(store=store)
    put(table, "hot", 1)
    for _ in range(10):
        table.probe("hot", 0.0)
    put(table, "hot", 2)
    for number in range(5):
        put(table, str(number), number)
        table.probe(str(number), 0.0)
    assert table.peek("hot") is not None


def test_stats_leave_no_mark_of_use() -> None:
    """Counting the bytes of an LRU does not reorder it."""
    store = cachetools.LRUCache(3)
    table = Table(store=store)
    for key in "abc":
        put(table, key, key, weight=1)
    table.peek("a")
    assert table.stats()["bytes"] == 3
    put(table, "d", "d")
    assert sorted(store) == ["a", "c", "d"]


def test_entries_may_expire_in_a_foreign_store_at_any_moment() -> None:
    """A TTLCache whose time runs on during every call never makes the table fail."""
    clock = iter(range(10**9))
    store = cachetools.TTLCache(5, 7, timer=lambda: next(clock))
    table = Table(store=store)
    for number in range(300):
        put(table, str(number % 6), number, weight=1)
        assert 0 <= table.stats()["bytes"] <= 5
        table.peek(str(number % 4))
        table.cut(str(number % 3))
        if number % 50 == 0:
            table.clear()
    assert table.stats()["entries"] <= 5


class Broken(cachetools.Cache[str, Any]):
    def __init__(self, error: BaseException) -> None:
        super().__init__(10)
        self.error: BaseException | None = None
        self.later = error

    def __setitem__(self, key: str, value: Any) -> None:
        if self.error is not None:
            raise self.error
        super().__setitem__(key, value)


@pytest.mark.parametrize("error", [TypeError("Entry has no len()"), KeyError("k"), MemoryError(), KeyboardInterrupt()])
def test_a_store_that_raises_costs_nobody_the_value(error: BaseException) -> None:
    """The error comes out of settle after everybody was woken; the old entry is gone and the key is free."""
    store = Broken(error)
    table = Table(store=store)
    put(table, "k", "old")
    flight = table.probe("k", 0.0, mode=FORCE)[1]
    woken: list[str] = []
    flight.follow(None, lambda: woken.append(flight.outcome))
    store.error = error
    with pytest.raises(type(error)):
        table.settle(flight, "value", fill("value"))
    assert woken == ["value"]
    if isinstance(error, Exception):
        assert table.peek("k") is None
    store.error = None
    assert table.probe("k", 0.0, mode=FORCE)[0] == LEAD


def test_a_store_that_refuses_by_valueerror_is_only_full() -> None:
    """ValueError is cachetools' word for too large: counted as an eviction, raised to nobody."""
    store = Broken(ValueError("value too large"))
    table = Table(store=store)
    store.error = store.later
    put(table, "k", "value")
    assert table.stats()["evictions"] == 1
    assert table.peek("k") is None


def test_a_dying_value_may_use_a_table_with_a_foreign_store() -> None:
    """Entries of a foreign store are dropped after the lock was given back, wherever that is in our hands."""
    table = Table(store=cachetools.LRUCache(10))
    lock = threading.Lock()

    class Tells:
        def __del__(self) -> None:
            other = threading.Thread(target=lambda: (table.probe("l", 0.0), lock.release()))
            lock.acquire()
            other.start()
            told.append(lock.acquire(timeout=10))
            lock.release()
            other.join()

    told: list[bool] = []
    for drop in (lambda: table.cut("k"), table.clear, lambda: put(table, "k", 1)):
        put(table, "k", Tells())
        drop()
    assert told == [True, True, True]


def test_values_of_a_foreign_store_die_with_it() -> None:
    """Without cycles, a table drops its foreign store and every value in it."""
    table = Table(store=cachetools.LFUCache(10))

    class Value:
        pass

    value = Value()
    watch = weakref.ref(value)
    put(table, "k", value)
    del value, table
    gc.collect()
    assert watch() is None


# Threads.


@pytest.mark.parametrize("make", [lambda: None, lambda: cachetools.LFUCache(4)], ids=["LRU", "LFU"])
def test_threads_settle_every_flight_once_and_wake_every_follower(make: Callable[[], Any]) -> None:
    """Eight threads probe, follow, cut and settle six keys; nobody waits in vain and nothing is settled twice."""
    table = Table(4, store=make())
    counts: Counter[str] = Counter()
    failures: list[BaseException] = []
    barrier = threading.Barrier(8)

    def own(flight: Flight, chance: random.Random) -> None:
        if chance.random() < 0.2:
            table.cut(flight.key)
        value = chance.random()
        ends = fill(value, fresh=1.0, hard=2.0, delta=0.01, epoch=table.stamp())
        assert table.settle(flight, value, None if chance.random() < 0.3 else ends)
        assert not table.settle(flight, None)
        assert flight.outcome == value

    def follow(flight: Flight) -> None:
        gate = threading.Lock()
        gate.acquire()
        waker = flight.follow(threading.get_ident(), gate.release)
        if waker is not None:
            assert gate.acquire(timeout=20), "nobody woke a follower"
            flight.leave()
        assert flight.settled

    def work(seed: int) -> None:
        chance = random.Random(seed)
        mine: Counter[str] = Counter()
        barrier.wait()
        for step in range(2500):
            key = "abcdef"[chance.randrange(6)]
            now = chance.choice([0.0, 0.9, 1.5])
            verdict, *rest = table.probe(
                key, now, chance.choice([1.0, SURE]), 1.0, 1.0, chance.choice([LOAD, LOAD, READ])
            )
            if verdict in (LEAD, DUE):
                mine["owned"] += 1
                own(rest[-1], chance)
            elif verdict == JOIN:
                mine["followed"] += 1
                follow(rest[0])
            if step % 100 == seed:
                table.cut_all(verified=step % 200 != seed)
        with lock:
            counts.update(mine)

    def guarded(seed: int) -> None:
        try:
            work(seed)
        except BaseException as error:
            failures.append(error)

    lock = threading.Lock()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=guarded, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert failures == []
    assert counts["owned"] > 1000
    table.cut_all()
    for key in "abcdef":
        assert table.probe(key, 0.0)[0] == LEAD


@pytest.mark.parametrize("verdict", [LEAD, DUE])
def test_threads_never_own_one_key_together(verdict: int) -> None:
    """Among threads that probe a missing, or an expiring, key there is one owner at a time."""
    table = Table()
    owners: Counter[str] = Counter()
    most: Counter[str] = Counter()
    if verdict == DUE:
        for key in "ab":
            put(table, key, key, delta=1.0)

    def work(seed: int) -> None:
        barrier.wait()
        for step in range(4000):
            key = "ab"[step & 1]
            got, *rest = table.probe(key, 99.0, SURE)
            if got in (LEAD, DUE):
                assert got == verdict
                owners[key] += 1
                most[key] = max(most[key], owners[key])
                owners[key] -= 1
                table.settle(rest[-1], None)

    barrier = threading.Barrier(8)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert most == {"a": 1, "b": 1}
