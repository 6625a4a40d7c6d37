"""The contract of a cache, over both colours and over Redis, memory and tier 1 alone."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from both import FACES

from tiercache import Cache, CodecError, LoadFailed, Policy, ReentrantLoadError
from tiercache.testing import MemoryCache, MemoryRedis, SteppedClock


@pytest.fixture(params=FACES, ids=lambda face: face.name)
def colour(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=["redis", "memory", "alone"])
def world(request: pytest.FixtureRequest, make_cache: Callable[..., Cache]) -> Callable[..., Cache]:
    """Makes the caches of several processes of one fleet (tier 1 alone: there is only one)."""
    if request.param == "redis":
        return make_cache
    if request.param == "alone":
        return lambda **settings: make_cache(None, **settings)
    memory = MemoryRedis()
    return lambda **settings: MemoryCache(memory, **settings)


@pytest.fixture
def cache(world: Callable[..., Cache], colour: Any) -> Iterator[Any]:
    face = colour(world())
    yield face
    face.close()


class Counted:
    """A loader that counts its runs and gives what it is told."""

    def __init__(self, *results: Any) -> None:
        self.results = list(results)
        self.runs = 0

    def __call__(self) -> Any:
        self.runs += 1
        result = self.results[0] if len(self.results) == 1 else self.results.pop(0)
        if isinstance(result, BaseException):
            raise result
        return result


def test_a_miss_loads_once_and_then_hits(cache: Any) -> None:
    """The second call for a key is answered without the loader."""
    loader = Counted({"a": (1, 2)})
    for _ in range(3):
        assert cache.get_or_load("k", cache.loader(loader)) == {"a": (1, 2)}
    assert loader.runs == 1
    assert cache.get("k") == {"a": (1, 2)}


def test_get_gives_the_default_and_loads_nothing(cache: Any) -> None:
    """A key that nobody loaded is absent."""
    assert cache.get("absent") is None
    assert cache.get("absent", 7) == 7


def test_a_loaded_none_is_cached(cache: Any) -> None:
    """A loader's None is an answer: it is not loaded again."""
    loader = Counted(None)
    assert cache.get_or_load("k", cache.loader(loader)) is None
    assert cache.get_or_load("k", cache.loader(loader)) is None
    assert cache.get("k", 7) is None
    assert loader.runs == 1


def test_a_loaded_none_is_not_stored_with_negative_ttl_0(cache: Any) -> None:
    """negative_ttl=0 asks the loader again each time."""
    loader = Counted(None)
    for _ in range(2):
        assert cache.get_or_load("k", cache.loader(loader), negative_ttl=0) is None
    assert loader.runs == 2


def test_set_is_read_back(cache: Any) -> None:
    """What was set is got, None included."""
    cache.set("k", (1, "two"))
    cache.set("n", None)
    assert cache.get("k") == (1, "two")
    assert cache.get("n", 7) is None
    assert cache.get_or_load("k", cache.loader(Counted(0))) == (1, "two")


def test_many_are_set_and_got(cache: Any) -> None:
    """get_many leaves absent keys out."""
    cache.set_many({f"k{i}": i for i in range(1100)})
    if cache._shared:
        cache.clear_local()
    got = cache.get_many([f"k{i}" for i in range(1100)] + ["absent"])
    assert got == {f"k{i}": i for i in range(1100)}


def test_an_invalidated_value_is_gone(cache: Any) -> None:
    """The next call loads again."""
    loader = Counted(1, 2)
    assert cache.get_or_load("k", cache.loader(loader)) == 1
    cache.invalidate("k", "never-there")
    assert cache.get("k") is None
    assert cache.get_or_load("k", cache.loader(loader)) == 2


def test_a_value_invalidated_with_keep_stale_serves_when_the_loader_fails(cache: Any) -> None:
    """keep_stale keeps it for stale-if-error, and for nothing else."""
    loader = Counted(1, ValueError("down"))
    assert cache.get_or_load("k", cache.loader(loader)) == 1
    cache.invalidate("k", keep_stale=True)
    assert cache.get("k") is None
    assert cache.get_or_load("k", cache.loader(loader)) == 1
    assert loader.runs == 2
    assert cache.stats()["stale_served"] >= 1


def test_refresh_loads_whatever_is_cached(cache: Any) -> None:
    """refresh replaces the value and returns the new one."""
    loader = Counted(1, 2)
    cache.get_or_load("k", cache.loader(loader))
    assert cache.refresh("k", cache.loader(loader)) == 2
    assert cache.get("k") == 2


def test_a_failing_loader_raises_and_is_not_run_again_in_its_cooldown(cache: Any) -> None:
    """The same exception class is raised again from memory until the cooldown ends."""
    loader = Counted(KeyError("gone"))
    with pytest.raises(KeyError, match="gone"):
        cache.get_or_load("k", cache.loader(loader), error_backoff=30, error_backoff_max=30)
    with pytest.raises(KeyError, match="gone"):
        cache.get_or_load("k", cache.loader(loader), error_backoff=30, error_backoff_max=30)
    assert loader.runs == 1
    assert cache.stats()["load_failures"] == 1


class NoSuchItem(Exception):
    pass


def test_a_negative_error_is_an_answer(cache: Any) -> None:
    """An exception of negative_errors is cached and raised as the same class."""
    loader = Counted(NoSuchItem("item", 42))
    for _ in range(3):
        with pytest.raises(NoSuchItem) as raised:
            cache.get_or_load("k", cache.loader(loader), negative_errors=(NoSuchItem,))
        assert raised.value.args == ("item", 42)
    assert loader.runs == 1
    assert cache.get("k", 7) == 7


