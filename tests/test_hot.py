"""Popularity: which keys this process is asked for most, how often, and what share of all hits that is."""

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

import cachetools
import pytest

from tiercache import Cache, Hot, Policy
from tiercache.local.table import Mode, Table
from tiercache.testing import MemoryCache, SteppedClock

HALF_LIFE = 60.0
LONG = 1e6


def put(table: Table, key: str, value: object = 1) -> None:
    flight = table.probe(key, 0.0, mode=int(Mode.FORCE))[-1]
    table.settle(flight, value, (value, LONG, LONG, LONG, 0.0, 1.0, table.stamp(), b"", 0))


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def cache(clock: SteppedClock) -> MemoryCache:
    return MemoryCache(clock=clock, max_entries=10_000, policy=Policy(ttl=1e6, local_ttl=1e6, half_life=HALF_LIFE))


def hit(cache: Cache, key: str, times: int = 1) -> None:
    for _ in range(times):
        assert cache.get(key) is not None


class Stream:
    """Requests for a million keys after Zipf's law, and what exactly was asked, decayed until `seconds`."""

    def __init__(self, alpha: float, requests: int, seconds: float) -> None:
        weights = list(accumulate(rank**-alpha for rank in range(1, 1_000_001)))
        self.numbers = random.Random(alpha).choices(range(1_000_000), cum_weights=weights, k=requests)
        self.seconds, self.rate = seconds, requests / seconds
        self.exact: Counter[str] = Counter()
        self.misses: Counter[str] = Counter()  # a first request is no hit, nor is one after an eviction

    def periods(self, length: float) -> Iterator[tuple[float, list[tuple[str, float]]]]:
        """The requests of each period: when it ends, and keys with the weight that they have in the end."""
        size = round(self.rate * length)
        for start in range(0, len(self.numbers), size):
            asked = []
            for at, number in enumerate(self.numbers[start : start + size], start):
                key, weight = f"k{number}", 2.0 ** ((at / self.rate - self.seconds) / HALF_LIFE)
                self.exact[key] += weight  # type: ignore[assignment]
                asked.append((key, weight))
            yield (start + size) / self.rate, asked

    def ask(self, table: Table, key: str, weight: float) -> None:
        """A hit, or a miss whose value is stored then."""
        if table.probe(key, 0.0, mode=int(Mode.READ))[0] != 0:
            table.settle(table.probe(key, 0.0, mode=int(Mode.WRITE))[-1], None)
            put(table, key)
            self.misses[key] += weight  # type: ignore[assignment]


def spread(period: float) -> tuple[float, float]:
    """What the hits of a period, taken for evenly spread, may count for beside what they are: all at its ends."""
    kept = 2.0 ** (-period / HALF_LIFE)
    mean = (1 - kept) / -math.log(kept)
    return mean, mean / kept


@pytest.mark.parametrize("alpha", [0.9, 1.0, 1.2])
def test_the_hottest_of_a_million_keys_are_those_of_exact_counts(
    alpha: float, amount: Callable[[int, int], int]
) -> None:
    """The top 20, with room for one key in a hundred. The error is the theory's: a miss is no hit, and within the time
    between two looks it is not known when a hit came; floats have 24 bits."""
    table, stream = Table(10_000), Stream(alpha, amount(300_000, 3_000_000), 60.0)
    assert table.hot(20, 0.0, HALF_LIFE) == []
    found = []
    for now, asked in stream.periods(5.0):
        for key, weight in asked:
            stream.ask(table, key, weight)
        found = table.hot(20, now, HALF_LIFE)
    least, most = (factor * (1 + error) for factor, error in zip(spread(5.0), (-1e-5, 1e-5), strict=True))
    counted = math.log(2) / HALF_LIFE / (1 - 2.0 ** (-stream.seconds / HALF_LIFE))
    everything = stream.exact.total()
    for key, rate, share in found:
        hits = stream.exact[key] - stream.misses[key]
        assert stream.misses[key] <= 1
        assert least * hits <= rate / counted <= most * hits
        assert share * (everything - stream.misses.total()) == pytest.approx(rate / counted, rel=most - least)
    last = found[-1][1] / counted
    for key, weight in stream.exact.most_common(20):
        assert key in {each for each, _, _ in found} or least * (weight - stream.misses[key]) <= last


