"""Programs that end during a load: they end at once, in silence, and an orderly exit gives the lease back."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import exits
import members
import pytest
import redis
from redis_server import RedisServer

from tiercache import Cache

LONG_LEASE = 60.0
QUIET = ""
CASES = [
    (exits.main_returns, 0, QUIET),
    (exits.sys_exit, 3, QUIET),
    (exits.unhandled, 1, "RuntimeError: as meant\n"),
    (exits.interrupted, -signal.SIGINT, "KeyboardInterrupt\n"),
    (exits.handled_sigterm, 0, QUIET),
    (exits.loop_ends, 0, QUIET),
    (exits.loop_ends_with_a_sync_loader, 0, QUIET),
    (exits.loop_ends_before_an_awaitable, 0, QUIET),
    (exits.loop_raises, 1, "RuntimeError: as meant\n"),
    (exits.loop_on_a_daemon_thread, 0, QUIET),
    (exits.refresh_behind, 0, QUIET),
]


@pytest.fixture
def run(
    redis_server: RedisServer, namespace: str, leftovers: Callable[[RedisServer], AbstractContextManager[None]]
) -> Any:
    """Runs a program of `exits` in dev mode, where every warning is an error: its exit code and its stderr."""

    def run(program: Callable[..., None], lease: float) -> tuple[int, str]:
        code = f"import exits, sys; exits.{program.__name__}(sys.argv[1], sys.argv[2], float(sys.argv[3]))"
        began = time.monotonic()
        ended = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "error", "-c", code, redis_server.url, namespace, str(lease)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(members.PATH)},
            capture_output=True,
            text=True,
            timeout=exits.FOREVER,
            check=False,
        )
        assert time.monotonic() - began < exits.FOREVER / 10
        return ended.returncode, ended.stderr

    with leftovers(redis_server):
        yield run


@pytest.mark.parametrize(("program", "code", "said"), CASES, ids=[each[0].__name__ for each in CASES])
def test_an_orderly_exit_gives_the_lease_back(
    run: Callable[..., tuple[int, str]],
    client: redis.Redis,
    namespace: str,
    make_cache: Callable[..., Cache],
    program: Callable[..., None],
    code: int,
    said: str,
) -> None:
    """The program ends though its load does not; the lease, which would last a minute, is free."""
    returned, stderr = run(program, LONG_LEASE)
    assert returned == code
    assert stderr.endswith(said)
    assert stderr.count("Traceback") == (said != QUIET)
    assert stderr == QUIET if said == QUIET else "Exception ignored" not in stderr
    assert not client.exists(f"tc1:{{{namespace}:k}}:l")
    fresh = "old" if program is exits.refresh_behind else "loaded"
    assert make_cache().get_or_load("k", lambda: "loaded", stale_while_revalidate=exits.FOREVER) == fresh


@pytest.mark.parametrize(
    ("program", "code"), [(exits.default_sigterm, -signal.SIGTERM), (exits.os_exit, 4)], ids=["SIGTERM", "os._exit"]
)
@pytest.mark.parametrize("lease", [0.3, 3.0])
def test_a_lease_ends_by_itself_when_nobody_can_give_it_back(
    run: Callable[..., tuple[int, str]],
    client: redis.Redis,
    namespace: str,
    make_cache: Callable[..., Cache],
    program: Callable[..., None],
    code: int,
    lease: float,
) -> None:
    """Killed by a signal, or gone without clean-up: the next caller leads when the lease has ended."""
    assert run(program, lease) == (code, QUIET)
    assert client.pttl(f"tc1:{{{namespace}:k}}:l") <= lease * 1000
    began = time.monotonic()
    assert make_cache().get_or_load("k", lambda: "loaded") == "loaded"
    assert time.monotonic() - began < lease + 10


def test_a_thread_that_loads_on_stores_its_value(
    run: Callable[..., tuple[int, str]], make_cache: Callable[..., Cache]
) -> None:
    """The interpreter waits for threads that are no daemons, and so does the cache."""
    assert run(exits.thread_goes_on, LONG_LEASE) == (0, QUIET)
    assert make_cache().get("k") == "loaded after the main thread"


def test_an_exit_while_waiting_harms_nobody(
    run: Callable[..., tuple[int, str]], make_cache: Callable[..., Cache]
) -> None:
    """A program ends while it waits for this process's load, which goes on and is stored."""
    cache = make_cache()
    assert cache.get_or_load("k", lambda: run(exits.waiting_for_another, LONG_LEASE), lease=LONG_LEASE) == (0, QUIET)
    assert make_cache().get("k") == (0, QUIET)
    assert cache.stats()["commits"] == 1
