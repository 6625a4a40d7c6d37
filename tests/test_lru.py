"""The LRU of tier 1, seen through the table: recency, bounds, memory and garbage."""

import copy
import gc
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import cachetools
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tiercache.local.face import Face
from tiercache.local.lru import LRU
from tiercache.local.store import Store
from tiercache.local.table import Mode, Table, Verdict

FORCE = int(Mode.FORCE)
FRESH = 1000.0


def put(table: Table, key: str, value: Any, *, weight: int = 0, fresh: float = FRESH) -> None:
    flight = table.probe(key, 0.0, mode=FORCE)[-1]
    table.settle(flight, value, (value, fresh, fresh, fresh, 0.0, 1.0, table.stamp(), b"", weight))


def lru_of(table: Table) -> LRU:
    return next(each for each in gc.get_referents(table) if isinstance(each, LRU))


def values_by_age(table: Table) -> list[Any]:
    """The values from the least to the most recently used, as the garbage collector walks along the list."""
    lru = lru_of(table)
    inherited = [each for each in gc.get_referents(lru) if isinstance(each, dict) or hasattr(each, "__enter__")]
    walked = gc.get_referents(lru)
    return walked[: len(walked) - len(inherited)]


def keys_by_age(oracle: "cachetools.Cache[str, Any]") -> list[str]:
    spare, order = copy.deepcopy(oracle), []
    while spare:
        order.append(spare.popitem()[0])
    return order


keys = st.sampled_from("abcdefgh")


class Recency(RuleBasedStateMachine):
    """A table of five entries beside a cachetools.LRUCache of five."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Table(5)
        self.face = Face(self.table, lambda: 0.0)
        self.oracle: cachetools.LRUCache[str, Any] = cachetools.LRUCache(5)
        self.puts = self.gone = 0

    @rule(key=keys)
    def put(self, key: str) -> None:
        self.gone += key not in self.oracle and len(self.oracle) == 5
        self.oracle[key] = key
        put(self.table, key, key)

    @rule(key=keys)
    def read(self, key: str) -> None:
        answer = self.table.probe(key, 0.0)
        if key in self.oracle:
            assert answer == (Verdict.HIT, self.oracle[key])
        else:
            assert answer[0] == Verdict.LEAD
            self.table.settle(answer[1], None)

    @rule(key=keys)
    @precondition(lambda self: len(self.oracle))
    def read_the_short_way(self, key: str) -> None:
        if key in self.oracle:
            assert self.face.get(key) == self.oracle[key]

    @rule(key=keys)
    def peek(self, key: str) -> None:
        entry = self.table.peek(key)
        assert (entry and entry.value) == self.oracle.get(key)

    @rule(key=keys)
    def cut(self, key: str) -> None:
        self.table.cut(key)
        self.oracle.pop(key, None)

    @rule(key=keys)
    def expire(self, key: str) -> None:
        answer = self.table.probe(key, FRESH)
        assert answer[0] == Verdict.LEAD
        self.table.settle(answer[1], None)
        self.oracle.pop(key, None)

    @rule()
    def clear(self) -> None:
        self.table.clear()
        self.oracle.clear()

    @invariant()
    def the_same_keys_in_the_same_order(self) -> None:
        assert values_by_age(self.table) == keys_by_age(self.oracle)
        stats = self.table.stats()
        assert stats["entries"] == len(self.oracle)
        assert stats.get("evictions", 0) == self.gone


class Weight(RuleBasedStateMachine):
    """A table of 20 bytes beside a cachetools.LRUCache of 20."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Table(1000, 20)
        self.oracle: cachetools.LRUCache[str, int] = cachetools.LRUCache(20, getsizeof=lambda weight: weight)

    @rule(key=keys, weight=st.integers(0, 24))
    def put(self, key: str, weight: int) -> None:
        put(self.table, key, key, weight=weight)
        self.oracle.pop(key, None)
        if weight <= 20:  # else nobody keeps it, and what it would have replaced is gone
            self.oracle[key] = weight

    @rule(key=keys)
    def read(self, key: str) -> None:
        assert (self.table.peek(key) is not None) == (self.oracle.get(key) is not None)

    @rule(key=keys)
    def cut(self, key: str) -> None:
        self.table.cut(key)
        self.oracle.pop(key, None)

    @invariant()
    def the_same_keys_and_bytes(self) -> None:
        assert values_by_age(self.table) == keys_by_age(self.oracle)
        assert self.table.stats()["bytes"] == self.oracle.currsize <= 20


