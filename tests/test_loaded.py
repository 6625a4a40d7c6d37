"""What a loader says of its own value with `Loaded`, over both colours and over Redis, memory and tier 1 alone."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from both import FACES
from redis_server import RedisServer
from test_flow import BYPASSES, Gate, in_thread, until

from tiercache import Cache, Loaded, Policy, PolicyError
from tiercache.testing import MemoryCache, MemoryRedis, SteppedClock

CALM = Policy(ttl=100, jitter=0, beta=0, stale_if_error=50)


@pytest.fixture(params=FACES, ids=lambda face: face.name)
def colour(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=["redis", "memory", "alone"])
def cache(request: pytest.FixtureRequest, colour: Any, make_cache: Callable[..., Cache]) -> Iterator[Any]:
    made = MemoryCache() if request.param == "memory" else make_cache(*[None] * (request.param == "alone"))
    face = colour(made)
    yield face
    face.close()


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def stepped(clock: SteppedClock, colour: Any) -> Iterator[Any]:
    """A cache whose time is stepped, without chance."""
    face = colour(MemoryCache(MemoryRedis(clock), policy=CALM))
    yield face
    face.close()


def counting(*results: Any) -> tuple[Callable[[], Any], list[Any]]:
    """A loader that gives the results in turn, then the last one again, and what it gave so far."""
    left, given = list(results), []

    def load() -> Any:
        given.append(left.pop(0) if len(left) > 1 else left[0])
        if isinstance(given[-1], BaseException):
            raise given[-1]
        return given[-1]

    return load, given


def test_callers_get_the_value_and_never_the_loaded(cache: Any) -> None:
    """In every way that leads to it, from either tier."""
    load, given = counting(Loaded({"a": (1,)}, ttl=50))
    assert cache.get_or_load("k", cache.loader(load)) == {"a": (1,)}
    assert cache.get_or_load("k", cache.loader(load)) == {"a": (1,)}
    assert cache.refresh("k", cache.loader(load)) == {"a": (1,)}
    if cache._shared:
        cache.clear_local()
    assert cache.get("k") == {"a": (1,)}
    assert cache.get_many(["k"]) == {"k": {"a": (1,)}}
    assert len(given) == 2
    assert not any(cache.stats()[name] for name in (*BYPASSES, "load_failures", "undecodable"))


def test_a_decorated_function_may_return_it(cache: Any) -> None:
    """Its callers see the value."""
    load, given = counting(Loaded("token", ttl=50))
    function = cache.cached("token:{name}")(_named(cache, load))
    call = (lambda: function("a")) if cache.name == "sync" else (lambda: cache.runner.run(_awaited(function("a"))))
    assert [call(), call()] == ["token", "token"]
    assert len(given) == 1


def _named(cache: Any, load: Callable[[], Any]) -> Any:
    def token(name: str) -> Any:
        return load()

    async def atoken(name: str) -> Any:
        return load()

    return token if cache.name == "sync" else atoken


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def test_a_values_own_ttl_takes_the_place_of_the_policys(stepped: Any, clock: SteppedClock) -> None:
    """Shorter or longer than the policy's."""
    load, given = counting(Loaded("short", ttl=10, stale_if_error=0), Loaded("long", ttl=1000))
    for step, value in ((0.0, "short"), (9.9, "short"), (0.2, "long"), (999.0, "long")):
        clock.step(step)
        assert stepped.get_or_load("k", stepped.loader(load)) == value
    assert [loaded.value for loaded in given] == ["short", "long"]


def test_jitter_only_shortens_it(colour: Any, clock: SteppedClock) -> None:
    """A token is never fresh beyond its own expiry."""
    cache = colour(MemoryCache(MemoryRedis(clock), policy=Policy(jitter=0.2)))
    lives = []
    for i in range(100):
        cache.get_or_load(f"k{i}", cache.loader(lambda: Loaded(1, ttl=100)))
        lives.append(cache.table.peek(f"k{i}").fresh - clock())
    assert 80 <= min(lives) < 85
    assert 95 < max(lives) <= 100
    cache.close()


def test_a_loaded_none_lives_for_its_own_ttl(stepped: Any, clock: SteppedClock) -> None:
    """It decides for a None as well, whatever negative_ttl says."""
    load, given = counting(Loaded(None, ttl=10), 2)
    for step, value in ((0.0, None), (9.9, None), (0.2, 2)):
        clock.step(step)
        assert stepped.get_or_load("k", stepped.loader(load), negative_ttl=3) == value
    assert len(given) == 2


