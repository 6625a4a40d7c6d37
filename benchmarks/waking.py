"""How long the last of many waiters in one process takes to go on once what they wait for is there, in seconds.

Ours is a whole `get_or_load` of a cache without Redis; the yardsticks are bare events and futures. The loader and
the code that sets the bare ones run in a thread of their own.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from tiercache import Cache

SETTLE = 0.2  # seconds for the waiters to be waiting


def threads_of_cache(waiters: int) -> float:
    """Threads in `get_or_load` of one key."""
    cache, loading, go, ended = Cache(), threading.Event(), threading.Event(), list[float]()

    def load() -> int:
        loading.set()
        go.wait()
        ended.append(time.perf_counter())
        return 1

    leader = threading.Thread(target=cache.get_or_load, args=("key", load))
    leader.start()
    loading.wait()
    last = _threads(waiters, lambda: cache.get_or_load("key", load), go.set)
    leader.join()
    return last - ended[0]


def threads_of_event(waiters: int) -> float:
    """Threads that wait for one bare threading.Event."""
    event, ended = threading.Event(), list[float]()

    def end() -> None:
        ended.append(time.perf_counter())
        event.set()

    return _threads(waiters, event.wait, end) - ended[0]


def threads_of_lock(waiters: int) -> float:
    """Threads that go through one bare lock, each letting the next through: no less can be done for them."""
    lock, ended = threading.Lock(), list[float]()
    lock.acquire()

    def go_through() -> None:
        with lock:
            pass

    def end() -> None:
        ended.append(time.perf_counter())
        lock.release()

    return _threads(waiters, go_through, end) - ended[0]


def _threads(waiters: int, wait: Callable[[], Any], end: Callable[[], Any]) -> float:
    woken: list[float] = []

    def run() -> None:
        wait()
        woken.append(time.perf_counter())

    threads = [threading.Thread(target=run) for _ in range(waiters)]
    for thread in threads:
        thread.start()
    time.sleep(SETTLE)
    end()
    for thread in threads:
        thread.join()
    return max(woken)


async def tasks_of_cache(waiters: int) -> float:
    """Tasks in `aget_or_load` of one key, whose loader runs in a thread."""
    cache, go, ended = Cache(), threading.Event(), list[float]()

    def load() -> int:
        go.wait()
        ended.append(time.perf_counter())
        return 1

    last = await _tasks(waiters, lambda: cache.aget_or_load("key", load), go.set)
    return last - ended[0]


async def futures_one_call_each(waiters: int) -> float:
    """Tasks that await a bare future each, set by one call_soon_threadsafe each."""
    loop = asyncio.get_running_loop()

    def end(futures: list[asyncio.Future[None]]) -> None:
        for future in futures:
            loop.call_soon_threadsafe(future.set_result, None)

    return await _futures(waiters, end)


async def futures_one_call(waiters: int) -> float:
    """Tasks that await a bare future each, all set by one call_soon_threadsafe."""
    loop = asyncio.get_running_loop()

    def set_all(futures: list[asyncio.Future[None]]) -> None:
        for future in futures:
            future.set_result(None)

    return await _futures(waiters, lambda futures: loop.call_soon_threadsafe(set_all, futures))


async def _futures(waiters: int, end: Callable[[list[asyncio.Future[None]]], Any]) -> float:
    loop = asyncio.get_running_loop()
    futures = [loop.create_future() for _ in range(waiters)]
    unasked, ended = iter(futures), list[float]()

    async def wait() -> None:
        await next(unasked)

    def finish() -> None:
        ended.append(time.perf_counter())
        end(futures)

    return await _tasks(waiters, wait, finish) - ended[0]


async def _tasks(waiters: int, wait: Callable[[], Coroutine[Any, Any, Any]], end: Callable[[], Any]) -> float:
    woken: list[float] = []

    async def run() -> None:
        await wait()
        woken.append(time.perf_counter())

    tasks = [asyncio.create_task(run()) for _ in range(waiters)]
    await asyncio.sleep(SETTLE)
    thread = threading.Thread(target=end)
    thread.start()
    await asyncio.gather(*tasks)
    thread.join()
    return max(woken)
