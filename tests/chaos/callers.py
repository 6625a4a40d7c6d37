"""Herds of threads and tasks in one process, of which some callers leave before the load is over."""

import asyncio
import contextlib
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import redis
from members import SOON, Marks, made

from tiercache import LoadTimeout

LEAVES = 5  # every fifth caller


class Herd:
    """Threads and tasks that ask for one key at once; the load lasts until `go` says that it may end."""

    def __init__(self, url: str, namespace: str, policy: dict[str, Any], callers: int) -> None:
        self.cache, self.marks = made(url, namespace, policy), Marks(url, namespace)
        self.cache.ping()
        self._url, self._go = url, f"go:{namespace}"
        self.callers = callers  # threads, and as many tasks
        self.pool = ThreadPoolExecutor(callers)
        self.answers: list[Any] = []
        self.cancelled = self.timed_out = 0
        self._lock = threading.Lock()

    def begin(self, key: str) -> None:
        self.key = key
        self.answers, self.cancelled, self.timed_out = [], 0, 0
        self._staying = 2 * self.callers - 2 * len(range(0, self.callers, LEAVES))
        self.gone = threading.Semaphore(0)

    def load(self, leaver: bool = False) -> str:
        self.marks.add(self.key, "loading")
        if leaver:
            self.gone.release()  # it can't leave: it is the one who loads
        with contextlib.closing(redis.Redis.from_url(self._url)) as client:
            assert client.blpop([f"{self._go}:{self.key}"], SOON)
        return f"value of {self.key}"

    async def aload(self) -> str:
        return await asyncio.to_thread(self.load)

    def call(self, number: int) -> None:
        leaver = number % LEAVES == 0
        try:
            timeout = random.uniform(0.01, 0.3) if leaver else None
            self.answers.append(self.cache.get_or_load(self.key, lambda: self.load(leaver), timeout=timeout))
        except LoadTimeout:
            assert leaver
            with self._lock:
                self.timed_out += 1
            self.gone.release()

    async def acall(self) -> None:
        try:
            self.answers.append(await self.cache.aget_or_load(self.key, self.aload))
        except asyncio.CancelledError:
            self.cancelled += 1
            self.gone.release()
            raise

    async def run(self, pipe: Any) -> None:
        """One herd; "gone" is sent when all who leave have left."""
        loop = asyncio.get_running_loop()
        threads = [loop.run_in_executor(self.pool, self.call, number) for number in range(self.callers)]
        tasks = [loop.create_task(self.acall()) for _ in range(self.callers)]
        leavers = tasks[::LEAVES]
        for task in leavers:
            loop.call_later(random.uniform(0, 0.3), task.cancel)
        for _ in range(2 * len(leavers)):
            await asyncio.to_thread(self.gone.acquire)
        pipe.send("gone")
        await asyncio.gather(*threads)
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(each, asyncio.CancelledError) for each in ended) == self.cancelled == len(leavers)
        pipe.send((self.answers, self.cancelled, self.timed_out))


def herd(pipe: Any, url: str, namespace: str, policy: dict[str, Any], callers: int) -> None:
    """A herd for each key that is told, all on one event loop; the counters at the end."""
    field = Herd(url, namespace, policy, callers)

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(8))
        pipe.send("ready")
        while (key := await asyncio.to_thread(pipe.recv)) is not None:
            field.begin(key)
            await field.run(pipe)
        await field.cache.aclose()

    asyncio.run(main())
    field.pool.shutdown()
    field.marks.close()
    pipe.send(field.cache.stats())


def churn(pipe: Any, url: str, namespace: str, policy: dict[str, Any], keys: list[str], callers: int) -> None:
    """Tasks that ask for many keys at once, some cancelled at any moment of read, acquire, load and commit."""
    cache, marks = made(url, namespace, policy), Marks(url, namespace)
    cache.ping()

    async def ask(key: str) -> str:
        async def load() -> str:
            marks.add(key, "loading")
            await asyncio.sleep(random.uniform(0, 0.02))
            return f"value of {key}"

        return await cache.aget_or_load(key, load)

    async def main() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        cancelled = wrong = 0
        for key in keys:
            tasks = [loop.create_task(ask(key)) for _ in range(callers)]
            for task in tasks[::LEAVES]:
                loop.call_later(random.uniform(0, 0.03), task.cancel)
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            cancelled += sum(isinstance(each, asyncio.CancelledError) for each in ended[::LEAVES])
            stayed = [each for number, each in enumerate(ended) if number % LEAVES]
            late = [each for each in ended[::LEAVES] if not isinstance(each, asyncio.CancelledError)]
            wrong += sum(each != f"value of {key}" for each in (*stayed, *late))
        await cache.aclose()
        return cancelled, wrong

    pipe.send("ready")
    pipe.recv()
    pipe.send((asyncio.run(main()), cache.stats()))
    marks.close()


def leavers(pipe: Any, url: str, namespace: str, policy: dict[str, Any], callers: int, stays: bool) -> None:
    """Tasks that are all cancelled while one of them loads; with `stays`, a thread waits for that load too."""
    cache, marks = made(url, namespace, policy), Marks(url, namespace)
    answers: list[str] = []

    async def main() -> None:
        go_on = asyncio.Event()

        async def load() -> str:
            marks.add("k", "loading")
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                marks.add("k", "cancelled")
                raise
            return "by the leavers"

        def unneeded() -> str:
            marks.add("k", "loading")
            return "by the thread that stayed"

        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(cache.aget_or_load("k", load)) for _ in range(callers)]
        await asyncio.to_thread(marks.until, "k", "loading")
        thread = threading.Thread(target=lambda: answers.append(cache.get_or_load("k", unneeded)))
        if stays:
            thread.start()
        while cache.stats()["joins"] < callers - 1 + stays:
            await asyncio.sleep(0)
        pipe.send("loading")
        await asyncio.to_thread(pipe.recv)
        for task in random.sample(tasks, callers):
            task.cancel()
            if random.random() < 0.5:
                await asyncio.sleep(0)
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in ended)
        pipe.send("left")
        await asyncio.to_thread(pipe.recv)
        go_on.set()
        if stays:
            await asyncio.to_thread(thread.join)

        async def again() -> str:
            marks.add("k", "loading")
            return "by the leavers, again"

        answers.append(await cache.aget_or_load("k", again))
        await cache.aclose()

    asyncio.run(main())
    marks.close()
    pipe.send((answers, cache.stats()))