@pytest.mark.parametrize(("own", "served"), [(None, True), (0, False), (5, False), (40, True)])
def test_its_own_stale_if_error_bounds_what_serves_when_the_loader_fails(
    stepped: Any, clock: SteppedClock, own: float | None, served: bool
) -> None:
    """None: as long as the policy says."""
    load, _ = counting(Loaded("old", ttl=10, stale_if_error=own), OSError("down"))
    stepped.get_or_load("k", stepped.loader(load))
    clock.step(20)
    if served:
        assert stepped.get_or_load("k", stepped.loader(load)) == "old"
    else:
        with pytest.raises(OSError, match="down"):
            stepped.get_or_load("k", stepped.loader(load))
    assert stepped.stats()["stale_served"] == served


def test_its_stale_if_error_bounds_stale_while_revalidate_too(stepped: Any, clock: SteppedClock) -> None:
    """With 0, nothing serves past its own ttl in any way."""
    load, _ = counting(Loaded("old", ttl=10, stale_if_error=0), "new")
    for step, value in ((0.0, "old"), (10.5, "new")):
        clock.step(step)
        assert stepped.get_or_load("k", stepped.loader(load), stale_while_revalidate=60) == value
    assert stepped.stats()["stale_served"] == 0


def test_a_value_that_is_not_to_be_cached_is_in_no_tier(cache: Any) -> None:
    """Every call loads, and nothing of it stands anywhere."""
    load, given = counting(Loaded("secret", cache=False))
    for _ in range(2):
        assert cache.get_or_load("k", cache.loader(load)) == "secret"
    assert cache.get("k") is None
    assert len(given) == 2
    assert cache.table.peek("k") is None
    assert cache.stats()["entries"] == 0


def test_redis_holds_nothing_of_what_is_not_to_be_cached(
    make_cache: Callable[..., Cache], redis_server: RedisServer, namespace: str
) -> None:
    """Neither a record nor a staged value, small or large, nor a lease."""
    cache = make_cache()
    for size in (10, 100_000, 2**21):
        assert len(cache.get_or_load("k", lambda size=size: Loaded("x" * size, cache=False))) == size  # type: ignore[misc]
    with redis.Redis.from_url(redis_server.url) as client:
        assert list(client.scan_iter(f"*{namespace}*")) == []


@pytest.mark.parametrize("size", [10, 100_000])
def test_everybody_who_waits_gets_what_is_not_cached(size: int, make_cache: Callable[..., Cache]) -> None:
    """One load for all callers of two processes, also where the value is too large for a usual message."""
    one, other, gate = make_cache(), make_cache(), Gate(Loaded("x" * size, cache=False))
    first = in_thread(lambda: one.get_or_load("k", gate))
    assert gate.running.wait(20)
    second = in_thread(lambda: one.get_or_load("k", gate))
    remote = [in_thread(lambda: other.get_or_load("k", gate)) for _ in range(2)]
    until(lambda: one.stats()["joins"] == 1 and other.stats()["waits"] == 1 and other.stats()["joins"] == 1)
    gate.go.set()
    assert [len(call()) for call in (first, second, *remote)] == [size] * 4
    assert gate.runs == 1
    assert one.table.peek("k") is other.table.peek("k") is None


def test_an_older_value_stays_when_a_new_one_is_not_to_be_cached(cache: Any) -> None:
    """The caller of refresh has the new one; the cache is as it was."""
    load, _ = counting("old", Loaded("passing", cache=False))
    assert cache.get_or_load("k", cache.loader(load)) == "old"
    assert cache.refresh("k", cache.loader(load)) == "passing"
    assert cache.get("k") == "old"


def test_a_refresh_that_keeps_nothing_disturbs_nobody() -> None:
    """The other processes go on with their copies."""
    memory = MemoryRedis()
    one, other = MemoryCache(memory), MemoryCache(memory)
    one.set("k", "old")
    assert other.get("k") == "old"
    assert one.refresh("k", lambda: Loaded("passing", cache=False)) == "passing"
    for cache in (one, other):
        assert cache.table.peek("k") is not None
        cache.close()


