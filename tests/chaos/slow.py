"""Loads that last long, on threads, on event loops and on loops that are blocked."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from members import SOON, Marks, made

from tiercache import Cache, TierCacheError


def loads_for(
    pipe: Any, url: str, namespace: str, policy: dict[str, Any], colour: str, key: str, seconds: float | None
) -> None:
    """A load that takes so long, or until told (None); send what the caller got, and the counters."""
    cache, marks = made(url, namespace, policy), Marks(url, namespace)

    def load() -> str:
        marks.add(key, "loading")
        pipe.send("loading")
        if seconds is None:
            pipe.recv()
        else:
            time.sleep(seconds)
        return "by the holder"

    async def main() -> str:
        async def aload() -> str:
            return await asyncio.to_thread(load)

        return await cache.aget_or_load(key, aload)

    value = cache.get_or_load(key, load) if colour == "threads" else asyncio.run(main())
    pipe.send((value, cache.stats()))
    cache.close()
    marks.close()


def holds_on_a_blocked_loop(
    pipe: Any, url: str, namespace: str, policy: dict[str, Any], seconds: float, inside: bool
) -> None:
    """Told to, block the event loop for so long while a load of it holds the lease: in the loader, or beside it."""
    cache, marks = made(url, namespace, policy), Marks(url, namespace)

    async def main() -> str:
        blocked = asyncio.Event()

        async def load() -> str:
            marks.add("k", "loading")
            pipe.send("loading")
            if inside:
                pipe.recv()
                time.sleep(seconds)
            else:
                await blocked.wait()
            return "by the holder"

        task = asyncio.create_task(cache.aget_or_load("k", load))
        if not inside:
            await asyncio.to_thread(marks.until, "k", "loading")
            await asyncio.to_thread(pipe.recv)
            time.sleep(seconds)
            blocked.set()
        return await task

    pipe.send((asyncio.run(main()), cache.stats()))
    cache.close()
    marks.close()


def waits_on_a_blocked_loop(
    pipe: Any, url: str, namespace: str, policy: dict[str, Any], callers: int, seconds: float
) -> None:
    """Tasks wait for another process; their loop is blocked until told, and so much longer; send what they got."""
    cache, marks = made(url, namespace, policy), Marks(url, namespace)

    async def main() -> list[str]:
        async def load() -> str:
            marks.add("k", "led")
            return "by the waiter"

        tasks = [asyncio.create_task(cache.aget_or_load("k", load)) for _ in range(callers)]
        while not cache.stats()["waits"]:
            await asyncio.sleep(0.001)
        pipe.send("waiting")
        pipe.recv()  # on the loop's thread
        time.sleep(seconds)
        answers = await asyncio.gather(*tasks)
        await cache.aclose()
        return answers

    pipe.send((asyncio.run(main()), cache.stats()))
    marks.close()


def overdue(pipe: Any, url: str, namespace: str, policy: dict[str, Any], colour: str, stale: bool) -> None:
    """A load past `max_load`, with followers of both colours; what its caller and they got, and what is kept."""
    cache, marks = made(url, namespace, policy), Marks(url, namespace)
    cache.ping()
    if stale:
        cache.set("k", "old", ttl=0.05, stale_if_error=SOON)
        while cache.get("k") is not None:
            time.sleep(0.01)
    go_on = threading.Event()

    def load() -> str:
        marks.add("k", "loading")
        go_on.wait(SOON)
        return "late"

    async def aload() -> str:
        marks.add("k", "loading")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            marks.add("k", "cancelled")
            raise
        return "never"

    async def main() -> tuple[Any, list[Any]]:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(3) as pool:
            if colour == "threads":
                own: Any = loop.run_in_executor(pool, _answer, cache, load)
            else:
                own = loop.create_task(_aanswer(cache, aload))
            await asyncio.to_thread(marks.until, "k", "loading")
            others: list[Any] = [loop.run_in_executor(pool, _answer, cache, load) for _ in range(2)]
            others += [loop.create_task(_aanswer(cache, aload)) for _ in range(2)]
            while cache.stats()["joins"] < 4:
                await asyncio.sleep(0.001)
            pipe.send("loading")
            heard = await asyncio.gather(*others)
            pipe.send("overdue")
            await asyncio.to_thread(pipe.recv)
            go_on.set()
            return await own, heard

    own, others = asyncio.run(main())
    pipe.send((own, others, cache.get("k"), cache.stats()))
    cache.close()
    marks.close()


def _answer(cache: Cache, load: Any) -> str:
    try:
        return cache.get_or_load("k", load)  # type: ignore[no-any-return]
    except TierCacheError as error:
        return type(error).__name__


async def _aanswer(cache: Cache, load: Any) -> str:
    try:
        return await cache.aget_or_load("k", load)  # type: ignore[no-any-return]
    except TierCacheError as error:
        return type(error).__name__
