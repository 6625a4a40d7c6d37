"""Forks and new processes while loads are under way: no socket, flight or lease is shared, and nothing hangs."""

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from forking import forks_amid_a_call, forks_amid_an_import, forks_amid_calls, preloads
from members import Marks, Member
from redis_server import RedisServer
from test_flow import BYPASSES

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="sockets are told apart by /proc")
WORKERS = 4
HOW = ("os.fork", "fork", "spawn", "forkserver")


@pytest.mark.parametrize(
    ("how", "policy"),
    [*((how, {"lease": 1.0}) for how in HOW), ("os.fork", {})],
    ids=[*HOW, "os.fork, default lease"],
)
def test_workers_of_a_master_that_is_loading(
    start: Callable[..., Member], redis_server: RedisServer, namespace: str, how: str, policy: dict[str, float]
) -> None:
    """Each key is loaded once, by the master or one of its workers; a worker shares no socket and no flight."""
    master = start(preloads, policy, how, WORKERS)
    workers, codes, answers, stats, own = master.hear()
    assert master.end() == 0
    assert codes == [0] * WORKERS
    assert own >= 3  # of the inbox, of the threads, of the loop
    for told, shared, joined in workers:
        assert told == ["by the master"] * 3 + ["by a worker"] * 2
        assert shared == set()
        assert joined == 0
    assert answers == ["by the master", "by the master", "by a worker"]
    marks = Marks(redis_server.url, namespace)
    for key in ("sync", "async", "new", *(f"own-{number}" for number in range(WORKERS))):
        assert marks.count(key, "loading") == 1, key
    marks.close()
    assert stats["commits"] == stats["grants"] == 2
    assert not any(stats[name] for name in (*BYPASSES, "leases_lost", "undecodable"))


def test_a_child_has_no_connection_that_its_parent_is_using(
    start: Callable[..., Member], redis_server: RedisServer
) -> None:
    """A call of the parent is under way at the fork: its connection is closed in the child too."""
    parent = start(forks_amid_a_call, {"lease": 1.0})
    assert parent.hear() == "ready"
    redis_server.process.send_signal(signal.SIGSTOP)
    try:
        parent.tell()
        shared = parent.hear()
    finally:
        redis_server.process.send_signal(signal.SIGCONT)
    answers, code = parent.hear()
    assert parent.end() == code == 0
    assert answers == ["set"]
    assert shared == set()


@pytest.mark.parametrize("module", ["tiercache.aio", "tiercache.aio_link"])
def test_a_fork_amid_the_first_async_call_hangs_nobody(start: Callable[..., Member], module: str) -> None:
    """The fork waits for the imports of that call: a child could never end them."""
    parent = start(forks_amid_an_import, {}, module)
    assert parent.hear() == (("loaded", "loaded", "set"), 0)
    assert parent.end() == 0


def test_forks_amid_calls_hang_nobody(
    start: Callable[..., Member],
    amount: Callable[[int, int], int],
    record_property: Callable[[str, Any], None],
) -> None:
    """Threads and a loop of the parent call all the time; every child answers, and so does the parent."""
    forks = amount(40, 500)
    parent = start(forks_amid_calls, {"lease": 1.0}, forks)
    for _ in range(forks):
        assert parent.hear() == (("loaded", "loaded", "set"), 0)
    wrong, stats = parent.hear()
    assert parent.end() == 0
    assert wrong == []
    assert not any(stats[name] for name in (*BYPASSES, "undecodable", "breaker_opened"))
    record_property("forks", forks)