BAD = [
    ({"ttl": 0}, "ttl=0"),
    ({"ttl": float("nan")}, "ttl=nan"),
    ({"ttl": "60"}, "ttl='60'"),
    ({"stale_if_error": -1}, "stale_if_error=-1"),
    ({"stale_if_error": "x"}, "stale_if_error='x'"),
    ({"cache": None}, "cache=None"),
    ({"value": Loaded(1)}, "value"),
]


@pytest.mark.parametrize(("rules", "said"), BAD, ids=lambda each: str(each))
def test_a_bad_loaded_is_a_failed_load(stepped: Any, rules: dict[str, Any], said: str) -> None:
    """A PolicyError names the key and the field; nothing is cached, and the loader is not run again in the pause."""
    load, given = counting(Loaded(**{"value": 1, **rules}))
    for _ in range(2):
        with pytest.raises(PolicyError, match=f"'k' returned: {said}"):
            stepped.get_or_load("k", stepped.loader(load))
    assert len(given) == 1
    assert stepped.stats()["load_failures"] == 1
    assert stepped.get("k") is None


def test_a_bad_loaded_keeps_the_old_value(stepped: Any, clock: SteppedClock) -> None:
    """Like any failure of the loader."""
    load, _ = counting("old", Loaded("new", ttl=-1))
    stepped.get_or_load("k", stepped.loader(load))
    clock.step(120)
    assert stepped.get_or_load("k", stepped.loader(load)) == "old"
    assert stepped.stats()["stale_served"] == 1


@pytest.mark.parametrize("policy_ttl", [2, 20_000])
def test_early_refreshes_go_by_the_values_own_ttl(clock: SteppedClock, policy_ttl: float) -> None:
    """A load that took long counts as a quarter of its value's ttl, here and where the record is read."""
    memory = MemoryRedis(clock)
    one, other = MemoryCache(memory), MemoryCache(memory, policy=Policy(ttl=policy_ttl))

    def load() -> Any:
        clock.step(50)
        return Loaded(1, ttl=100)

    one.get_or_load("k", load, ttl=policy_ttl, jitter=0, lease=60)
    assert other.get("k") == 1
    for cache in (one, other):
        entry = cache.table.peek("k")
        assert entry is not None
        assert entry.delta == pytest.approx(25)
        cache.close()


def test_a_load_around_the_lease_unwraps_it_too() -> None:
    """A call that gives up its wait inside a loader gets the value of its own load."""
    cache, gate = MemoryCache(policy=Policy(nested_wait=0.01)), Gate(Loaded("slow"))
    first = in_thread(lambda: cache.get_or_load("inner", gate))
    assert gate.running.wait(20)
    outer = cache.get_or_load("outer", lambda: cache.get_or_load("inner", lambda: Loaded("own", ttl=5)))
    gate.go.set()
    assert (outer, first()) == ("own", "slow")
    assert cache.stats()["bypass_nested"] == 1
    cache.close()


def test_a_loaded_without_redis_is_kept_by_its_rules(colour: Any, clock: SteppedClock) -> None:
    """Where Redis can't be asked, this process keeps the value for its own ttl, or not at all."""
    cache = colour(Cache("redis://127.0.0.1:1", policy=Policy(jitter=0, beta=0), connect_timeout=0.05))
    kept, passing = counting(Loaded("kept", ttl=1000)), counting(Loaded("passing", cache=False))
    for _ in range(2):
        assert cache.get_or_load("kept", cache.loader(kept[0])) == "kept"
        assert cache.get_or_load("passing", cache.loader(passing[0])) == "passing"
    assert (len(kept[1]), len(passing[1])) == (1, 2)
    assert cache.table.peek("kept").hard - cache.table.peek("kept").fresh == pytest.approx(60, rel=1e-5)
    cache.close()


def test_a_refresh_behind_takes_the_rules_of_its_value(clock: SteppedClock) -> None:
    """What a stale-while-revalidate refresh loads lives by its own ttl."""
    cache, done = MemoryCache(MemoryRedis(clock), policy=CALM), threading.Event()

    def load() -> Any:
        done.set()
        return Loaded("new", ttl=7)

    cache.get_or_load("k", lambda: "old", stale_while_revalidate=50)
    clock.step(110)
    assert cache.get_or_load("k", load, stale_while_revalidate=50) == "old"
    assert done.wait(20)
    until(lambda: cache.get("k") == "new")
    entry = cache.table.peek("k")
    assert entry is not None
    assert entry.fresh - clock() == pytest.approx(7)
    cache.close()
