"""Groups tier2 and tier2-concurrent: reads that Redis answers, beside redis-py's GET with the same decoding.

Ours reads a value and its lifetime, decodes it and keeps it in tier 1; tier 1 has room for one entry here, and the
keys are read in turn, so that it never answers. Callers at the same time have keys of their own: who asks for a key
that another is reading would share that read.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import msgpack
import pytest
import redis
import redis.asyncio
import remote_peers
from peers import needed
from redis_server import RedisServer
from remote_peers import UNPICKLES
from rows import Row

from tiercache import Cache

VALUE = {"id": 42, "name": "popular item", "price": 9.95, "tags": ["a", "b", "c"]}
SYNC = "redis.Redis `get` and `unpackb`"
ASYNC = "redis.asyncio `get` and `unpackb`"
THREADS, TASKS = 16, 64
EACH = 64
KEYS = [f"key:{number}" for number in range(TASKS * EACH)]
READS = 128  # of each of them, at least: it is not their start that is timed
SHARED = f"{THREADS} threads, one shared {SYNC}"
POOLED = f"{TASKS} tasks, {ASYNC}, {TASKS} connections"

Loop = asyncio.AbstractEventLoop


@pytest.fixture
def cache(redis_server: RedisServer) -> Iterator[Cache]:
    """A cache of values that are in Redis, and not in its tier 1."""
    with Cache(redis_server.tcp_url, namespace="tier2", max_entries=1) as cache:
        cache.set_many(dict.fromkeys(KEYS, VALUE), ttl=3600)
        assert cache.get(KEYS[0]) == cache.get(KEYS[1]) == VALUE
        yield cache
        stats = cache.stats()
        assert not stats["joins"], stats
        assert not any(count for name, count in stats.items() if name.startswith("bypass")), stats


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """redis-py, with the same values."""
    with redis.Redis.from_url(redis_server.tcp_url) as client:
        client.mset(dict.fromkeys(KEYS, msgpack.packb(VALUE)))
        yield client


def keys_of(caller: int) -> list[str]:
    """The keys that one of several callers reads."""
    return KEYS[caller * EACH : (caller + 1) * EACH]


def reading(get: Callable[[str], Any], caller: int = 0) -> Callable[[int], None]:
    """Reads n keys, one after another."""

    def run(times: int) -> None:
        for _, key in zip(range(times), cycle(keys_of(caller)), strict=False):
            get(key)

    return run


def awaiting(get: Callable[[str], Any], caller: int = 0) -> Callable[[int], Coroutine[Any, Any, None]]:
    """The same on a loop."""

    async def run(times: int) -> None:
        for _, key in zip(range(times), cycle(keys_of(caller)), strict=False):
            await get(key)

    return run


def in_loop(get: Callable[[str], Any], loop: Loop) -> Callable[[int], None]:
    """One task reads n keys."""
    return lambda times: loop.run_until_complete(awaiting(get)(times))


def in_threads(get: Callable[[str], Any]) -> Callable[[int], None]:
    """THREADS threads read n keys each."""

    def all_at_once(times: int) -> None:
        threads = [threading.Thread(target=reading(get, number), args=(times,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return all_at_once


def in_tasks(get: Callable[[str], Any], loop: Loop) -> Callable[[int], None]:
    """TASKS tasks read n keys each."""

    async def all_at_once(times: int) -> None:
        await asyncio.gather(*[awaiting(get, number)(times) for number in range(TASKS)])

    return lambda times: loop.run_until_complete(all_at_once(times))


def plain(client: redis.Redis) -> Callable[[str], Any]:
    return lambda key: msgpack.unpackb(client.get(key))


@pytest.fixture
def async_client(redis_server: RedisServer, client: redis.Redis, event_loop: Loop) -> Iterator[Callable[[str], Any]]:
    """redis-py's asyncio client, with a connection for each task."""
    async_client = redis.asyncio.Redis.from_url(redis_server.tcp_url, max_connections=TASKS)

    async def get(key: str) -> Any:
        return msgpack.unpackb(await async_client.get(key))

    yield get
    event_loop.run_until_complete(async_client.aclose())


@pytest.fixture
def aget(cache: Cache, event_loop: Loop) -> Iterator[Callable[[str], Any]]:
    """Our read on the loop."""
    yield cache.aget
    event_loop.run_until_complete(cache.aclose())


def dogpile_get(server: RedisServer) -> Callable[[str], Any]:
    needed("dogpile.cache")
    region = remote_peers.dogpile(server.tcp_url)
    region.set_multi(dict.fromkeys(KEYS, VALUE))
    return region.get  # type: ignore[no-any-return]


@contextmanager
def filled(peer: Any, server: RedisServer, loop: Loop) -> Iterator[Callable[[str], Any]]:
    """The `get` of another library's asyncio cache that has the values."""
    needed(peer.__name__)
    cache = peer(server.tcp_url)
    for key in KEYS:
        loop.run_until_complete(cache.set(key, VALUE, 3600))
    yield cache.get
    loop.run_until_complete(cache.close())


ONE_CORE = pytest.mark.usefixtures("one_core")
CPU = pytest.mark.benchmark(timer=time.process_time)