def test_a_loader_that_asks_for_its_own_key_is_told(cache: Any) -> None:
    """Recursion into the key being loaded ends in ReentrantLoadError, not in a deadlock."""
    inner = cache.cache

    def load() -> Any:
        return inner.get_or_load("k", load)

    with pytest.raises(ReentrantLoadError, match="'k'"):
        inner.get_or_load("k", load)


def test_a_copy_is_the_callers_own(cache: Any) -> None:
    """copy=True hands each caller its own value; changing it changes nothing cached."""
    loader = Counted([1])
    first = cache.get_or_load("k", cache.loader(loader), copy=True)
    first.append(2)
    assert cache.get_or_load("k", cache.loader(loader), copy=True) == [1]


@pytest.mark.parametrize("key", ["", "\ud800"])
def test_an_unusable_key_is_a_value_error(cache: Any, key: str) -> None:
    """Empty keys and lone surrogates are refused before anything happens."""
    with pytest.raises(ValueError, match="key"):
        cache.get_or_load(key, cache.loader(Counted(1)))


@pytest.mark.parametrize("key", [None, 42, b"k", ("k",), ["k"]])
def test_a_key_that_is_no_str_is_a_type_error(cache: Any, key: Any) -> None:
    """Only strings are keys."""
    for call in (lambda: cache.get(key), lambda: cache.set(key, 1), lambda: cache.get_or_load(key, Counted(1))):
        with pytest.raises(TypeError):
            call()


@pytest.mark.parametrize("key", ["{a}", "}{", "a b\r\n*", "#x", "x" * 300, "ü" * 120, "x" * 1_000_000, "%", "\0"])
def test_strange_keys_are_keys(cache: Any, key: str) -> None:
    """Braces, line ends, digest marks and a megabyte of text make no difference."""
    cache.set(key, 1)
    assert cache.get(key) == 1
    assert cache.get_many([key]) == {key: 1}
    cache.invalidate(key)
    assert cache.get_or_load(key, cache.loader(Counted(2))) == 2
    assert cache.get(key) == 2


class Unencodable:
    pass


def test_what_cannot_be_encoded_is_named(colour: Any, make_cache: Callable[..., Cache]) -> None:
    """CodecError names the key and the path; nothing is written."""
    cache = colour(make_cache())
    with pytest.raises(CodecError, match=r"'k'.*\['x'\]\[0\]"):
        cache.set("k", {"x": [Unencodable()]})
    with pytest.raises(CodecError, match="'k2'"):
        cache.get_or_load("k2", cache.loader(Counted(Unencodable())))
    assert cache.get_many(["k", "k2"]) == {}
    cache.close()


def test_every_process_sees_an_invalidation(world: Any, colour: Any, request: pytest.FixtureRequest) -> None:
    """One process's invalidate removes the copy of another."""
    if "alone" in request.node.name:
        pytest.skip("there is only one process")
    one, other = colour(world()), colour(world())
    one.set("k", 1)
    assert other.get("k") == 1
    heard = threading.Event()
    table = other.cache.table
    node = other.cache._process.node
    cut = node.cut
    node.cut = lambda *args, **kwargs: (cut(*args, **kwargs), heard.set())
    one.invalidate("k")
    assert heard.wait(10)
    assert table.peek("k") is None
    assert other.get("k") is None
    one.close()
    other.close()


def test_a_failure_is_shared_with_other_processes(world: Any, colour: Any, request: pytest.FixtureRequest) -> None:
    """Another process raises LoadFailed in the cooldown and does not run its loader."""
    if "alone" in request.node.name:
        pytest.skip("there is only one process")
    one, other = colour(world()), colour(world())
    policy = {"error_backoff": 30, "error_backoff_max": 30}
    with pytest.raises(ZeroDivisionError):
        one.get_or_load("k", one.loader(lambda: 1 / 0), **policy)
    loader = Counted(1)
    with pytest.raises(LoadFailed, match="ZeroDivisionError") as raised:
        other.get_or_load("k", other.loader(loader), **policy)
    assert raised.value.type_name == "ZeroDivisionError"
    assert 0 < raised.value.retry_after <= 30
    assert loader.runs == 0
    one.close()
    other.close()


def test_lifetimes_follow_the_stepped_clock(colour: Any) -> None:
    """A value is fresh until its ttl, stale within stale_while_revalidate, then gone."""
    clock = SteppedClock()
    policy = Policy(ttl=100, jitter=0, beta=0, stale_if_error=0)
    cache = colour(MemoryCache(MemoryRedis(clock), clock=clock, policy=policy))
    loader = Counted(1, 2, 3)
    assert cache.get_or_load("k", cache.loader(loader)) == 1
    clock.step(99.9)
    assert cache.get_or_load("k", cache.loader(loader)) == 1
    clock.step(0.2)
    assert cache.get_or_load("k", cache.loader(loader)) == 2
    assert loader.runs == 2
    cache.close()


def test_jitter_stays_within_its_bounds(colour: Any) -> None:
    """A loaded value lives between (1 - jitter) ttl and ttl, and not always as long."""
    clock = SteppedClock()
    cache = colour(MemoryCache(MemoryRedis(clock), clock=clock, policy=Policy(ttl=100, jitter=0.2, beta=0)))
    lives = []
    for i in range(200):
        cache.get_or_load(f"k{i}", cache.loader(Counted(i)))
        lives.append(cache.table.peek(f"k{i}").fresh - clock())
    assert 80 <= min(lives) < 84
    assert 96 < max(lives) <= 100
    cache.set("k", 1)
    assert cache.table.peek("k").fresh - clock() == pytest.approx(100)
    cache.close()