TestRecency = Recency.TestCase
TestRecency.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestWeight = Weight.TestCase
TestWeight.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_both_bounds_hold_together() -> None:
    """With max_entries and max_bytes, whichever is reached first evicts."""
    table = Table(3, 100)
    for key in "abcd":
        put(table, key, key, weight=10)
    assert values_by_age(table) == ["b", "c", "d"]
    put(table, "e", "e", weight=85)
    assert values_by_age(table) == ["d", "e"]


def test_an_entry_above_the_whole_bound_is_not_kept() -> None:
    """A value heavier than max_bytes evicts nobody else, and takes what it replaces with it."""
    table = Table(10, 100)
    put(table, "small", 1, weight=60)
    put(table, "k", 2, weight=30)
    put(table, "k", 3, weight=101)
    assert values_by_age(table) == [1]
    assert table.stats()["evictions"] == 1
    assert table.stats()["bytes"] == 60


@pytest.mark.parametrize(("weight", "kept"), [(2**70, 2**32 - 1), (2**32, 2**32 - 1), (-1, 0), (True, 1)])
def test_weights_are_clamped_to_32_bits(weight: int, kept: int) -> None:
    """A weight that does not fit is counted as the nearest one that does."""
    table = Table()
    put(table, "k", 1, weight=weight)
    assert table.stats()["bytes"] == kept


@pytest.mark.parametrize("bounds", [(0,), (-1,), (1, -1)])
def test_bounds_that_hold_nothing_are_refused(bounds: tuple[int, ...]) -> None:
    """An LRU of no entries, or of fewer than no bytes, can't be made."""
    with pytest.raises(ValueError, match="can't hold anything"):
        Table(*bounds)


# References. A value is dropped when its entry is, and not before.


class Value:
    """A value that can be watched."""


class Tells:
    """A value that calls somebody when it dies."""

    def __init__(self, tell: Callable[[], object]) -> None:
        self.tell = tell

    def __del__(self) -> None:
        self.tell()


def test_a_stored_value_is_referenced_once() -> None:
    """Put, hits and misses leave one reference to the value: the entry's."""
    table = Table()
    face = Face(table, lambda: 0.0)
    value = Value()
    before = sys.getrefcount(value)
    put(table, "k", value)
    assert sys.getrefcount(value) == before + 1
    for _ in range(100):
        assert face.get("k") is value
        assert table.probe("k", 0.0)[1] is value
    assert sys.getrefcount(value) == before + 1


@pytest.mark.parametrize(
    "drop",
    [
        lambda table: table.cut("k"),
        lambda table: table.clear(),
        lambda table: put(table, "k", 2),
        lambda table: put(table, "k", 2, weight=1000),
        lambda table: [put(table, key, 1) for key in "abc"],
        lambda table: table.settle(table.probe("k", FRESH)[1], None),
    ],
    ids=["cut", "clear", "replace", "replace by too much", "evict", "expire"],
)
def test_a_dropped_value_dies_at_once(drop: Callable[[Table], object]) -> None:
    """No reference outlives the entry, on any way out; no collection is needed."""
    table = Table(3, 100)
    value = Value()
    watch = weakref.ref(value)
    put(table, "k", value)
    del value
    assert watch() is not None
    drop(table)
    assert watch() is None


