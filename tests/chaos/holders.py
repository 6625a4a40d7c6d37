"""Holders that die or stop at a chosen point, and waiters in other processes; all of it is marked in Redis."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from members import Marks, made

from tiercache import Cache

# Where a load stands: each mark is written when the step before it is over.
STAGED = "staged"  # between the two commands that commit a large value; of sync holders
POINTS = ("asked", "acquiring", "granted", "loading", "loaded", "encoding", "committing", "committed", "answered")
# The words above, as the ways in which a death can fall.
CLASSES = {
    "before the acquire": ("asked", "acquiring"),
    "between acquire and load": ("granted",),
    "in the load": ("loading",),
    "between load and commit": ("loaded", "encoding", "committing", STAGED),
    "after the commit": ("committed", "answered"),
}
LEASED = POINTS[2:7]
WAITERS = 2  # processes that wait when a holder dies or stops at a point of its lease
LOAD = 0.03  # seconds
LARGE = 20_000  # bytes that are staged


class Marked:
    """A cache whose loads of one key mark every point that they reach, and end or stop this process at one."""

    def __init__(self, cache: Cache, marks: Marks, key: str, stop_at: str, with_signal: signal.Signals) -> None:
        self.cache, self.marks, self.key = cache, marks, key
        self._stop_at, self._signal = stop_at, with_signal
        node = cache._process.node
        remote: Any = node.remote
        remote.acquire = self._around(remote.acquire, "acquiring", "granted")
        remote.commit = self._around(remote.commit, "committing", "committed")
        encode = cache.codec.encode

        def marked(value: Any) -> bytes:
            self.at("encoding")
            return encode(value)

        cache.codec.encode = marked  # type: ignore[method-assign]
        if stop_at == STAGED:
            node.links.exchange = self._half(node.links.exchange)

    def at(self, point: str) -> None:
        self.marks.add(self.key, point)
        if point == "loading" and self._stop_at in (*LEASED[1:], STAGED):
            self.marks.until_waited_for(self.key, WAITERS)  # here, because only a running load's lease is renewed
        if point == self._stop_at:
            os.kill(os.getpid(), self._signal)

    def _around(self, call: Callable[..., Any], before: str, after: str) -> Callable[..., Any]:
        async def around(*args: Any) -> Any:
            self.at(before)
            answer = await call(*args)
            self.at(after)
            return answer

        return around

    def _half(self, exchange: Callable[..., Any]) -> Callable[..., Any]:
        # What is left of a commit whose connection broke behind the value.
        def half(packed: bytes, replies: int, timeout: float) -> Any:
            if b"\r\nSET\r\n" not in packed[:20]:
                return exchange(packed, replies, timeout)
            exchange(packed[: packed.rindex(b"*", 0, packed.index(b"EVALSHA"))], 1, timeout)
            return self.at(STAGED)

        return half

    def get(self, colour: str, load: Callable[[], Any]) -> Any:
        """What the key's load gives to a caller of that colour; `load` runs in between of the marks."""

        def loader() -> Any:
            self.at("loading")
            value = load()
            self.at("loaded")
            return value

        async def main() -> Any:
            async def aloader() -> Any:
                return await asyncio.to_thread(loader)

            return await self.cache.aget_or_load(self.key, aloader)

        self.at("asked")
        value = asyncio.run(main()) if colour == "tasks" else self.cache.get_or_load(self.key, loader)
        self.at("answered")
        return value


def holder(pipe: Any, url: str, namespace: str, policy: dict[str, Any], colour: str, key: str, stop_at: str) -> None:
    """Load one key when told, and be killed at `stop_at`, or from outside; say how long it took if it was not."""
    cache, marks = made(url, namespace, policy), Marks(url, namespace)
    cache.ping()
    marked = Marked(cache, marks, key, stop_at, signal.SIGKILL)
    pipe.send("ready")
    pipe.recv()
    began = time.monotonic()
    marked.get(colour, lambda: _loaded(key))
    pipe.send(time.monotonic() - began)
    pipe.recv()
    cache.close()
    marks.close()


def stopped(pipe: Any, url: str, namespace: str, policy: dict[str, Any], colour: str, key: str, stop_at: str) -> None:
    """Load one key and stop at a point of it; resumed, send what the caller got, what is read then, the counters."""
    cache, marks = made(url, namespace, policy), Marks(url, namespace)
    value = Marked(cache, marks, key, stop_at, signal.SIGSTOP).get(colour, lambda: _loaded(key))
    pipe.send((value, cache.get(key), cache.stats()))
    cache.close()
    marks.close()


def _loaded(key: str) -> str:
    time.sleep(LOAD)
    return f"by the holder of {key} " + "x" * (LARGE if key.endswith("large") else 0)


def waiter(pipe: Any, url: str, namespace: str, policy: dict[str, Any], colour: str, callers: int) -> None:
    """For each key that is told, ask with some callers, and send what each got; at the end, the counters."""
    cache, marks = made(url, namespace, policy), Marks(url, namespace)
    cache.ping()
    name = f"waiter {os.getpid()}"
    sending = threading.Lock()

    def answered(key: str, value: Any) -> None:
        with sending:
            pipe.send((key, value))

    def ask(key: str) -> None:
        def load() -> str:
            marks.add(key, "led")
            return f"by {name}"

        answered(key, cache.get_or_load(key, load))

    async def aask(key: str) -> None:
        async def load() -> str:
            marks.add(key, "led")
            return f"by {name}"

        answered(key, await cache.aget_or_load(key, load))

    async def tasks() -> None:
        async with asyncio.TaskGroup() as group:
            while (key := await asyncio.to_thread(pipe.recv)) is not None:
                for _ in range(callers):
                    group.create_task(aask(key))
        await cache.aclose()

    pipe.send("ready")
    if colour == "tasks":
        asyncio.run(tasks())
    else:
        threads = []
        while (key := pipe.recv()) is not None:
            threads += [threading.Thread(target=ask, args=(key,)) for _ in range(callers)]
            for thread in threads[-callers:]:
                thread.start()
        for thread in threads:
            thread.join()
        cache.close()
    pipe.send(cache.stats())
    marks.close()
