"""Processes of a fleet for tests: each runs one function of this module on a private Redis."""

import asyncio
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import accumulate
from multiprocessing.context import SpawnProcess
from random import Random
from typing import Any

import redis
from redis_server import PATIENT

from tiercache import Cache, MsgpackCodec, Policy
from tiercache.blocking import run
from tiercache.local.table import Mode
from tiercache.remote import popularity

spawn = multiprocessing.get_context("spawn")


class Member:
    """A process that runs `work(url, namespace, pipe, *args)`; `hear` waits for what it sends."""

    def __init__(self, work: Any, *args: Any) -> None:
        self.pipe, theirs = spawn.Pipe()
        self.process: SpawnProcess = spawn.Process(target=work, args=(*args[:2], theirs, *args[2:]), daemon=True)
        self.process.start()
        theirs.close()

    def hear(self, timeout: float = 60) -> Any:
        assert self.pipe.poll(timeout), "nothing was heard in time"
        return self.pipe.recv()

    def tell(self, message: Any = None) -> None:
        self.pipe.send(message)

    def signal(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def end(self) -> None:
        self.process.join(30)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


class CountingCodec(MsgpackCodec):
    """Counts the values that it decodes."""

    decoded = 0

    def decode(self, data: bytes) -> object:
        self.decoded += 1
        return super().decode(data)


def herd(url: str, namespace: str, pipe: Any, colour: str, callers: int, seconds: float) -> None:
    """Wait for a word, ask for one key all at once, send the answers and the counters."""
    cache = Cache(url, namespace=namespace, codec=(codec := CountingCodec()), **PATIENT)
    counter = redis.Redis.from_url(url)

    def load() -> float:
        counter.incr(f"loads:{namespace}")
        time.sleep(seconds)
        return time.monotonic()

    async def aload() -> float:
        return await asyncio.to_thread(load)

    if colour == "threads":
        waits, _ = in_threads(lambda _: cache.get_or_load("popular", load), callers, pipe)
    else:
        waits, _ = in_tasks(lambda _: cache.aget_or_load("popular", aload), callers, pipe, cache.aclose)
    cache.close()
    pipe.send((waits, cache.stats() | {"decoded": codec.decoded}))


def in_threads(ask: Callable[[int], float], callers: int, pipe: Any) -> tuple[list[float], float]:
    """Say "ready", wait for a word and call ask(0), ask(1), ... at once in threads of their own.

    `ask` returns when the load ended. The answer is how long after it each caller went on, and the processor time.
    """
    waits: list[float] = []
    ready, go = threading.Barrier(callers + 1), threading.Event()

    def call(number: int) -> None:
        ready.wait()
        go.wait()
        loaded = ask(number)
        waits.append(time.monotonic() - loaded)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    ready.wait()
    pipe.send("ready")
    pipe.recv()
    before = time.process_time()
    go.set()
    for thread in threads:
        thread.join()
    return waits, time.process_time() - before


def in_tasks(
    ask: Callable[[int], Awaitable[float]], callers: int, pipe: Any, end: Callable[[], Awaitable[Any]]
) -> tuple[list[float], float]:
    """The same in tasks of one loop, which runs `end` at last."""

    async def call(number: int) -> float:
        loaded = await ask(number)
        return time.monotonic() - loaded

    async def main() -> tuple[list[float], float]:
        await asyncio.to_thread(int)
        pipe.send("ready")
        pipe.recv()
        before = time.process_time()
        waits = await asyncio.gather(*[call(number) for number in range(callers)])
        used = time.process_time() - before
        await end()
        return waits, used

    return asyncio.run(main())


def holder(url: str, namespace: str, pipe: Any, policy: dict[str, Any]) -> None:
    """Hold the lease of a load that ends when told; send what the caller got."""
    cache = Cache(url, namespace=namespace, policy=Policy(**policy), **PATIENT)

    def load() -> str:
        pipe.send("loading")
        pipe.recv()
        return "from the holder"

    value = cache.get_or_load("popular", load)
    pipe.send((value, cache.stats()))
    cache.close()


def waiter(url: str, namespace: str, pipe: Any, policy: dict[str, Any]) -> None:
    """Wait for somebody's load, or lead when the lease has ended; send when and what."""
    cache = Cache(url, namespace=namespace, policy=Policy(**policy), **PATIENT)
    led: list[float] = []

    def load() -> str:
        led.append(time.monotonic())
        return "from the waiter"

    answered = threading.Event()
    watcher = threading.Thread(target=_tell_when_waiting, args=(cache, pipe, answered), daemon=True)
    watcher.start()
    value = cache.get_or_load("popular", load)
    answered.set()
    watcher.join()
    pipe.send((value, led[0] if led else None, cache.stats()))
    cache.close()


def _tell_when_waiting(cache: Cache, pipe: Any, answered: threading.Event) -> None:
    while not cache.stats()["waits"] and not answered.wait(0.001):
        pass
    pipe.send("waiting")


def asks(url: str, namespace: str, pipe: Any, seed: int) -> None:
    """Ask for keys after Zipf's law; send the hits, those not reported, the number of reports, and the counters."""
    popularity.PERIOD = 0.2
    cache = Cache(url, namespace=namespace, policy=Policy(ttl=1e6, local_ttl=1e6, half_life=1e6), **PATIENT)
    cache.get("nothing")  # the process wakes
    process, hits, reports = cache._process, Counter[str](), 0
    redis, reporter = process._redis, process.reports
    assert redis is not None
    assert reporter is not None
    report = redis.report

    async def noted(*args: Any) -> None:
        nonlocal reports
        reports += 1
        await report(*args)

    redis.report = noted  # type: ignore[method-assign]
    weights = list(accumulate(rank**-1.0 for rank in range(1, 100_001)))
    while reports < 3:
        for number in Random(seed + 10 * reports).choices(range(100_000), cum_weights=weights, k=10_000):
            key = f"k{number}"
            if cache.table.probe(key, 0.0, mode=int(Mode.READ))[0] == 0:
                hits[key] += 1
            else:
                cache.table.settle(cache.table.probe(key, 0.0, mode=int(Mode.WRITE))[-1], None)
                flight = cache.table.probe(key, 0.0, mode=int(Mode.FORCE))[-1]
                cache.table.settle(flight, 1, (1, 1e9, 1e9, 1e9, 0.0, 1.0, cache.table.stamp(), b"", 0))
    process.node.timer.close(30)
    run(reporter.report(process.blocking()))
    cache.table.probe("k0", 0.0, mode=int(Mode.READ))  # that there is something to tell
    untold = dict(cache.table.gains(1_000_000, process.node.now(), 1e6)[1])
    untold["k0"] -= 1
    pipe.send((hits, untold, reports, cache.stats()))
    cache.close()
