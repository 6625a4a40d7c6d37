"""The fixtures of `tiercache.testing`, in tests of caches in one process: its threads and its event loops."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from test_docs import DOCS, blocks

from tiercache import Cache
from tiercache.testing import MemoryCache, SteppedClock

pytest_plugins = ["tiercache.testing.fixtures"]

Once = Callable[..., AbstractContextManager[None]]


def test_the_fixtures_step_time(memory_cache: MemoryCache, stepped_clock: SteppedClock, loads_once: Once) -> None:
    """A value lives until its clock is stepped past its lifetime."""
    load = memory_cache.cached("k", ttl=60, stale_if_error=0)(lambda: "loaded")
    for _ in range(2):
        with loads_once():
            assert [load(), load()] == ["loaded"] * 2
        stepped_clock.step(61)


def test_event_loops_share_a_load(memory_cache: MemoryCache, stepped_clock: SteppedClock, loads_once: Once) -> None:
    """Loops that follow one another, and loops of many threads at once: one load for each lifetime."""

    @memory_cache.cached("k", ttl=60, stale_if_error=0)
    async def load() -> str:
        await asyncio.sleep(0.05)
        return "loaded"

    for _ in range(2):
        with loads_once(), ThreadPoolExecutor(16) as pool:
            assert {asyncio.run(load()), *pool.map(lambda _: asyncio.run(load()), range(16))} == {"loaded"}
        stepped_clock.step(61)


def test_threads_share_a_load(memory_cache: MemoryCache, loads_once: Once) -> None:
    """And with them whoever awaits the same key."""
    together = threading.Barrier(17)

    def ask(_: int) -> object:
        together.wait(60)
        return memory_cache.get_or_load("k", lambda: time.sleep(0.05) or "loaded")  # type: ignore[func-returns-value]

    async def aask() -> object:
        await asyncio.to_thread(together.wait, 60)
        return await memory_cache.aget_or_load("k", lambda: asyncio.sleep(0.05, "loaded"))

    with loads_once(), ThreadPoolExecutor(16) as pool:
        asked = pool.map(ask, range(16))
        assert {asyncio.run(aask()), *asked} == {"loaded"}


def test_loads_once_counts(memory_cache: MemoryCache, loads_once: Once) -> None:
    """None and two are not once; another cache can be asked."""
    with pytest.raises(AssertionError, match="ran 0 times, not once"), loads_once():
        memory_cache.get("k")
    with pytest.raises(AssertionError, match="ran 2 times, not once"), loads_once():
        assert [memory_cache.refresh("k", lambda: n) for n in range(2)] == [0, 1]  # noqa: B023
    with Cache() as other, loads_once(other):
        other.get_or_load("k", lambda: 1)


def test_each_test_has_a_fresh_cache(memory_cache: MemoryCache) -> None:
    """What the tests above stored is not there."""
    assert memory_cache.get("k") is None
    assert memory_cache.stats()["entries"] == 0


def test_the_recipe_for_pytest_passes(tmp_path: Path) -> None:
    """The test on the page, run by pytest."""
    (recipe,) = [block.code for block in blocks(DOCS / "recipes.md", "python") if "pytest_plugins" in block.code]
    plugins, _, tests = recipe.strip().partition("\n")
    (tmp_path / "conftest.py").write_text(plugins + "\n")
    (tmp_path / "test_recipe.py").write_text(tests)
    command = [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert "1 passed" in done.stdout, done.stdout + done.stderr
