"""Group growth: how the cost of one hit, one herd and one waiter grows with what it could grow with."""

import asyncio
import functools
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import fleet
import memory
import pytest
from herds import PATIENCE, Scene, herd, hits_of_a_process
from redis_server import RedisServer
from rows import Row
from waking import futures_one_call, tasks_of_cache

HITS = 100_000
TURNS = 5
Points = list[tuple[int, float]]


def note(row: Row, curve: str, line: str, points: Points, unit: str) -> None:
    role = "ours" if line.startswith("tiercache") else "yardstick"
    row.note("growth", f"{curve}: {line}", role, curve=curve, line=line, unit=unit, points=points)


def seconds_per_hit(hit: Callable[[str], Any], keys: Sequence[str]) -> float:
    """The smallest mean of some turns over the keys."""

    def turn() -> float:
        start = time.perf_counter()
        for key in keys:
            hit(key)
        return (time.perf_counter() - start) / len(keys)

    return min(turn() for _ in range(TURNS))


@pytest.mark.parametrize("line", ["tiercache", "functools.lru_cache"])
def test_entries(row: Row, line: str, quick: bool) -> None:
    """Random keys out of ever more entries."""

    def grow() -> Points:
        points = []
        for entries in [10**power for power in range(1, 6 if quick else 8)]:
            keys = [f"key:{number}" for number in range(entries)]
            cache = (memory.tiercache if line == "tiercache" else memory.lru_cache)(keys)
            wanted = random.Random(1).choices(keys, k=HITS)
            points.append((entries, seconds_per_hit(cache.get if line == "tiercache" else cache, wanted)))
        return points

    note(row, "entries", line, row.once(grow), "seconds per hit")


@pytest.mark.parametrize("line", ["tiercache", "functools.lru_cache"])
def test_threads(row: Row, line: str, quick: bool) -> None:
    """So many threads share one cache and so many hits."""
    keys = [f"key:{number}" for number in range(1000)]
    cache: Any = (memory.tiercache if line == "tiercache" else memory.lru_cache)(keys)
    hit = cache.get if line == "tiercache" else cache
    wanted = keys * (HITS // len(keys))

    def turn(threads: int) -> float:
        part = functools.partial(seconds_per_hit, hit, wanted[: HITS // threads])
        all_threads = [threading.Thread(target=part) for _ in range(threads)]
        start = time.perf_counter()
        for thread in all_threads:
            thread.start()
        for thread in all_threads:
            thread.join()
        return (time.perf_counter() - start) / (HITS // threads * threads * TURNS)

    def grow() -> Points:
        return [(n, min(turn(n) for _ in range(3))) for n in ((1, 4, 16) if quick else (1, 2, 4, 8, 16, 32, 64))]

    note(row, "threads", line, row.once(grow), "seconds per hit")


def processes(quick: bool) -> Sequence[int]:
    return (1, 2, 4) if quick else (1, 2, 4, 8, 16, 32)


def test_processes(row: Row, redis_server: RedisServer, quick: bool) -> None:
    """So many processes with a cache each hit at once: processor time, since there are fewer cores."""

    def turn(number: int) -> float:
        members = [fleet.Member(hits_of_a_process, redis_server.tcp_url, "growth", HITS * TURNS) for _ in range(number)]
        for member in members:
            member.hear(PATIENCE)
        for member in members:
            member.tell()
        seconds = [member.hear(PATIENCE) for member in members]
        for member in members:
            member.end()
        return float(sum(seconds) / number)

    points = row.once(lambda: [(number, turn(number)) for number in processes(quick)])
    note(row, "processes", "tiercache", points, "processor seconds per hit")


def test_commands(row: Row, redis_server: RedisServer, quick: bool) -> None:
    """Redis commands per process of a cold herd of 8 threads each."""

    def turn(number: int) -> float:
        return (herd(redis_server, "tiercache, threads", Scene("threads", number, 8), True).commands or 0) / number

    points = row.once(lambda: [(number, turn(number)) for number in processes(quick)])
    note(row, "commands", "tiercache", points, "Redis commands per process of a herd")


@pytest.mark.parametrize("line", ["tiercache", "bare futures"])
def test_waiters(row: Row, line: str, quick: bool) -> None:
    """Ever more tasks wait for one load: the time until the last goes on, per task."""
    work = tasks_of_cache if line == "tiercache" else futures_one_call

    def turn(waiters: int) -> float:
        return min(asyncio.run(work(waiters)) for _ in range(TURNS)) / waiters

    def grow() -> Points:
        return [(waiters, turn(waiters)) for waiters in [10**power for power in range(1, 4 if quick else 6)]]

    note(row, "waiters", line, row.once(grow), "seconds per waiter")
