"""Herds over processes: callers of one or many cold keys, in each arm with the same loader and the same clock."""

import asyncio
import itertools
import statistics
import threading
import time
from dataclasses import dataclass
from typing import Any

import fleet
import remote_peers
from redis_server import RedisServer
from test_herd import Monitor

from tiercache import Cache

LOAD = 1.0  # seconds
PATIENCE = 300  # seconds for one herd
_numbers = itertools.count()


@dataclass(frozen=True)
class Scene:
    """So many processes with so many callers each ask for so many keys at one moment."""

    colour: str
    processes: int
    callers: int
    keys: int = 1

    def __str__(self) -> str:
        if self.keys > 1:
            waiters = self.processes * self.callers // self.keys
            return f"{self.keys:,} keys \N{MULTIPLICATION SIGN} {waiters} {self.colour}, {self.processes} processes"
        return f"{self.processes} \N{MULTIPLICATION SIGN} {self.callers:,} {self.colour}"


@dataclass(frozen=True)
class Herd:
    """What one herd gave: seconds after its load for each caller, loads, processor seconds, Redis commands."""

    waits: list[float]
    loads: int
    clients: float
    redis: float
    commands: int | None


def caller(url: str, namespace: str, pipe: Any, arm: str, scene: Scene, number: int) -> None:
    """A process of the herd."""
    loads: list[str] = []
    first = number * scene.callers

    def key(number: int) -> str:
        return f"{namespace}:{(first + number) % scene.keys}"

    def load(key: str) -> float:
        loads.append(key)
        time.sleep(LOAD)
        return time.monotonic()

    async def aload(key: str) -> float:
        loads.append(key)
        await asyncio.sleep(LOAD)
        return time.monotonic()

    def wait_for_the_others() -> None:
        pipe.send("answered")
        pipe.recv()

    async def end_together() -> None:
        wait_for_the_others()
        await end()

    ask, end = ARMS[arm](url, namespace, load if scene.colour == "threads" else aload)
    if scene.colour == "threads":
        waits, used = fleet.in_threads(lambda number: ask(key(number)), scene.callers, pipe)
        wait_for_the_others()
        end()
    else:
        waits, used = fleet.in_tasks(lambda number: ask(key(number)), scene.callers, pipe, end_together)
    pipe.send((waits, len(loads), used))


def hits_of_a_process(url: str, namespace: str, pipe: Any, hits: int) -> None:
    """Processor seconds per hit, in a cache that is connected."""
    with Cache(url, namespace=namespace) as cache:
        cache.set("key", 1, ttl=3600)
        pipe.send("ready")
        pipe.recv()
        before = time.process_time()
        for _ in range(hits):
            cache.get("key")
        pipe.send((time.process_time() - before) / (hits))


def tiercache_threads(url: str, namespace: str, load: Any) -> tuple[Any, Any]:
    cache = Cache(url, namespace=namespace)
    return lambda key: cache.get_or_load(key, lambda: load(key)), cache.close


def tiercache_tasks(url: str, namespace: str, load: Any) -> tuple[Any, Any]:
    cache = Cache(url, namespace=namespace, max_entries=100_000)

    async def ask(key: str) -> Any:
        async def loader() -> Any:
            return await load(key)

        return await cache.aget_or_load(key, loader)

    return ask, cache.aclose


def dogpile(url: str, namespace: str, load: Any) -> tuple[Any, Any]:
    locks = {"distributed_lock": True, "thread_local_lock": False, "lock_timeout": 60}
    region = remote_peers.dogpile(url, **locks)
    return lambda key: region.get_or_create(key, lambda: load(key)), lambda: None


def cashews(url: str, namespace: str, load: Any) -> tuple[Any, Any]:
    cache = remote_peers.cashews(url)
    return cache(ttl=60, key="{key}", lock=True)(load), cache.close


def events(url: str, namespace: str, load: Any) -> tuple[Any, Any]:
    """No cache: the first caller of a process loads, the others wait for a bare threading.Event."""
    event, leads, ended = threading.Event(), threading.Lock(), list[float]()

    def ask(key: str) -> float:
        if leads.acquire(blocking=False):
            ended.append(load(key))
            event.set()
        event.wait()
        return ended[0]

    return ask, lambda: None


def futures(url: str, namespace: str, load: Any) -> tuple[Any, Any]:
    """No cache: the first caller of a key in a process loads, the others wait for a bare future each."""
    waiting: dict[str, list[asyncio.Future[float]]] = {}

    async def ask(key: str) -> float:
        if key not in waiting:
            waiting[key] = []
            ended: float = await load(key)
            for future in waiting[key]:
                future.set_result(ended)
            return ended
        future = asyncio.get_running_loop().create_future()
        waiting[key].append(future)
        return await future

    async def end() -> None:
        pass

    return ask, end


ARMS = {
    "tiercache, threads": tiercache_threads,
    "tiercache, tasks": tiercache_tasks,
    "dogpile.cache": dogpile,
    "cashews": cashews,
    "bare threading.Event": events,
    "bare futures": futures,
}


def herd(server: RedisServer, arm: str, scene: Scene, monitored: bool = False) -> Herd:
    """Run one herd; only a monitored one knows its commands, because MONITOR takes time itself."""
    namespace = f"herd{next(_numbers)}"
    members = [fleet.Member(caller, server.tcp_url, namespace, arm, scene, number) for number in range(scene.processes)]
    try:
        for member in members:
            member.hear(PATIENCE)
        monitor = Monitor(server) if monitored else None
        before = _processor(server)
        for member in members:
            member.tell()
        for member in members:
            member.hear(PATIENCE)
        redis = _processor(server) - before
        commands = len(monitor.stop(server)) if monitor else None
        for member in members:  # whoever ends takes time from those who still wait
            member.tell()
        heard = [member.hear(PATIENCE) for member in members]
    finally:
        for member in members:
            member.end()
    waits = sorted(wait for each, _, _ in heard for wait in each)
    return Herd(waits, sum(loads for _, loads, _ in heard), sum(used for *_, used in heard), redis, commands)


def _processor(server: RedisServer) -> float:
    with server.client() as client:
        info = client.info("cpu")
    return float(info["used_cpu_sys"]) + float(info["used_cpu_user"])


def summary(herds: list[Herd]) -> dict[str, Any]:
    """The medians of the herds without MONITOR, if any; the most loads; the whole course of the median one."""
    timed = [each for each in herds if each.commands is None] or herds
    timed.sort(key=lambda each: each.waits[-1])
    median = timed[len(timed) // 2]
    steps = [round(step * (len(median.waits) - 1) / 50) for step in range(51)]
    return {
        "loads": max(each.loads for each in herds),
        "last": statistics.median(each.waits[-1] for each in timed),
        "middle": statistics.median(statistics.median(each.waits) for each in timed),
        "cpu": statistics.median(each.clients for each in timed),
        "redis_cpu": statistics.median(each.redis for each in timed),
        "commands": max((each.commands for each in herds if each.commands is not None), default=None),
        "course": [round(median.waits[step], 6) for step in steps],
    }
