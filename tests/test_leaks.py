"""Memory is flat over every kind of operation, as a process of its own measures: after a warm-up nothing grows."""

import asyncio
import gc
import multiprocessing
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from redis_server import RedisServer

from tiercache import Cache, Policy
from tiercache.blocking import run

STATUS = Path("/proc/self/status")
GROWTH = 3 * 2**20  # bytes that the process may have grown by: Python's allocator takes and gives back one MiB at a
# time, and on CPython 3.13 goes up and down by two
BLOCKS = 2_000  # blocks of Python's allocator, of which there is one for each object
PATIENT: dict[str, Any] = {"connect_timeout": 30.0, "call_timeout": 30.0, "call_budget": 60.0}
POLICY = Policy(negative_errors=(KeyError,), error_backoff=0.0001, error_backoff_max=0.0001, stale_if_error=0)

pytestmark = pytest.mark.skipif(not STATUS.exists(), reason="a process's memory is read from /proc")


class Work:
    """Every kind of operation on one cache; the number decides on the key. More keys than fit."""

    def __init__(self, cache: Cache, loop: asyncio.AbstractEventLoop, pool: ThreadPoolExecutor) -> None:
        self.cache, self.loop, self.pool = cache, loop, pool

        @cache.cached("decorated:{n}")
        def decorated(n: int) -> dict[str, int]:
            return {"n": n}

        @cache.cached
        async def adecorated(n: int, *, word: str = "") -> list[int]:
            return [n]

        self.decorated, self.adecorated = decorated, adecorated

    def sync(self, n: int) -> None:
        """Hits, misses, loads, evictions, sets, invalidations, refreshes, batches."""
        cache, key = self.cache, f"key:{n % 200}"
        cache.set("hot", n)
        assert cache.get("hot") == n
        cache.get(f"absent:{n}")
        assert cache.get_or_load(key, lambda: [key, 1.5, None]) == [key, 1.5, None]
        assert self.decorated(n % 150) == {"n": n % 150}
        assert cache.get_or_load(f"none:{n % 50}", lambda: None) is None
        cache.refresh(key, lambda: [key, 1.5, None])
        cache.set_many({f"many:{n % 7}": n, "many": "x" * 100})
        cache.get_many(["many", key, "absent"])
        cache.invalidate(key, "many", keep_stale=n % 2 == 0)
        if n % 50 == 0:
            self.decorated.invalidate(n % 150)
            assert len(cache.hot(3)) <= 3
            if (reports := cache._process.reports) is not None:
                run(reports._report(cache._process.blocking()))
                assert len(cache.hot(3, fleet=True)) == 3
            cache.clear_local()
            cache.stats()

    def failing(self, n: int) -> None:
        """Loaders that raise, negative errors, values and arguments that can't be."""
        for error in (ValueError, KeyError):
            with pytest.raises(error):
                self.cache.get_or_load(
                    f"{error.__name__}:{n % 100}", lambda error=error: [].clear() or _raise(error("on purpose"))
                )
        for call in (
            lambda: self.cache.get(n),  # type: ignore[call-overload]
            lambda: self.cache.get_or_load("x", "no loader"),  # type: ignore[call-overload]
            lambda: self.cache.get_or_load(f"ttl:{n}", list, ttl=-1),
            lambda: self.decorated(n, n),  # type: ignore[call-arg]
        ):
            with pytest.raises((TypeError, ValueError)):
                call()

    def joined(self, n: int) -> None:
        """Two threads on one flight; the second joins or finds what was loaded."""
        running, go_on = threading.Event(), threading.Event()

        def load() -> int:
            running.set()
            go_on.wait(60)
            return n

        first = self.pool.submit(self.cache.get_or_load, f"joined:{n}", load)
        running.wait(60)
        second = self.pool.submit(self.cache.get_or_load, f"joined:{n}", load)
        go_on.set()
        assert first.result(60) == second.result(60) == n

    async def aio(self, n: int) -> None:
        """The async twins, with followers and a caller that is cancelled."""
        cache, key = self.cache, f"akey:{n % 200}"

        async def load() -> str:
            await asyncio.sleep(0)
            return key

        await cache.aset("hot", n)
        assert await cache.aget("hot") == n
        assert await asyncio.gather(*[cache.aget_or_load(key, load) for _ in range(3)]) == [key] * 3
        assert await self.adecorated(n % 150, word="w") == [n % 150]
        await cache.aget_many([key, "absent"])
        task = asyncio.ensure_future(cache.aget_or_load(f"cancelled:{n}", load))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        with pytest.raises(ValueError, match="on purpose"):
            await cache.aget_or_load(f"error:{n % 100}", lambda: _raise(ValueError("on purpose")))
        await cache.arefresh(key, load)
        await cache.aset_many({f"many:{n % 7}": n, "many": "x" * 100})
        await cache.ainvalidate(key)

    def run(self, start: int, times: int) -> int:
        """So many rounds; returns how many operations these were, at least."""

        async def all_tasks() -> None:
            for n in range(start, start + times):
                await self.aio(n)

        for n in range(start, start + times):
            self.sync(n)
            self.failing(n)
            if n % 10 == 0:
                self.joined(n)
        self.loop.run_until_complete(all_tasks())
        return times * 30


def _raise(error: Exception) -> Any:
    raise error


def memory() -> tuple[int, int]:
    """Bytes in memory, and allocated blocks, with all garbage collected."""
    gc.collect()
    [line] = [line for line in STATUS.read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024, sys.getallocatedblocks()


def grow(pipe: Any, url: str | None, rounds: int) -> None:
    """Warm up, measure, work, measure; send the operations done and both growths."""
    loop = asyncio.new_event_loop()
    with Cache(url, policy=POLICY, max_entries=70, **PATIENT) as cache, ThreadPoolExecutor(2) as pool:
        work = Work(cache, loop, pool)
        work.run(0, max(1_000, rounds // 3))
        size, blocks = memory()
        done = work.run(10**6, rounds)
        more, more_blocks = memory()
        loop.run_until_complete(cache.aclose())
    loop.close()
    pipe.send((done, more - size, more_blocks - blocks))


@pytest.mark.parametrize("tiers", [1, 2])
def test_memory_is_flat(
    redis_server: RedisServer,
    tiers: int,
    amount: Callable[[int, int], int],
    record_property: Callable[[str, object], None],
) -> None:
    """Every kind of operation, thousands of times: the process has grown by less than three megabytes."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    url = redis_server.url if tiers == 2 else None
    rounds = amount({1: 1_500, 2: 300}[tiers], 34_000)
    process = spawn.Process(target=grow, args=(theirs, url, rounds), daemon=True)
    process.start()
    theirs.close()
    try:
        assert ours.poll(amount(180, 3_600)), "it did not end"
        done, grown, blocks = ours.recv()
    finally:
        process.join(30)
        process.kill()
        process.join()
        ours.close()
    assert grown < GROWTH
    assert blocks < BLOCKS
    record_property("operations", done)
    record_property("grown_bytes", grown)
    record_property("grown_blocks", blocks)
