"""Group waking: the last of many waiters in one process, without Redis, beside bare events and futures."""

import asyncio
import statistics
from collections.abc import Callable, Coroutine, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
from cores import one_core
from peers import needed
from rows import Row
from waking import (
    futures_one_call,
    futures_one_call_each,
    tasks_of_cache,
    threads_of_cache,
    threads_of_event,
    threads_of_lock,
)

WAITERS = 250


def turns(quick: bool, *ways: Callable[[], float]) -> list[float]:
    """The median of each of them, which take turns."""
    waits = [[way() for way in ways] for _ in range(5 if quick else 25)]
    return [statistics.median(each) for each in zip(*waits, strict=True)]


@pytest.fixture(params=["one core", "all cores"])
def where(request: pytest.FixtureRequest) -> Iterator[str]:
    with one_core() if request.param == "one core" else nullcontext():
        yield request.param


def test_threads(row: Row, quick: bool, where: str) -> None:
    ways = (threads_of_cache, threads_of_event, threads_of_lock)
    ours, bare, least = row.once(lambda: turns(quick, *[partial(way, WAITERS) for way in ways]))
    against = f"{WAITERS} threads, bare threading.Event, {where}"
    row.note("waking", f"{WAITERS} threads, {where}", "ours", against, seconds=ours)
    row.note("waking", f"{WAITERS} threads through one bare lock, {where}", "peer", against, seconds=least)
    row.note("waking", against, "yardstick", seconds=bare)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_tasks(row: Row, loop: str, quick: bool, where: str) -> None:
    make = asyncio.new_event_loop if loop == "asyncio" else needed("uvloop").new_event_loop

    def run(work: Callable[[int], Coroutine[Any, Any, float]]) -> float:
        with asyncio.Runner(loop_factory=make) as runner:
            return runner.run(work(WAITERS))

    ways = (tasks_of_cache, futures_one_call_each, futures_one_call)
    ours, bare, least = row.once(lambda: turns(quick, *[partial(run, way) for way in ways]))
    against = f"{WAITERS} futures, one call_soon_threadsafe each, {loop}, {where}"
    row.note("waking", f"{WAITERS} tasks, {loop}, {where}", "ours", against, seconds=ours)
    row.note("waking", f"{WAITERS} bare futures, one call for all, {loop}, {where}", "peer", against, seconds=least)
    row.note("waking", against, "yardstick", seconds=bare)
