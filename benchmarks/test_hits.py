"""Groups hit, hit-decorated and hit-async: what a hit in tier 1 costs beside the yardstick of its group.

Compare the rows of one group of one run: python -m pytest benchmarks --benchmark-group-by=group
"""

import asyncio
import functools
import threading
from typing import Any

import cachetools
import pytest

from tiercache import Cache


@pytest.fixture(scope="module")
def cache() -> Cache:
    cache = Cache()
    cache.set("key", 1, ttl=3600)
    return cache


def load() -> int:
    raise AssertionError("a hit runs no loader")


@functools.lru_cache(maxsize=128)
def lru_cached(key: object) -> object:
    return key


@cachetools.cached(cachetools.LRUCache(128), lock=threading.Lock())
def cachetools_cached(key: object) -> object:
    return key


@pytest.mark.benchmark(group="hit")
def test_yardstick_lru_cache(benchmark: Any) -> None:
    lru_cached("key")
    benchmark(lru_cached, "key")


@pytest.mark.benchmark(group="hit")
def test_get(benchmark: Any, cache: Cache) -> None:
    benchmark(cache.get, "key")


@pytest.mark.benchmark(group="hit")
def test_get_or_load(benchmark: Any, cache: Cache) -> None:
    benchmark(cache.get_or_load, "key", load)


@pytest.mark.benchmark(group="hit-decorated")
def test_yardstick_lru_cache_of_an_int(benchmark: Any) -> None:
    lru_cached(42)
    benchmark(lru_cached, 42)


@pytest.mark.benchmark(group="hit-decorated")
def test_cachetools(benchmark: Any) -> None:
    cachetools_cached(42)
    benchmark(cachetools_cached, 42)


@pytest.mark.benchmark(group="hit-decorated")
def test_decorated(benchmark: Any, cache: Cache) -> None:
    @cache.cached("item:{item_id}", ttl=3600)
    def get_item(item_id: int) -> int:
        return item_id

    get_item(42)
    benchmark(get_item, 42)


async def empty() -> None:
    pass


def awaiting(call: Any, times: int = 1000) -> Any:
    """A function that awaits `call()` so many times on a loop of its own."""
    loop = asyncio.new_event_loop()

    async def main() -> None:
        for _ in range(times):
            await call()

    def run() -> None:
        loop.run_until_complete(main())

    return run, loop


@pytest.mark.benchmark(group="hit-async (1000 each)")
def test_yardstick_awaiting_an_empty_coroutine(benchmark: Any) -> None:
    run, loop = awaiting(empty)
    benchmark(run)
    loop.close()


@pytest.mark.benchmark(group="hit-async (1000 each)")
def test_awaited_decorated(benchmark: Any, cache: Cache) -> None:
    @cache.cached("aitem:{item_id}", ttl=3600)
    async def get_item(item_id: int) -> int:
        return item_id

    run, loop = awaiting(lambda: get_item(42))
    loop.run_until_complete(get_item(42))
    benchmark(run)
    loop.close()
