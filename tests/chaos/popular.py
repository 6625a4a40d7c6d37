"""Processes that go on asking for one popular item."""

import asyncio
import threading
import time
from typing import Any

from members import Marks, made

WAITS = ("misses", "joins", "waits")  # what a caller of an entry that is still there never comes to


def asks(pipe: Any, url: str, namespace: str, policy: dict[str, Any], colour: str, seconds: float) -> None:
    """Ask some 500 times a second until told to stop; send what was counted since the first answer, and the ages."""
    cache, marks, end = made(url, namespace, policy), Marks(url, namespace), threading.Event()
    ages: list[float] = []

    def load() -> float:
        marks.add("popular", "loading")
        time.sleep(seconds)
        marks.add("popular", "loaded")
        return time.monotonic()

    async def aload() -> float:
        return await asyncio.to_thread(load)

    def listen() -> None:
        pipe.recv()
        end.set()

    def in_a_thread() -> dict[str, int]:
        cache.get_or_load("popular", load)
        before = cache.stats()
        pipe.send("ready")
        while not end.wait(0.002):
            ages.append(time.monotonic() - cache.get_or_load("popular", load))
        return before

    async def in_a_task() -> dict[str, int]:
        await cache.aget_or_load("popular", aload)
        before = cache.stats()
        pipe.send("ready")
        while not end.is_set():
            await asyncio.sleep(0.002)
            ages.append(time.monotonic() - await cache.aget_or_load("popular", aload))
        after.update(cache.stats())
        await cache.aclose()
        return before

    after: dict[str, int] = {}
    listener = threading.Thread(target=listen)
    listener.start()
    if colour == "threads":
        before = in_a_thread()
        after.update(cache.stats())
        cache.close()
    else:
        before = asyncio.run(in_a_task())
    listener.join()
    pipe.send(({name: after[name] - before[name] for name in after}, max(ages)))
    marks.close()