@ONE_CORE
def test_redis(row: Row, client: redis.Redis) -> None:
    row.note("tier2", SYNC, "yardstick")
    row.time(reading(plain(client)))


@ONE_CORE
def test_get(row: Row, cache: Cache) -> None:
    row.note("tier2", "`get`", "ours", SYNC)
    row.time(reading(cache.get))


def test_redis_on_all_cores(row: Row, client: redis.Redis) -> None:
    row.note("tier2", f"{SYNC}, on all cores", "yardstick")
    row.time(reading(plain(client)))


def test_get_on_all_cores(row: Row, cache: Cache) -> None:
    row.note("tier2", "`get`, on all cores", "ours", f"{SYNC}, on all cores", "varies twofold with their cores")
    row.time(reading(cache.get))


@pytest.fixture
def bare(client: redis.Redis) -> Iterator[Callable[[str], Any]]:
    """A GET and its answer on a socket: no client can do less."""
    connection = client.connection_pool.get_connection()
    packed = {key: b"".join(connection.pack_command("GET", key)) for key in keys_of(0)}

    def get(key: str) -> None:
        connection._sock.sendall(packed[key])
        connection._sock.recv(4096)

    yield get
    client.connection_pool.release(connection)


@ONE_CORE
def test_socket(row: Row, bare: Callable[[str], Any]) -> None:
    row.note("tier2", "a bare socket", "peer", SYNC, "sends GET and receives: no client can do less")
    row.time(reading(bare))


def test_socket_on_all_cores(row: Row, bare: Callable[[str], Any]) -> None:
    row.note("tier2", "a bare socket, on all cores", "peer", f"{SYNC}, on all cores", "no client can do less")
    row.time(reading(bare))


@ONE_CORE
@CPU
def test_cpu_of_redis(row: Row, client: redis.Redis) -> None:
    row.note("tier2", f"{SYNC}, processor time", "yardstick")
    row.time(reading(plain(client)))


@ONE_CORE
@CPU
def test_cpu_of_get(row: Row, cache: Cache) -> None:
    row.note("tier2", "`get`, processor time", "ours", f"{SYNC}, processor time", "of all the process's threads")
    row.time(reading(cache.get))


@ONE_CORE
def test_dogpile(row: Row, redis_server: RedisServer) -> None:
    row.note("tier2", "dogpile.cache, Redis, `get`", "peer", SYNC, UNPICKLES)
    row.time(reading(dogpile_get(redis_server)))


@ONE_CORE
def test_async_redis(row: Row, async_client: Callable[[str], Any], event_loop: Loop) -> None:
    row.note("tier2", ASYNC, "yardstick")
    row.time(in_loop(async_client, event_loop))


@ONE_CORE
def test_aget(row: Row, aget: Callable[[str], Any], event_loop: Loop) -> None:
    row.note("tier2", "`aget`, one at a time", "ours", ASYNC)
    row.time(in_loop(aget, event_loop))


@ONE_CORE
@pytest.mark.parametrize(
    ("peer", "note"),
    [
        pytest.param(remote_peers.cashews, UNPICKLES, id="cashews"),
        pytest.param(remote_peers.aiocache, "JSON; no tier 1, no lifetime", id="aiocache"),
    ],
)
def test_async_peer(row: Row, peer: Any, note: str, redis_server: RedisServer, event_loop: Loop) -> None:
    row.note("tier2", f"{peer.__name__}, Redis, `get`", "peer", ASYNC, note)
    with filled(peer, redis_server, event_loop) as get:
        row.time(in_loop(get, event_loop))


def test_threads_of_redis(row: Row, client: redis.Redis) -> None:
    row.note("tier2-concurrent", SHARED, "yardstick")
    row.time(in_threads(plain(client)), THREADS, READS)


def test_threads_of_get(row: Row, cache: Cache) -> None:
    row.note("tier2-concurrent", f"{THREADS} threads, `get`", "ours", SHARED)
    row.time(in_threads(cache.get), THREADS, READS)


def test_threads_of_dogpile(row: Row, redis_server: RedisServer) -> None:
    row.note("tier2-concurrent", f"{THREADS} threads, dogpile.cache", "peer", SHARED, UNPICKLES)
    row.time(in_threads(dogpile_get(redis_server)), THREADS, READS)


def test_tasks_of_redis(row: Row, async_client: Callable[[str], Any], event_loop: Loop) -> None:
    row.note("tier2-concurrent", POOLED, "yardstick")
    row.time(in_tasks(async_client, event_loop), TASKS, READS)


def test_tasks_of_aget(row: Row, aget: Callable[[str], Any], event_loop: Loop) -> None:
    row.note("tier2-concurrent", f"{TASKS} tasks, `aget`", "ours", POOLED)
    row.time(in_tasks(aget, event_loop), TASKS, READS)


def test_tasks_of_cashews(row: Row, redis_server: RedisServer, event_loop: Loop) -> None:
    row.note("tier2-concurrent", f"{TASKS} tasks, cashews", "peer", POOLED, UNPICKLES)
    with filled(remote_peers.cashews, redis_server, event_loop) as get:
        row.time(in_tasks(get, event_loop), TASKS, READS)
