"""Processes that leave refreshes to workers, and workers that die; what is loaded is noted in Redis."""

import asyncio
import os
import random
import signal
import threading
import time
from typing import Any

import redis
from members import made

from tiercache import Cache
from tiercache.port import loading
from tiercache.worker import Worker

KEYS = 6
CALLERS = 3
LOAD = 0.08  # seconds
POLICY: dict[str, Any] = {
    "ttl": 1.0,
    "stale_while_revalidate": 4.0,
    "lease": 0.6,
    "local_ttl": 1000,
    "refresh": "worker",
}


class Shop:
    """A cache with a function of either colour; the loads are noted under the record that they replace."""

    def __init__(self, url: str, namespace: str, deadly: float) -> None:
        self.cache: Cache = made(url, namespace, POLICY)
        self.told, self._namespace, self._deadly = redis.Redis.from_url(url), namespace, deadly
        self.get_item = self.cache.cached("item:{item}")(self._get_item)
        self.aget_item = self.cache.cached("aitem:{item}")(self._aget_item)

    def _begin(self) -> int:
        node, flight = loading.get()[-1]
        known = node.leaders[flight].known.hex()  # type: ignore[attr-defined]
        self.told.rpush(f"loads:{self._namespace}:{flight.key}:{known}", os.getpid())
        return int(self.told.incr(f"version:{self._namespace}:{flight.key}"))  # type: ignore[arg-type]

    def _may_die(self) -> None:
        if random.random() < self._deadly:
            os.kill(os.getpid(), signal.SIGKILL)

    def _get_item(self, item: int) -> tuple[int, float]:
        version = self._begin()
        time.sleep(LOAD / 2)
        self._may_die()
        time.sleep(LOAD / 2)
        return version, time.monotonic()

    async def _aget_item(self, item: int) -> tuple[int, float]:
        version = await asyncio.to_thread(self._begin)
        await asyncio.sleep(LOAD / 2)
        self._may_die()
        await asyncio.sleep(LOAD / 2)
        return version, time.monotonic()


def worker(pipe: Any, url: str, namespace: str, deadly: float) -> None:
    """Do jobs until killed, or stopped by a message; a load ends this process with that probability."""
    shop = Shop(url, namespace, deadly)

    async def main() -> None:
        worker = Worker(shop.cache, 4, lambda ready: pipe.send("ready") if ready else None)
        loop = asyncio.get_running_loop()
        threading.Thread(target=lambda: (pipe.recv(), loop.call_soon_threadsafe(worker.stop)), daemon=True).start()
        try:
            await worker.run(30.0)
        finally:
            await shop.cache.aclose()

    asyncio.run(main())
    shop.told.close()


class Reader:
    """What the callers of one process have seen."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self.over = threading.Event()
        self._lock = threading.Lock()
        self._oldest = 0.0
        self._backwards = 0
        self._versions: dict[int, int] = {}

    def note(self, item: int, began: float, value: tuple[int, float], last: dict[int, int]) -> None:
        version, loaded = value
        with self._lock:
            self._oldest = max(self._oldest, began - loaded)  # it was so old at least when it was served
            self._backwards += version < last.get(item, 0)
            last[item] = version
            self._versions[item] = max(version, self._versions.get(item, 0))

    def serve(self, pipe: Any) -> None:
        """Each message is answered by what has been seen; None is the end."""
        while pipe.recv() is not None:
            with self._lock:
                pipe.send((dict(self._versions), self._oldest, self._backwards, self._cache.stats()))
        self.over.set()


def sender(pipe: Any, url: str, namespace: str, colour: str) -> None:
    """Read all keys all the time with some callers, until told."""
    shop = Shop(url, namespace, 0.0)
    reader = Reader(shop.cache)

    def read() -> None:
        last: dict[int, int] = {}
        while not reader.over.wait(0.004):
            for item in range(KEYS):
                began = time.monotonic()
                reader.note(item, began, shop.get_item(item), last)

    async def aread() -> None:
        last: dict[int, int] = {}
        while not reader.over.is_set():
            for item in range(KEYS):
                began = time.monotonic()
                reader.note(item, began, await shop.aget_item(item), last)
            await asyncio.sleep(0.004)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(aread())
            await asyncio.to_thread(reader.serve, pipe)
        await shop.cache.aclose()

    if colour == "tasks":
        asyncio.run(main())
        shop.told.close()
        return
    threads = [threading.Thread(target=read) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    reader.serve(pipe)
    for thread in threads:
        thread.join()
    shop.cache.close()
    shop.told.close()
