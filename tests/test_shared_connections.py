"""Many callers on few connections: each gets its own answer, whatever breaks, however it is reached."""

import asyncio
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from redis_server import RedisServer, free_port
from test_herd import Monitor
from test_tls_acl import Authority
from tier2 import FakeRedis

from tiercache import Cache
from tiercache.aio_link import LADEN, LoopLink
from tiercache.remote.links import Links

sys.path.append(str(Path(__file__).parent / "chaos"))

from proxy import Direction, Proxy

PATIENT: dict[str, Any] = {"connect_timeout": 9, "call_timeout": 9, "call_budget": 30}
PASSWORD = "s3cret /?#"


def read_by_threads(cache: Cache, keys: list[str], pool: ThreadPoolExecutor) -> list[Any]:
    return list(pool.map(cache.get, keys))


# However Redis is reached.


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., dict[str, Any]]]:
    """A server with TLS, a password and a user: the arguments of redis.Redis by transport and login."""
    authority = Authority(tmp_path_factory.mktemp("tls"), "ca")
    cert, key = authority.issue("server", names="DNS:localhost")
    tls = ("--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", authority.cert)
    port = free_port()
    server = RedisServer("--tls-port", str(port), "--tls-auth-clients", "no", *tls, password=PASSWORD)
    with server, server.client() as client:
        client.execute_command("ACL", "SETUSER", "shop", "on", f">{PASSWORD}", "~tc1:*", "&tc1:*", "+@all")
        ways: dict[str, dict[str, Any]] = {
            "tcp": {"host": "127.0.0.1", "port": server.port},
            "unix": {"unix_socket_path": server.socket_path},
            "tls": {"host": "localhost", "port": port, "ssl": True, "ssl_ca_certs": authority.cert},
        }
        logins: dict[str, dict[str, Any]] = {
            "password": {"password": PASSWORD},
            "user": {"username": "shop", "password": PASSWORD},
        }
        yield lambda way, login: ways[way] | logins[login]


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("login", ["password", "user"])
@pytest.mark.parametrize("way", ["tcp", "unix", "tls"])
@pytest.mark.parametrize("colour", [redis.Redis, redis.asyncio.Redis], ids=["client", "asyncio client"])
def test_every_way_to_redis_carries_many_callers(
    guarded: Any, make_cache: Callable[..., Cache], colour: Any, way: str, login: str, protocol: int
) -> None:
    """With a ready-made client of either colour and protocol, threads and tasks read all that was stored."""
    cache = make_cache(None, client=colour(**guarded(way, login), protocol=protocol), **PATIENT)
    keys = [f"k{n}" for n in range(48)]
    values = {key: key * (40_000 if n % 16 == 5 else 3) for n, key in enumerate(keys)}

    async def read() -> list[Any]:
        return await asyncio.gather(*map(cache.aget, keys))

    cache.ping()
    cache.set_many(values)
    cache.clear_local()
    assert asyncio.run(read()) == list(values.values())
    cache.clear_local()
    with ThreadPoolExecutor(16) as pool:
        assert read_by_threads(cache, keys, pool) == list(values.values())
    assert cache.get_or_load("loaded", lambda: 1) == 1
    stats = cache.stats()
    assert (stats["hits_remote"], stats["commits"], stats["epochs"]) == (96, 1, 1)
    assert (stats["unread"], stats["undecodable"], stats["breaker_opened"]) == (0, 0, 0)


# Whatever breaks.


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    with Proxy(redis_server.port) as proxy:
        yield proxy


@pytest.mark.parametrize("way", ["up", "down"])
def test_tasks_lose_no_answer_to_a_cut_at_any_byte(
    proxy: Proxy, make_cache: Callable[..., Cache], way: Direction, amount: Callable[[int, int], int]
) -> None:
    """Cut after each byte of a batch in turn, some of its tasks cancelled: every other one gets its own value."""
    cache = make_cache(proxy.url, **PATIENT)
    keys = [f"k{n}" for n in range(6)]
    chance = random.Random(7)

    async def main() -> None:
        await cache.aset_many({key: key * 2 for key in keys})
        for size in range(1, 800, amount(3, 1)):
            proxy.cut_after(10**9, way)
            for key in keys:
                cache.table.cut(key)
                assert await cache.aget(key) == key * 2  # behind what the last round left on its way
                cache.table.cut(key)
            proxy.cut_after(size, way)
            tasks = [asyncio.ensure_future(cache.aget(key)) for key in keys]
            left = {n for n in range(len(keys)) if chance.random() < 0.3}
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            for n in left:
                tasks[n].cancel()
            for n, result in enumerate(await asyncio.gather(*tasks, return_exceptions=True)):
                assert result == keys[n] * 2 or (n in left and isinstance(result, asyncio.CancelledError)), size

    asyncio.run(main())
    stats = cache.stats()
    assert (stats["unread"], stats["misses"], stats["undecodable"], stats["breaker_opened"]) == (0, 0, 0, 0)


