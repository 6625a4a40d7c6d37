"""One connection per event loop: shared, in order, bounded in time, and gone with its loop."""

import asyncio
import gc
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from redis_server import PATIENT, RedisServer
from test_flow import BYPASSES

from tiercache import Cache, RemoteUnavailable
from tiercache.aio_link import LoopLink


async def busy(turn: float) -> None:
    """Other tasks, each turn of whom takes so many seconds."""
    while True:
        time.sleep(turn)
        await asyncio.sleep(0)


def connections(server: RedisServer, of_kind: str = "normal") -> int:
    with server.client() as client:
        return len(client.client_list(_type=of_kind)) - 1


def test_the_tasks_of_a_loop_share_one_connection(make_cache: Callable[..., Cache], redis_server: RedisServer) -> None:
    """A hundred reads at once take one connection, and each gets its own answer."""
    cache = make_cache()
    keys = [f"k{number}" for number in range(100)]

    async def main() -> None:
        await cache.aset_many({key: key * 3 for key in keys})
        cache.clear_local()
        before = connections(redis_server)
        assert await asyncio.gather(*[cache.aget(key) for key in keys]) == [key * 3 for key in keys]
        assert connections(redis_server) == before

    asyncio.run(main())
    assert cache.stats()["hits_remote"] == 100


def test_a_turn_of_the_loop_is_few_writes(make_cache: Callable[..., Cache], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 32 requests each, so that Redis answers while the turn goes on asking."""
    cache, writes = make_cache(**PATIENT), list[int]()
    write = LoopLink._write

    def noted(self: LoopLink, packed: bytes, batch: list[Any]) -> None:
        assert packed.count(b"PTTL") == len(batch)
        writes.append(len(batch))
        write(self, packed, batch)

    async def main() -> None:
        await cache.aget("k0")
        monkeypatch.setattr(LoopLink, "_write", noted)
        await asyncio.gather(*[cache.aget(f"k{number}") for number in range(100)])
        await cache.aget("k0")

    asyncio.run(main())
    assert writes == [1, 32, 32, 32, 3, 1]


def test_a_cancelled_reader_leaves_its_place_in_the_queue(make_cache: Callable[..., Cache]) -> None:
    """Half of the readers are cancelled while their answers are under way; nobody gets another's."""
    cache = make_cache()
    keys = [f"k{number}" for number in range(200)]

    async def main() -> None:
        await cache.aset_many({key: key for key in keys})
        cache.clear_local()
        tasks = [asyncio.ensure_future(cache.aget(key)) for key in keys]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for key, result in zip(keys, results, strict=True):
            assert result == key or isinstance(result, asyncio.CancelledError)
        assert results[1::2] == keys[1::2]
        cache.clear_local()
        assert await asyncio.gather(*[cache.aget(key) for key in keys]) == keys

    asyncio.run(main())


def test_a_lost_connection_is_made_again(make_cache: Callable[..., Cache], redis_server: RedisServer) -> None:
    """A read whose connection was killed is repeated on a new one."""
    cache = make_cache()

    async def main() -> None:
        await cache.aset("k", 1)
        with redis_server.client() as client:
            own = client.client_id()
            for each in client.client_list(_type="normal"):
                if int(each["id"]) != own:
                    client.client_kill_filter(_id=each["id"])
        cache.clear_local()
        assert await cache.aget("k") == 1

    asyncio.run(main())
    assert cache.stats()["breaker_opened"] == 0


def test_a_stopped_server_is_not_waited_for() -> None:
    """Calls end within the budget, load by themselves, and are counted; afterwards everything works again."""

    async def main(server: RedisServer) -> None:
        async with Cache(server.url, call_timeout=0.05, call_budget=0.2) as cache:
            await cache.aset("k", 1)
            cache.clear_local()
            server.process.send_signal(signal.SIGSTOP)
            try:
                assert await asyncio.wait_for(cache.aget_or_load("k", lambda: 2), 10) == 2
                with pytest.raises(RemoteUnavailable, match="'k'"):
                    await cache.aset("k", 3)
                stats = cache.stats()
                assert stats["bypass_unanswered"] + stats["bypass_breaker"] == 1
            finally:
                server.process.send_signal(signal.SIGCONT)
            for _ in range(500):
                try:
                    await cache.aset("k", 4)
                except RemoteUnavailable:
                    await asyncio.sleep(0.02)
                else:
                    break
            assert await cache.aget("k") == 4

    with RedisServer() as server:
        asyncio.run(main(server))


@pytest.mark.parametrize("connected", [False, True])
def test_a_blocked_loop_is_no_failure_of_redis(make_cache: Callable[..., Cache], connected: bool) -> None:
    """Blocked for longer than connecting, a call and a whole load may take: reads, loads and commits are as ever."""
    cache = make_cache(connect_timeout=1, call_timeout=1, call_budget=2)
    cache.set("stored", "value")
    cache.clear_local()

    async def main() -> list[str]:
        if connected:
            await cache.aget("none")
        keys = ["a", "stored", "b"]
        calls = [asyncio.ensure_future(cache.aget_or_load(key, lambda: "loaded")) for key in keys]
        asyncio.get_running_loop().call_soon(time.sleep, 2.5)  # what they ask first is written before it or after
        return await asyncio.gather(*calls)

    assert asyncio.run(main()) == ["loaded", "value", "loaded"]
    stats = cache.stats()
    assert (stats["grants"], stats["commits"], stats["hits_remote"]) == (2, 2, 1)
    assert not any(stats[name] for name in (*BYPASSES, "unread", "breaker_opened")), stats


def test_a_busy_loop_is_no_failure_of_redis(make_cache: Callable[..., Cache], redis_server: RedisServer) -> None:
    """Each turn is shorter than a connection may take, which takes several turns."""
    cache = make_cache(redis_server.tcp_url, connect_timeout=0.02, call_timeout=5, call_budget=10)
    cache.set("stored", "value")
    cache.clear_local()

    async def main() -> Any:
        others = asyncio.ensure_future(busy(0.008))
        try:
            return await cache.aget("stored")
        finally:
            others.cancel()

    assert asyncio.run(main()) == "value"
    stats = cache.stats()
    assert (stats["hits_remote"], stats["unread"], stats["breaker_opened"]) == (1, 0, 0), stats


def test_a_value_over_the_limit_is_a_miss(make_cache: Callable[..., Cache]) -> None:
    """A record too large for this reader is not fetched, and can be replaced."""
    writer, reader = make_cache(), make_cache(max_value_bytes=10_000)

    async def main() -> Any:
        await writer.aset("k", b"x" * 1_000_000)
        assert await reader.aget("k", "absent") == "absent"
        assert await reader.aget_or_load("k", lambda: "small") == "small"
        writer.clear_local()
        return await writer.aget_or_load("k", lambda: "never")

    assert asyncio.run(main()) == "small"


def test_a_loop_takes_its_connection_with_it(make_cache: Callable[..., Cache], redis_server: RedisServer) -> None:
    """Fifty asyncio.run with one cache hold neither sockets nor loops."""
    cache = make_cache()
    cache.set("k", 1)
    before = connections(redis_server)

    async def main() -> Any:
        cache.clear_local()
        return await cache.aget("k")

    for _ in range(50):
        assert asyncio.run(main()) == 1
    gc.collect()
    assert len(cache._process.loops()._links) <= 1
    assert connections(redis_server) <= before + 1
