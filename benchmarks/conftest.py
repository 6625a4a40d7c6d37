"""A private Redis and the `row` with which each benchmark notes what it found; the helpers of the tests are used."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import cores
from redis_server import RedisServer
from rows import Row


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


@pytest.fixture
def one_core(redis_server: RedisServer) -> Iterator[None]:
    """This process and the server share a core."""
    with cores.one_core(redis_server.process.pid):
        yield


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