def test_rates_are_hits_per_second_and_shares_add_up(cache: MemoryCache, clock: SteppedClock) -> None:
    """Under a steady load the rate is right from the first half-life on, and stays right."""
    cache.set_many({"a": 1, "b": 1, "c": 1})
    assert cache.hot() == []
    for second in range(1, 400):
        hit(cache, "a", 8)
        hit(cache, "b", 2)
        clock.step(1.0)
        if second % 50 == 0:
            first, second_, *none = cache.hot()
            assert (first.key, second_.key, none) == ("a", "b", [])
            assert first.rate == pytest.approx(8, rel=0.05)
            assert second_.rate == pytest.approx(2, rel=0.05)
            assert (first.share, second_.share) == (pytest.approx(0.8, rel=0.01), pytest.approx(0.2, rel=0.01))


@pytest.mark.parametrize("looks", [1, 7])
def test_what_cools_is_forgotten_by_half_lives(cache: MemoryCache, clock: SteppedClock, looks: int) -> None:
    """After a half-life without hits half of the rate is left, however often somebody looked meanwhile."""
    cache.set("a", 1)
    cache.hot()
    for _ in range(600):
        hit(cache, "a")
        clock.step(1.0)
    [before] = cache.hot()
    for _ in range(looks):
        clock.step(HALF_LIFE / looks)
        [after] = cache.hot()
    assert after.rate == pytest.approx(before.rate / 2, rel=0.01)
    assert after.share == pytest.approx(1.0)


HITS: dict[str, Callable[[Any], object]] = {
    "get": lambda cache: cache.get("a"),
    "get_or_load": lambda cache: cache.get_or_load("a", int),
    "a decorated call": lambda cache: cache.decorated("a"),
    "the slow way": lambda cache: cache.table.probe("a", cache._process.node.now(), 1.0),
}


@pytest.mark.parametrize("way", HITS)
def test_hits_are_counted_on_every_way(cache: Any, clock: SteppedClock, way: str) -> None:
    """It makes no difference how a value was asked for."""
    cache.decorated = cache.cached("{key}")(lambda key: 1)
    for _ in range(2):
        cache.decorated("a")
    cache.hot()
    clock.step(1.0)
    for _ in range(100):
        HITS[way](cache)
    clock.step(1.0)
    [found] = cache.hot()
    assert found.rate == pytest.approx(50, rel=0.02)


REMOVALS: dict[str, Callable[[MemoryCache, SteppedClock], object]] = {
    "invalidated": lambda cache, clock: cache.invalidate("a"),
    "softly": lambda cache, clock: cache.invalidate("a", keep_stale=True),
    "set": lambda cache, clock: cache.set("a", 2, ttl=1e6),
    "refreshed": lambda cache, clock: cache.refresh("a", lambda: 2),
    "expired": lambda cache, clock: (clock.step(5.0), cache.get("a")),
}


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("way", REMOVALS)
def test_a_key_keeps_its_popularity_when_its_value_goes(
    cache: MemoryCache, clock: SteppedClock, way: str, again: bool
) -> None:
    """Whatever took its value, hits not yet looked at included, also before there is a new one."""
    cache.set_many({"a": 1, "b": 1}, ttl=5)
    cache.set("c", 1)
    cache.hot()
    hit(cache, "a", 10)
    clock.step(1.0)
    hit(cache, "b", 7)
    hit(cache, "c", 15)
    cache.hot()
    hit(cache, "a", 10)
    REMOVALS[way](cache, clock)
    if again:
        assert cache.get_or_load("a", lambda: 3) in (2, 3)
    clock.step(1.0)
    found = {each.key: each.rate for each in cache.hot()}
    assert found["a"] / found["c"] == pytest.approx(20 / 15, rel=0.08)
    assert found["b"] / found["c"] == pytest.approx(7 / 15, rel=1e-5)
    hit(cache, "c", 15)
    clock.step(20 * HALF_LIFE)
    assert [each.key for each in cache.hot()][:1] == ["c"]
    clock.step(30 * HALF_LIFE)
    assert cache.hot() == []