def test_a_table_drops_its_values_when_it_dies() -> None:
    """Without cycles, a table and its values die by their references alone."""
    table = Table()
    value = Value()
    watch = weakref.ref(value)
    put(table, "k", value)
    del value, table
    assert watch() is None


@pytest.mark.parametrize("again", ["probe", "put", "cut", "clear", "evict"])
@pytest.mark.parametrize("drop", ["cut", "clear", "replace", "evict", "expire"])
def test_a_dying_value_may_use_the_table(drop: str, again: str) -> None:
    """Whatever a value's __del__ does to the table finds it whole."""
    table = Table(3)

    def tell() -> None:
        told.append(len(values_by_age(table)) == table.stats()["entries"])
        if again == "probe":
            table.settle(table.probe("k", 0.0, mode=FORCE)[-1], 0)
        elif again == "put":
            put(table, "k", "again")
        elif again == "cut":
            table.cut("k")
        elif again == "clear":
            table.clear()
        else:
            for key in "wxyz":
                put(table, key, key)

    told: list[bool] = []
    put(table, "k", Tells(tell))
    put(table, "l", "l")
    if drop == "cut":
        table.cut("k")
    elif drop == "clear":
        table.clear()
    elif drop == "replace":
        put(table, "k", "new")
    elif drop == "evict":
        for key in "abcd":
            put(table, key, key)
    else:
        table.settle(table.probe("k", FRESH)[1], None)
    assert told == [True]
    assert len(values_by_age(table)) == table.stats()["entries"] <= 3


# The garbage collector. It sees values through the LRU, for the entries are not its own.


def test_a_value_that_refers_to_its_table_is_collected() -> None:
    """A cycle from a value through the table back to the value is garbage like any other."""
    for holder in (list, lambda items: (*items, []), lambda items: {1: items[0]}):
        value = Value()
        table = Table()
        value.cycle = holder([table])  # type: ignore[attr-defined]
        put(table, "k", value)
        put(table, "other", 1)
        watch = weakref.ref(value)
        del table, value
        gc.collect()
        assert watch() is None


def test_a_value_that_refers_to_its_cache_is_collected() -> None:
    """The same through a subclass of the compiled face."""

    class Cache(Face):
        pass

    cache = Cache(Table())
    watch = weakref.ref(cache)
    put(cache.table, "k", [cache])
    del cache
    gc.collect()
    assert watch() is None


def test_a_collected_value_may_use_its_table() -> None:
    """The __del__ of a value in a cycle runs once, and finds the table as it was."""
    told: list[int] = []

    def make() -> None:
        table = Table()
        put(table, "k", Tells(lambda: told.append(table.stats()["entries"])))
        put(table, "l", 1)

    make()
    gc.collect()
    assert told == [2]


def test_what_somebody_else_holds_is_not_cleared() -> None:
    """While an entry is in other hands, the collector leaves its value as it is, though the table is garbage."""
    table = Table()
    value = Value()
    watch = weakref.ref(value)
    put(table, "k", [table, value])
    entry = table.peek("k")
    assert entry is not None
    del table, value
    gc.collect()
    assert entry.value[1] is watch() is not None
    del entry
    gc.collect()
    assert watch() is None


@pytest.fixture
def rare_collector() -> Iterator[None]:
    threshold = gc.get_threshold()
    gc.set_threshold(100_000)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
    gc.set_threshold(*threshold)


