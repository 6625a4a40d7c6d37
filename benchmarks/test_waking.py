"""Group waking: the last of many waiters in one process, without Redis, beside bare events and futures."""

import asyncio
import statistics
from collections.abc import Callable, Coroutine, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from cores import one_core
from peers import needed
from rows import Row
from waking import futures_one_call_each, tasks_of_cache, threads_of_cache, threads_of_event

WAITERS = 250


def turns(ours: Callable[[], float], bare: Callable[[], float], quick: bool) -> tuple[float, float]:
    """The medians of both, which take turns."""
    both = [(ours(), bare()) for _ in range(5 if quick else 25)]
    return statistics.median(each for each, _ in both), statistics.median(each for _, each in both)


@pytest.fixture(params=["one core", "all cores"])
def where(request: pytest.FixtureRequest) -> Iterator[str]:
    with one_core() if request.param == "one core" else nullcontext():
        yield request.param


def test_threads(row: Row, quick: bool, where: str) -> None:
    ours, bare = row.once(lambda: turns(lambda: threads_of_cache(WAITERS), lambda: threads_of_event(WAITERS), quick))
    against = f"{WAITERS} threads, bare threading.Event, {where}"
    row.note("waking", f"{WAITERS} threads, {where}", "ours", against, seconds=ours)
    row.note("waking", against, "yardstick", seconds=bare)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_tasks(row: Row, loop: str, quick: bool, where: str) -> None:
    make = asyncio.new_event_loop if loop == "asyncio" else needed("uvloop").new_event_loop

    def run(work: Callable[[int], Coroutine[Any, Any, float]]) -> float:
        with asyncio.Runner(loop_factory=make) as runner:
            return runner.run(work(WAITERS))

    ours, bare = row.once(lambda: turns(lambda: run(tasks_of_cache), lambda: run(futures_one_call_each), quick))
    against = f"{WAITERS} futures, one call_soon_threadsafe each, {loop}, {where}"
    row.note("waking", f"{WAITERS} tasks, {loop}, {where}", "ours", against, seconds=ours)
    row.note("waking", against, "yardstick", seconds=bare)
