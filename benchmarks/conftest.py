"""A private Redis and the `row` with which each benchmark notes what it found; the helpers of the tests are used."""

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from redis_server import RedisServer

ROUND = 0.002  # seconds that a round of a timed call takes at least


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="fewer rounds, entries, processes and herds")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning")  # the peers' own


@pytest.fixture(scope="session")
def quick(pytestconfig: pytest.Config) -> bool:
    return bool(pytestconfig.getoption("--quick"))


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


class Row:
    """A row of the results: `role` is ours, yardstick or peer; `against` names the yardstick's row."""

    def __init__(self, benchmark: Any, quick: bool) -> None:
        self._benchmark = benchmark
        self._rounds = 15 if quick else 40

    def note(self, group: str, name: str, role: str, against: str = "", note: str = "", **found: Any) -> None:
        """Note the row, with whatever else was found."""
        self._benchmark.group = group
        self._benchmark.extra_info.update(name=name, role=role, against=against, note=note, **found)

    def time(self, run: Callable[[int], Any], each: int = 1) -> None:
        """Time run(n), which makes n times `each` calls, in rounds of at least some milliseconds."""
        calls = _calls(run)
        self._benchmark.pedantic(run, args=(calls,), rounds=self._rounds, warmup_rounds=1)
        stats = self._benchmark.stats.stats
        stats.data = [seconds / (calls * each) for seconds in stats.data]  # a row tells of one call, not of a round

    def once(self, run: Callable[[], Any]) -> Any:
        """Run something that measures itself, and pass on what it found."""
        return self._benchmark.pedantic(run, rounds=1)


def _calls(run: Callable[[int], Any]) -> int:
    calls = 1
    while min(_seconds(run, calls) for _ in range(3)) < ROUND:
        calls *= 2
    return calls


def _seconds(run: Callable[[int], Any], calls: int) -> float:
    start = time.perf_counter()
    run(calls)
    return time.perf_counter() - start


@pytest.fixture
def row(benchmark: Any, quick: bool) -> Row:
    return Row(benchmark, quick)


@pytest.fixture
def event_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop of the test's own."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
