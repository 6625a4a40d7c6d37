"""A private Redis for the session, a namespace and caches for each test, and no thread left behind."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from redis_server import PATIENT, RedisServer

import tiercache
from tiercache import Cache
from tiercache.testing import MemoryRedis, SteppedClock

# How long an example takes, or is sought for, is a matter of how busy the machine is.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")
# For tests/test_mutants.py: a failure is wanted, not its shortest form.
settings.register_profile("mutants", deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="the chaos, fuzz and simulation tests in their long form")


def pytest_sessionstart() -> None:
    """TIERCACHE_TEST_INSTALLED=1 asks for an installed package: what this checkout holds is refused."""
    if os.environ.get("TIERCACHE_TEST_INSTALLED") and Path(tiercache.__file__).parents[1] == Path(__file__).parents[1]:
        raise pytest.UsageError(f"{tiercache.__file__} is this checkout's, and the installed package is wanted")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a job in the background, whose programs would ignore it too
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def amount(pytestconfig: pytest.Config) -> Callable[[int, int], int]:
    """Chooses how often to do a thing: amount(short, long)."""
    is_long = pytestconfig.getoption("--long")
    return lambda short, long: long if is_long else short


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def fleet(clock: SteppedClock) -> MemoryRedis:
    return MemoryRedis(clock)


@pytest.fixture
def namespace(request: pytest.FixtureRequest) -> str:
    """A namespace that no other test uses."""
    return f"t{abs(hash(request.node.nodeid)):x}"


@pytest.fixture
def make_cache(redis_server: RedisServer, namespace: str) -> Iterator[Callable[..., Cache]]:
    """Makes patient caches of a namespace on the session's Redis; closes them, and checks that no thread is left."""
    caches: list[Cache] = []

    def make(url: str | None = redis_server.url, **settings: Any) -> Cache:
        cache = Cache(url, **{"namespace": namespace, **PATIENT, **settings})
        caches.append(cache)
        return cache

    before = set(threading.enumerate())
    yield make
    for cache in caches:
        cache.close()
    left = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("tiercache-")]
    for thread in left:
        thread.join(5)
    assert not [thread for thread in left if thread.is_alive()]
