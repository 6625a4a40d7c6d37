"""pytest fixtures for tests of one's own code: `pytest_plugins = ["tiercache.testing.fixtures"]` in conftest.py.

`stepped_clock`, `memory_cache` and `loads_once`. Nothing else in tiercache imports this module, or pytest.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tiercache.cache import Cache
from tiercache.testing.cache import MemoryCache, SteppedClock
from tiercache.testing.redis import MemoryRedis

__all__ = ["loads_once", "memory_cache", "stepped_clock"]


@pytest.fixture
def stepped_clock() -> SteppedClock:
    """The clock of `memory_cache`: `step(seconds)` lets time pass, nothing else does."""
    return SteppedClock()


@pytest.fixture
def memory_cache(stepped_clock: SteppedClock) -> Iterator[MemoryCache]:
    """A fresh cache with both tiers in memory, closed after the test."""
    with MemoryCache(MemoryRedis(stepped_clock)) as cache:
        yield cache


@pytest.fixture
def loads_once(memory_cache: MemoryCache) -> Callable[..., AbstractContextManager[None]]:
    """`with loads_once():` fails unless a loader ran exactly once within; `loads_once(cache)` asks another cache."""

    @contextmanager
    def once(cache: Cache = memory_cache) -> Iterator[None]:
        before = cache.stats()["loads"]
        yield
        loads = cache.stats()["loads"] - before
        assert loads == 1, f"a loader ran {loads} times, not once"

    return once
