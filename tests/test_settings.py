"""The settings of a cache: each checked by name when it is made, without I/O, threads or traces."""

import asyncio
import dis
import gc
import socket
import threading
import weakref
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any
from unittest import mock

import cachetools
import pytest
import redis
import redis.asyncio
import redis.sentinel

from tiercache import Cache, MsgpackCodec, Policy, PolicyError

NOWHERE = "redis://localhost:1/0"
START = threading.Thread.start


@pytest.fixture(autouse=True)
def _no_io(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test here does: no socket is opened, no name looked up, no thread started."""
    done: list[str] = []

    def forbid(target: Any, name: str) -> None:
        def refuse(*args: Any, **kwargs: Any) -> Any:
            done.append(name)
            raise AssertionError(f"{name} was called")

        monkeypatch.setattr(target, name, refuse)

    forbid(socket.socket, "connect")
    forbid(socket, "create_connection")
    forbid(socket, "getaddrinfo")
    forbid(threading.Thread, "start")
    yield
    assert done == []


def refused(error: type[Exception], match: str, **settings: Any) -> None:
    before = threading.active_count()
    with pytest.raises(error, match=match):
        Cache(**settings)
    assert threading.active_count() == before


# Numbers.

WHOLE_FROM_1 = ("max_entries", "max_bytes", "max_value_bytes", "refresh_concurrency")
WHOLE_FROM_0 = ("push_bytes", "compress_above")
SECONDS = ("connect_timeout", "call_timeout", "call_budget")


@pytest.mark.parametrize("name", [*WHOLE_FROM_1, *WHOLE_FROM_0])
@pytest.mark.parametrize("value", [-1, 1.0, 10.5, "10", True, 2**31, float("nan"), [1]])
def test_a_size_that_is_no_whole_number_in_range_is_a_policy_error(name: str, value: Any) -> None:
    """The error names the setting and its range."""
    least = 1 if name in WHOLE_FROM_1 else 0
    refused(PolicyError, rf"^{name}=.*: must be a whole number from {least} to 2\*\*31 - 1$", **{name: value})


@pytest.mark.parametrize("name", WHOLE_FROM_1)
def test_a_size_of_0_is_a_policy_error(name: str) -> None:
    """A cache of nothing is no cache."""
    refused(PolicyError, f"^{name}=0: ", **{name: 0})


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "1", True, None])
def test_a_time_out_of_range_is_a_policy_error(name: str, value: Any) -> None:
    """Seconds are finite and above 0, as in a policy."""
    refused(PolicyError, rf"^{name}=.*: must be a number in \(0, 1e9\]", **{name: value})


def test_the_least_and_the_largest_settings_are_taken() -> None:
    """Both ends of every range."""
    for value in (1, 2**31 - 1):
        Cache(**dict.fromkeys(WHOLE_FROM_1, value), **dict.fromkeys(WHOLE_FROM_0, value)).close()  # type: ignore[arg-type]
    Cache(push_bytes=0, compress_above=0, connect_timeout=1e-6, call_timeout=1e9, call_budget=1).close()
    Cache(max_bytes=None, policy=None, weigh=None, store=None, around_load=None, compress=None).close()


# Everything else.


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("policy", {"ttl": 60}, "policy must be a Policy, not dict"),
        ("policy", Policy, "policy must be a Policy, not type"),
        ("store", {}, r"store must be a cachetools\.Cache, not dict"),
        ("weigh", 1, "weigh must be callable, not int"),
        ("around_load", nullcontext(), "around_load must be callable, not nullcontext"),
        ("url", 6379, "url must be a str such as 'redis://localhost:6379/0', not int"),
        ("url", b"redis://localhost", "url must be a str .*, not bytes"),
        ("client", NOWHERE, r"client must be a redis\.Redis or redis\.asyncio\.Redis, not str"),
        ("client", redis.Connection(), "client must be .*, not Connection"),
        ("max_entires", 5, "max_entires"),
    ],
)
def test_a_setting_of_the_wrong_type_is_a_type_error(name: str, value: Any, match: str) -> None:
    """The error names the setting and the type it got."""
    refused(TypeError, match, **{name: value})


@pytest.mark.parametrize("value", ["gzip", "", True, "ZLIB", 1])
def test_an_unknown_compression_is_a_policy_error(value: Any) -> None:
    """The error lists the choices."""
    refused(PolicyError, "compress=.*: must be one of None, 'zlib', 'zstd'", compress=value)


@pytest.mark.parametrize("value", ["", "a b", "a{b", "a:b", "é", "x" * 65, "ok\n", "a/b", 5, None])
def test_a_namespace_that_is_no_name_is_a_value_error(value: Any) -> None:
    """1 to 64 letters, digits, dots, dashes and underlines."""
    refused(ValueError, "namespace=.*: must be 1 to 64 of A-Z a-z 0-9", namespace=value)


@pytest.mark.parametrize("value", ["a", "x" * 64, "Shop_2.eu-west"])
def test_a_namespace_is_kept(value: str) -> None:
    """As it is, and readable."""
    with Cache(namespace=value) as cache:
        assert cache.namespace == value


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "localhost",
        "http://localhost",
        "redis://localhost:port",
        "redis://localhost:99999",
        "redis://localhost:1:2",
        "redis://localhost/zero",
        "redis://localhost/-1",
        "redis://localhost?socket_timeout=soon",
        "redis://localhost?no_such_setting=1",
        "redis://[::1",
    ],
)
def test_a_url_that_is_no_redis_address_is_a_value_error(url: str) -> None:
    """The error says what an address looks like."""
    refused(ValueError, r"^url: not a Redis address.*; use redis://host:port/db, rediss://.* or unix://", url=url)


@pytest.mark.parametrize("url", ["redis://:hush@host:99999/0", "redis://me:hu/sh@host:1/0", "http://me:hush@host"])
def test_an_error_about_a_url_does_not_tell_the_password(url: str) -> None:
    """It may be logged."""
    with pytest.raises(ValueError, match="not a Redis address") as raised:
        Cache(url)
    assert "hu" not in str(raised.value)
    assert raised.value.__suppress_context__


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost:6379/0",
        "redis://me:hush@localhost",
        "redis://",
        "rediss://localhost:6380/1?ssl_cert_reqs=none",
        "unix:///tmp/redis.sock?db=2",
        "redis://[::1]:6379",
    ],
)
def test_a_url_is_taken_without_a_connection(url: str) -> None:
    """A cache can be made at import time, wherever Redis is, and is shown without its address."""
    with Cache(url) as cache:
        assert repr(cache) == "<tiercache.Cache 'default'>"
    assert repr(cache) == "<tiercache.Cache 'default' closed>"


def test_a_client_of_either_colour_is_taken_without_a_connection() -> None:
    """Its settings are read; itself it is neither used nor closed."""
    for client in (redis.Redis.from_url(NOWHERE, decode_responses=True), redis.asyncio.Redis.from_url(NOWHERE)):
        with Cache(client=client, namespace="shop"):
            pass
        assert client.connection_pool is not None
        assert not getattr(client.connection_pool, "_created_connections", 0)


def test_a_sentinel_client_is_a_type_error() -> None:
    """What is not supported yet says so, instead of connecting somewhere."""
    sentinel = redis.sentinel.Sentinel([("localhost", 1)])
    refused(TypeError, "Sentinel are not supported yet", client=sentinel.master_for("main"))


def test_a_url_and_a_client_are_one_too_many() -> None:
    """Either says where Redis is."""
    refused(TypeError, "either a url or a client", url=NOWHERE, client=redis.Redis())


def test_positional_settings_are_a_type_error() -> None:
    """Only the url has a place."""
    with pytest.raises(TypeError):
        Cache(NOWHERE, "shop")  # type: ignore[misc]


def test_settings_are_in_force() -> None:
    """What was given is what is used, and what was not has the default."""
    codec, policy = MsgpackCodec(), Policy(ttl=5)
    with Cache(codec=codec, policy=policy, max_entries=2) as cache:
        assert cache.codec is codec
        assert cache.policy is policy
        cache.set_many({"a": 1, "b": 2, "c": 3})
        assert (cache.stats()["entries"], cache.stats()["evictions"]) == (2, 1)
        assert cache.get("a") is None
    with Cache() as cache:
        assert (cache.namespace, cache.policy) == ("default", Policy())
    with Cache(max_bytes=100, weigh=lambda value: 40) as cache:
        cache.set_many({"a": 1, "b": 2, "c": 3})
        assert (cache.stats()["entries"], cache.stats()["bytes"]) == (2, 80)


def test_any_cachetools_cache_may_be_the_store() -> None:
    """Its own bound counts."""
    with Cache(store=cachetools.FIFOCache(2)) as cache:
        cache.set_many({"a": 1, "b": 2, "c": 3})
        assert cache.get_many(["a", "b", "c"]) == {"b": 2, "c": 3}
        assert cache.stats()["evictions"] == 1


# No traces.


def test_a_cache_of_tier_1_alone_needs_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """It opens no connection when it is used, pinged or closed either."""
    monkeypatch.setattr(threading.Thread, "start", START)  # a load is timed by a thread
    with Cache() as cache:
        load = cache.cached("x:{x}")(lambda x: x)
        assert load(1) == load(1) == 1
        cache.set("k", 1)
        cache.invalidate("k")
        cache.get_many(["k"])
        cache.ping()

    async def main() -> None:
        async def one() -> int:
            return 1

        async with Cache() as cache:
            await cache.aget_or_load("k", one)
            await cache.aping()

    asyncio.run(main())


def test_a_cache_that_is_dropped_leaves_nothing() -> None:
    """Without close, an unused cache goes when nobody holds it; one that failed to be made, too."""
    caches = [Cache(), Cache(NOWHERE), Cache(client=redis.Redis.from_url(NOWHERE))]
    gone = [weakref.ref(cache) for cache in caches]
    caches.clear()
    with pytest.raises(ValueError, match="namespace"):
        Cache(NOWHERE, namespace="")
    gc.collect()
    assert [cache() for cache in gone] == [None, None, None]


def test_closing_twice_is_no_harm() -> None:
    """close is idempotent, used or not."""
    for cache in (Cache(), Cache(NOWHERE)):
        cache.close()
        cache.close()


# The object.


class Mine(Cache):
    """A user's own kind of cache, with what it needs."""

    def __init__(self, label: str) -> None:
        self.label = label
        super().__init__()


def test_users_may_add_to_a_cache() -> None:
    """Attributes of their own, before it is made and after, and tests that replace a method of one cache."""
    cache: Any = Mine("catalogue")
    cache.other = 1
    assert (cache.label, cache.other) == ("catalogue", 1)
    plain: Any = Cache()
    plain.label = "plain"
    with mock.patch.object(plain, "get", return_value="replaced"):
        assert plain.get("k") == "replaced"
    assert plain.get("k") is None
    assert vars(plain) == {"label": "plain"}


@pytest.mark.parametrize("method", ["get", "get_or_load", "aget", "aget_or_load"])
def test_the_interpreter_remembers_where_a_hits_method_is(method: str) -> None:
    """What it looks up at every call costs as much as the rest of a hit; so nothing of ours is in a cache's dict."""
    cache = Cache()
    assert vars(Cache()) == {}
    cache.set("k", 1, ttl=60)
    scope: dict[str, Any] = {}
    exec(f"def calls(cache):\n for _ in range(1000):\n  cache.{method}('k', None)", scope)
    scope["calls"](cache)
    [found] = [each.opname for each in dis.get_instructions(scope["calls"], adaptive=True) if each.argval == method]
    assert found not in ("LOAD_METHOD", "LOAD_METHOD_ADAPTIVE", "LOAD_ATTR", "LOAD_ATTR_ADAPTIVE")