@pytest.mark.parametrize("way", ["up", "down"])
def test_threads_lose_no_answer_to_a_cut_at_any_byte(
    proxy: Proxy, make_cache: Callable[..., Cache], way: Direction, amount: Callable[[int, int], int]
) -> None:
    """Cut after each byte in turn: every thread gets its own value."""
    cache = make_cache(proxy.url, **PATIENT)
    keys = [f"k{n}" for n in range(6)]
    cache.set_many({key: key * 2 for key in keys})
    with ThreadPoolExecutor(len(keys)) as pool:
        for size in range(1, 800, amount(3, 1)):
            for key in keys:
                cache.table.cut(key)
            proxy.cut_after(size, way)
            assert read_by_threads(cache, keys, pool) == [key * 2 for key in keys], size
    stats = cache.stats()
    assert (stats["unread"], stats["misses"], stats["undecodable"], stats["breaker_opened"]) == (0, 0, 0, 0)


def test_a_batch_that_is_not_answered_in_time_fails_as_a_whole_and_once(
    proxy: Proxy, make_cache: Callable[..., Cache]
) -> None:
    """Half-open: every task of the batch is told, the next ones have a connection of their own."""
    cache = make_cache(proxy.url, **(PATIENT | {"call_timeout": 0.3, "call_budget": 0.3}))
    keys = [f"k{n}" for n in range(20)]

    async def main() -> None:
        await cache.aset_many({key: key for key in keys})
        cache.clear_local()
        assert await cache.aget(keys[0]) == keys[0]
        proxy.drop("down")
        assert await asyncio.gather(*[cache.aget(key, "default") for key in keys[1:]]) == ["default"] * 19
        proxy.recover()
        while await cache.aget(keys[1], "default") == "default":
            await asyncio.sleep(0.05)
        assert await asyncio.gather(*map(cache.aget, keys)) == keys

    asyncio.run(main())


def test_a_request_that_waited_for_its_turn_of_the_loop_has_its_whole_time(
    proxy: Proxy, make_cache: Callable[..., Cache]
) -> None:
    """It is written after the loop was blocked, and answered on the same connection a while later."""
    cache = make_cache(proxy.url, **(PATIENT | {"call_timeout": 2}))
    keys = ["first", "second"]

    async def main() -> None:
        await cache.aset_many({key: key for key in keys})
        cache.clear_local()
        link = cache._process.loops().links(asyncio.get_running_loop()).free()
        proxy.delay(0.2, "down")
        reads = [asyncio.ensure_future(cache.aget(key)) for key in keys]
        asyncio.get_running_loop().call_soon(time.sleep, 2.5)
        assert await asyncio.gather(*reads) == keys
        assert cache._process.loops().links(asyncio.get_running_loop()).free() is link

    asyncio.run(main())


# Large and small.


def half_of_a_large_value(command: list[bytes]) -> bytes:
    """A server's answer: the reply to a large read stops half way."""
    if command[0] == b"SUBSCRIBE":
        return b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n" * (len(command) - 1)
    if command[0] == b"GET":
        return b"$1000000\r\n" + b"x" * 500_000 if b"large" in command[1] else b"$-1\r\n"
    return b":60000\r\n"


def test_a_thread_does_not_wait_for_anothers_large_value(make_cache: Callable[..., Cache]) -> None:
    """A reply stops half way; meanwhile a small one is read on another connection."""
    with FakeRedis(half_of_a_large_value) as server:
        cache = make_cache(server.url, **PATIENT)
        reading = threading.Thread(target=cache.get, args=("large",))
        reading.start()
        assert cache.get("small", "absent") == "absent"
        assert reading.is_alive()
    reading.join(60)


def test_a_task_does_not_wait_for_anothers_large_value(make_cache: Callable[..., Cache]) -> None:
    """A reply stops half way; from then on, others use another connection of the loop."""

    async def main() -> None:
        reading = asyncio.ensure_future(cache.aget("large"))
        links = cache._process.loops().links(asyncio.get_running_loop())
        while not (links._links and links._links[0]._moved > LADEN):
            await asyncio.sleep(0.01)
        assert await cache.aget("small", "absent") == "absent"
        assert not reading.done()
        assert len(links._links) == 2
        reading.cancel()

    with FakeRedis(half_of_a_large_value) as server:
        cache = make_cache(server.url, **PATIENT)
        asyncio.run(main())


# What it costs.


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_the_round_trips_of_a_caller(
    make_cache: Callable[..., Cache], redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, colour: str
) -> None:
    """Three for the leader of a miss, one for a hit in Redis, none for one in this process."""
    cache = make_cache(**PATIENT)
    trips: list[bytes] = []
    links, loop_link = Links.exchange, LoopLink.exchange

    def exchange(self: Links, packed: bytes, *rest: Any) -> Any:
        trips.append(packed)
        return links(self, packed, *rest)

    async def aexchange(self: LoopLink, packed: bytes, *rest: Any) -> Any:
        trips.append(packed)
        return await loop_link(self, packed, *rest)

    cache.ping()
    cache.get_or_load("first", lambda: 0)  # the scripts are known from here on
    monkeypatch.setattr(Links, "exchange", exchange)
    monkeypatch.setattr(LoopLink, "exchange", aexchange)

    def call() -> tuple[Any, int]:
        trips.clear()
        value = cache.get_or_load("k", lambda: 1) if colour == "sync" else asyncio.run(async_call())
        return value, len(trips)

    async def async_call() -> Any:
        return await cache.aget_or_load("k", lambda: 1)

    monitor = Monitor(redis_server)
    assert call() == (1, 3)
    assert call() == (1, 0)
    cache.clear_local()
    assert call() == (1, 1)
    names = [each.split(" ")[0].upper() for each in monitor.stop(redis_server)]
    assert names == ["PTTL", "GET", "EVALSHA", "EVALSHA", "PTTL", "GET"]
