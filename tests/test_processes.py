"""Forks, preloading and exits: no socket, flight, token or lease is shared or left behind."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fleet
import forks
from redis_server import RedisServer


def run(work: Any, server: RedisServer, namespace: str) -> Any:
    member = fleet.Member(work, server.url, namespace)
    heard = member.hear()
    member.end()
    assert member.process.exitcode == 0
    return heard


def test_a_forked_child_has_its_own_connections_and_inbox(redis_server: RedisServer, namespace: str) -> None:
    """The child reads and writes; the parent hears of it on its own inbox and goes on."""
    answer, old, new, stats = run(forks.with_a_live_cache, redis_server, namespace)
    assert answer == "(('by the parent', 'by the child'), True, True)"
    assert (old, new) == ("by the child", "by the child")
    assert stats["undecodable"] == stats["breaker_opened"] == 0


def test_a_cache_made_before_the_fork_works_after_it(redis_server: RedisServer, namespace: str) -> None:
    """As in a server that preloads its application."""
    assert run(forks.preloaded, redis_server, namespace) == ["'loaded'", "'loaded'"]


def test_a_child_waits_for_the_lease_of_its_parent(redis_server: RedisServer, namespace: str) -> None:
    """The parent's flight is not the child's: it elects, is told BUSY, and gets the parent's value."""
    answer, value, stats = run(forks.with_a_load_in_flight, redis_server, namespace)
    assert answer == "'by the parent'"
    assert value == "by the parent"
    assert stats["commits"] == 1


def test_a_child_refreshes_ahead_what_is_its_own(redis_server: RedisServer, namespace: str) -> None:
    """It has none of its parent's appointments, and makes its own."""
    assert run(forks.refreshes_ahead, redis_server, namespace) == ("1", 1)


def test_a_child_forked_inside_a_loader_stores_nothing(redis_server: RedisServer, namespace: str) -> None:
    """Its caller gets the value; the parent commits with its token, once."""
    answer, value, stats = run(forks.inside_a_loader, redis_server, namespace)
    assert answer == "('by the child', 0)"
    assert value == "by the parent"
    assert stats["commits"] == 1


def test_an_exit_gives_leases_back(redis_server: RedisServer, namespace: str) -> None:
    """The interpreter ends at once though a refresh runs, and the lease is free."""
    assert run(forks.exits_while_refreshing, redis_server, namespace) == "refreshing"
    with redis_server.client() as client:
        assert not client.exists(f"tc1:{{{namespace}:k}}:l")


def test_scripts_leave_no_noise(redis_server: RedisServer, namespace: str) -> None:
    """Several asyncio.run and no close: dev mode finds nothing to warn of."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import forks\n"
        "class Pipe:\n    send = staticmethod(print)\n"
        "forks.many_loops_then_exit(sys.argv[2], sys.argv[3], Pipe)\n"
    )
    here = Path(__file__).parent
    ended = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code, str(here), redis_server.url, namespace],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parent), os.environ.get("PYTHONPATH", "")])},
        check=False,
    )
    assert (ended.returncode, ended.stdout.strip(), ended.stderr) == (0, "['a', 'b', 'a']", "")