@pytest.mark.usefixtures("rare_collector")
@pytest.mark.parametrize("meddle", ["put", "cut", "clear", "lead"])
def test_a_collection_in_the_middle_finds_the_table_whole(meddle: str) -> None:
    """A collection may start at each allocation (on 3.11: inside a call), and run code that uses the table."""
    table = Table(3)
    ran = 0

    class Trash:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            nonlocal ran
            ran += 1
            for key in "abcd":
                if meddle == "put":
                    put(table, key, [key], weight=1)
                elif meddle == "cut":
                    table.cut(key)
                elif meddle == "clear":
                    table.clear()
                else:
                    meddled.append(table.probe(key, FRESH))

    def after(allocations: int, act: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        gc.collect(0)
        Trash()
        gc.set_threshold(gc.get_count()[0] + allocations)
        result = act(*args, **kwargs)
        gc.set_threshold(100_000)
        return result

    for allocations in range(30):
        for key in "abc":
            meddled: list[Any] = []
            verdict, flight = after(allocations, table.probe, key, FRESH)
            led = [flight] * (verdict == Verdict.LEAD) + [one for answer, one in meddled if answer == Verdict.LEAD]
            assert len({flight.key for flight in led}) == len(led), "two flights of one key"
            fill = ([key], FRESH, FRESH, FRESH, 0.0, 1.0, table.stamp(), b"", 1)
            after(allocations, table.settle, flight, None, fill)
            for flight in led:
                table.settle(flight, None)
            after(allocations, put, table, key, [key], weight=1)
            walked = values_by_age(table)
            assert all(type(value) is list for value in walked)
            assert len(walked) == table.stats()["entries"] == table.stats()["bytes"] <= 3
        after(allocations, table.clear)
        walked = values_by_age(table)
        assert len(walked) == table.stats()["entries"]
        after(allocations, table.cut_all)
    assert ran > 100


# Memory.


def test_an_entry_costs_at_most_96_bytes() -> None:
    """100,000 entries take at most 96 bytes each beyond their keys and values."""
    count = 100_000
    table = Table(count)
    names = [f"key:{number}" for number in range(count)]
    value = Value()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for name in names:
            put(table, name, value)
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert table.stats()["entries"] == count
    assert taken / count <= 96


def test_memory_is_flat_over_a_million_operations() -> None:
    """Puts, hits, evictions and cuts over twice as many keys as fit leave nothing behind."""
    table = Table(500)
    face = Face(table, lambda: 0.0)
    names = [f"key:{number}" for number in range(1000)]
    fill = (1, FRESH, FRESH, FRESH, 0.0, 1.0, 1, b"", 1)
    probe, settle, cut, get = table.probe, table.settle, table.cut, face.get

    def work(rounds: int) -> None:
        for _ in range(rounds):
            for name in names:
                settle(probe(name, 0.0, 1.0, 0.0, 1.0, FORCE)[1], 1, fill)
                get(name)
                probe(name, 0.0)
            for name in names[::2]:
                cut(name)

    work(3)
    gc.collect()
    before = sys.getallocatedblocks()
    work(250)
    gc.collect()
    assert sys.getallocatedblocks() - before < 500
    assert table.stats()["hits_local"] >= 500_000


def test_recency_survives_threads() -> None:
    """Eight threads that put, read, cut and clear leave a whole list, whose bytes add up."""
    table = Table(50)
    face = Face(table, lambda: 0.0)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def work(seed: int) -> None:
        for step in range(4000):
            key = str((step * 7 + seed * 13) % 80)
            put(table, key, key, weight=3)
            table.peek(str(step % 80))
            if step % 5 == 0:
                table.cut(str((step + seed) % 80))
            if step % 501 == 0:
                table.clear()
            if (found := table.peek(key)) is not None:
                assert found.value == key

    failures: list[BaseException] = []

    def guarded(seed: int) -> None:
        try:
            work(seed)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(seed,)) for seed in range(8)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert failures == []
    assert face.table is table
    stats = table.stats()
    assert len(values_by_age(table)) == stats["entries"] <= 50
    assert stats["bytes"] == 3 * stats["entries"]


def test_a_store_is_not_made_by_users() -> None:
    """The place of the entries is no part of the Python face: only its guard shows."""
    assert [name for name in dir(LRU) if not name.startswith("_")] == ["guard"]
    assert issubclass(LRU, Store)