def test_what_is_evicted_or_cleared_begins_anew() -> None:
    """There is a bound, and a word that says: forget."""
    table = Table(2)
    for n in range(3):
        put(table, f"k{n}")
        table.hot(9, float(n), HALF_LIFE)
        for _ in range(9):
            table.probe(f"k{n}", 0.0)
    put(table, "k0")
    assert [key for key, _, _ in table.hot(9, 4.0, HALF_LIFE)] == ["k2"]
    table.clear()
    assert table.hot(9, 4.0, HALF_LIFE) == []
    put(table, "k2")
    assert table.hot(9, 5.0, HALF_LIFE) == []


@pytest.mark.parametrize(("length", "kept"), [(1000, True), (1001, False)])
def test_keys_without_bounds_are_not_remembered(length: int, kept: bool) -> None:
    """What is removed is remembered by its key, so a very long one begins anew."""
    table, key = Table(10), "k" * length
    table.hot(0, 0.0, HALF_LIFE)
    put(table, key)
    table.probe(key, 0.0)
    table.cut(key)
    put(table, key)
    assert [each for each, _, _ in table.hot(9, 1.0, HALF_LIFE)] == [key] * kept


def test_of_very_many_popular_keys_removed_at_once_the_hottest_come_back() -> None:
    """What is remembered of them is bounded; each of 1,024 places keeps its hottest, so the hottest of all is there."""
    table = Table(20_000)
    table.hot(0, 0.0, HALF_LIFE)
    for n in range(5_000):
        put(table, f"k{n}")
        for _ in range(1 + n % 7 + 50 * (n == 4_321)):
            table.probe(f"k{n}", 0.0)
    before = table.hot(9_999, 1.0, HALF_LIFE)
    for n in range(5_000):
        table.cut(f"k{n}")
    left = table.hot(9_999, 1.0, HALF_LIFE)
    assert 900 <= len(left) <= 1024
    assert left[0] == before[0]
    rates = {key: rate for key, rate, _ in before}
    assert all(rates[key] == rate for key, rate, _ in left)
    for n in range(5_000):
        put(table, f"k{n}")
    assert sorted(table.hot(9_999, 1.0, HALF_LIFE)) == sorted(left)


# What the fleet is told.


def gains(table: Table, now: float, most: int = 100) -> tuple[float, dict[str, float]]:
    hits, found = table.gains(most, now, HALF_LIFE)
    return hits, dict(found)


def test_gains_are_told_once_whoever_looks_between(cache: MemoryCache, clock: SteppedClock) -> None:
    """Every hit, decayed as it would be for one who only looks; without hits there is nothing to tell."""
    cache.set_many({"a": 1, "b": 1})
    assert gains(cache.table, clock()) == (0.0, {})
    for looks in (0, 3):
        hit(cache, "a", 12)
        hit(cache, "b", 3)
        for _ in range(looks):
            cache.hot()
        clock.step(HALF_LIFE)
        for _ in range(looks):
            cache.hot()
        hits, told = gains(cache.table, clock())
        mean = 0.5 if looks else 0.5 / math.log(2)  # looked at, they are known to be as old
        assert told == {"a": pytest.approx(12 * mean), "b": pytest.approx(3 * mean)}
        assert hits == pytest.approx(15 * mean)
        assert gains(cache.table, clock()) == (0.0, {})
    clock.step(HALF_LIFE)
    assert [each.key for each in cache.hot()] == ["a", "b"]
    assert gains(cache.table, clock()) == (0.0, {})


