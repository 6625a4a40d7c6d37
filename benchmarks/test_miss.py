"""Group miss: a whole miss whose load takes no time (look, take the lease, load, store), beside one GET."""

import asyncio
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
import redis
import redis.asyncio
import remote_peers
from peers import needed
from redis_server import RedisServer
from rows import Row

from tiercache import Cache

SYNC, ASYNC = "redis.Redis `get`", "redis.asyncio `get`"

Loop = asyncio.AbstractEventLoop
pytestmark = pytest.mark.usefixtures("one_core")
numbers = count()


@pytest.fixture
def cache(redis_server: RedisServer) -> Iterator[Cache]:
    with Cache(redis_server.tcp_url, namespace="miss") as cache:
        cache.get_or_load("warm", int)
        yield cache
        stats = cache.stats()
        assert not any(number for name, number in stats.items() if name.startswith("bypass")), stats


def missing(miss: Callable[[str], Any]) -> Callable[[int], None]:
    """Asks for n keys that nobody asked for before."""

    def run(times: int) -> None:
        for _ in range(times):
            miss(f"missed:{next(numbers)}")

    return run


def awaiting(miss: Callable[[str], Any], loop: Loop) -> Callable[[int], None]:
    """The same on a loop."""

    async def run(times: int) -> None:
        for _ in range(times):
            await miss(f"missed:{next(numbers)}")

    return lambda times: loop.run_until_complete(run(times))


def load() -> int:
    return 1


async def aload() -> int:
    return 1


def test_redis(row: Row, redis_server: RedisServer) -> None:
    row.note("miss", SYNC, "yardstick")
    with redis.Redis.from_url(redis_server.tcp_url) as client:
        row.time(missing(client.get))


def test_get_or_load(row: Row, cache: Cache) -> None:
    row.note("miss", "`get_or_load`", "ours", SYNC)
    row.time(missing(lambda key: cache.get_or_load(key, load)))


def test_dogpile(row: Row, redis_server: RedisServer) -> None:
    needed("dogpile.cache")
    region = remote_peers.dogpile(redis_server.tcp_url, distributed_lock=True, thread_local_lock=False, lock_timeout=60)
    row.note("miss", "dogpile.cache, distributed lock", "peer", SYNC, "a lock, but nobody is told when it ends")
    row.time(missing(lambda key: region.get_or_create(key, load)))


def test_async_redis(row: Row, redis_server: RedisServer, event_loop: Loop) -> None:
    row.note("miss", ASYNC, "yardstick")
    client = redis.asyncio.Redis.from_url(redis_server.tcp_url)
    row.time(awaiting(client.get, event_loop))
    event_loop.run_until_complete(client.aclose())


def test_aget_or_load(row: Row, cache: Cache, event_loop: Loop) -> None:
    row.note("miss", "`aget_or_load`", "ours", ASYNC)
    row.time(awaiting(lambda key: cache.aget_or_load(key, aload), event_loop))
    event_loop.run_until_complete(cache.aclose())


@pytest.mark.parametrize(("locked", "note"), [(True, "a lock, polled by those who wait"), (False, "no lock")])
def test_cashews(row: Row, locked: bool, note: str, redis_server: RedisServer, event_loop: Loop) -> None:
    needed("cashews")
    cache = remote_peers.cashews(redis_server.tcp_url)
    function = cache(ttl=3600, key="{key}", lock=locked)(_load_of_key)
    row.note("miss", f"cashews, `lock={locked}`", "peer", ASYNC, note)
    row.time(awaiting(function, event_loop))
    event_loop.run_until_complete(cache.close())


async def _load_of_key(key: str) -> int:
    return 1
