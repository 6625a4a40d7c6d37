"""Popularity: which keys this process is asked for most, how often, and what share of all hits that is."""

import random
from collections import Counter
from collections.abc import Callable
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


@pytest.mark.parametrize("alpha", [0.9, 1.0, 1.2])
def test_the_hottest_of_a_million_keys_are_found(alpha: float) -> None:
    """On Zipf streams over a million keys, with room for one in a hundred, the top 20 are those of exact counts."""
    table, chance = Table(10_000), random.Random(alpha)
    assert table.hot(20, 0.0, HALF_LIFE) == []
    weights = list(accumulate(rank**-alpha for rank in range(1, 1_000_001)))
    stream = chance.choices(range(1_000_000), cum_weights=weights, k=400_000)
    for number in stream:
        key = f"k{number}"
        if table.probe(key, 0.0, mode=int(Mode.READ))[0] != 0:
            table.settle(table.probe(key, 0.0, mode=int(Mode.WRITE))[-1], None)
            put(table, key)
    exact = Counter(stream).most_common(25)
    found = [key for key, _, _ in table.hot(20, 1.0, HALF_LIFE)]
    assert len(set(found) & {f"k{number}" for number, _ in exact}) == 20
    for key, count in exact[:10]:
        place = found.index(f"k{key}")
        nearly = [n for n, (_, other) in enumerate(exact) if abs(other - count) <= 0.02 * count + 5]
        assert min(nearly) <= place <= max(nearly)


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


def test_what_is_gone_is_not_hot(cache: MemoryCache, clock: SteppedClock) -> None:
    """An invalidated key has no popularity to leave to the one that takes its place; a new value keeps its key's."""
    cache.set("a", 1)
    cache.set("b", 1, ttl=5)
    cache.hot()
    clock.step(1.0)
    hit(cache, "a", 10)
    hit(cache, "b", 10)
    cache.hot()
    cache.invalidate("a")
    cache.set("c", 1)
    assert [each.key for each in cache.hot()] == ["b"]
    clock.step(6.0)
    assert cache.get_or_load("b", lambda: 2) == 2
    assert [each.key for each in cache.hot()] == ["b"]
    cache.clear_local()
    assert cache.hot() == []
    cache.set("d", 1)
    hit(cache, "d")
    clock.step(1.0)
    assert [each.key for each in cache.hot()] == ["d"]


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