def test_of_each_key_less_is_untold_than_the_least_that_was_told() -> None:
    """What is not among the most stays until it is; in the end every hit was told."""
    table, told = Table(1_000), Counter[str]()
    exact: Counter[str] = Counter()
    chance = random.Random(3)
    table.gains(0, 0.0, HALF_LIFE)
    for n in range(200):
        put(table, f"k{n}")
    for turn in range(100):
        for _ in range(300):
            key = f"k{min(int(chance.expovariate(0.02)), 199)}"
            table.probe(key, 0.0)
            exact[key] += 1
        found = gains(table, 0.0, 20)[1]
        assert len(found) == 20
        told.update(found)  # type: ignore[arg-type]
        if turn % 3 == 0:
            table.cut(f"k{turn}")
            put(table, f"k{turn}")
        assert all(0 <= exact[key] - told[key] <= min(found.values()) for key in exact)
    for _ in range(10):
        table.probe("k0", 0.0)
        exact["k0"] += 1
        told.update(gains(table, 0.0, 20)[1])  # type: ignore[arg-type]
    assert told == exact


def test_a_child_tells_its_own_hits_alone(cache: MemoryCache, clock: SteppedClock) -> None:
    """What was hit before is left to the parent; the process's own popularity stays."""
    cache.set_many({"a": 1, "b": 1})
    gains(cache.table, clock())
    hit(cache, "a", 5)
    cache.hot()
    hit(cache, "a", 5)
    hit(cache, "b", 5)
    cache.invalidate("b")
    cache.table.disown(clock(), HALF_LIFE)
    assert gains(cache.table, clock()) == (0.0, {})
    cache.set("b", 1)
    hit(cache, "b")
    assert gains(cache.table, clock()) == (1.0, {"b": 1.0})
    clock.step(1.0)
    assert [each.key for each in cache.hot()] == ["a", "b"]


def test_at_most_n_are_given_hottest_first(cache: MemoryCache, clock: SteppedClock) -> None:
    """Ties in any order; n may be 0."""
    keys = [f"k{number}" for number in range(50)]
    cache.set_many(dict.fromkeys(keys, 1))
    cache.hot()
    for number, key in enumerate(keys):
        hit(cache, key, number)
    clock.step(1.0)
    found = cache.hot(5)
    assert [each.key for each in found] == ["k49", "k48", "k47", "k46", "k45"]
    assert all(isinstance(each, Hot) for each in found)
    assert len(cache.hot(100)) == 49
    assert cache.hot(0) == []
    with pytest.raises(ValueError, match="n=-1"):
        cache.hot(-1)


def test_a_store_of_the_users_says_that_nobody_counts() -> None:
    """Hits in a cachetools cache are not counted, which is an error rather than an empty answer."""
    with Cache(store=cachetools.LRUCache(10)) as cache, pytest.raises(TypeError, match="not counted"):
        cache.hot()


def test_counting_survives_growth_and_eviction() -> None:
    """While the block of slots grows and is reused, every hit since the last look is with its own key."""
    table = Table(100)
    table.hot(1, 0.0, HALF_LIFE)
    counted: Counter[str] = Counter()
    chance = random.Random(5)
    for step in range(5000):
        key = f"k{chance.randrange(150)}"
        if table.probe(key, 0.0, mode=int(Mode.READ))[0] == 0:
            counted[key] += 1
        else:
            table.settle(table.probe(key, 0.0, mode=int(Mode.WRITE))[-1], None)
            put(table, key)
            counted[key] = 0
        if step % 700 == 0:
            present = {key: round(rate) for key, rate, _ in table.hot(200, 0.0, HALF_LIFE)}
            assert present == {} or set(present) <= set(counted)
    warm = table.hot(200, 1e-9, HALF_LIFE)
    unit = warm[0][1] / counted[warm[0][0]]
    alive = {key for key, count in counted.items() if count and table.peek(key) is not None}
    assert {key: round(rate / unit) for key, rate, _ in warm} == {key: counted[key] for key in alive}
