"""A holder that is stopped past its lease stores nothing, and its own caller still gets its value."""

import signal
from collections.abc import Callable
from typing import Any

import pytest
import redis
from holders import stopped, waiter
from members import Marks, Member
from redis_server import RedisServer
from test_flow import BYPASSES

COLOURS = ("threads", "tasks")
pytestmark = pytest.mark.steady


def judge(
    start: Callable[..., Member], client: redis.Redis, marks: Marks, policy: dict[str, Any], colour: str, point: str
) -> None:
    """One round on one key: stop, let another process load, resume."""
    key = f"{colour}-{point}-large"
    holder = start(stopped, policy, colour, key, point)
    waiters = [start(waiter, policy, each, 2) for each in COLOURS]
    for each in waiters:
        assert each.hear() == "ready"
    marks.until(key, "granted")
    for each in waiters:
        each.tell(key)
    answers = {each.hear() for each in waiters for _ in range(2)}
    assert len(answers) == 1
    value = answers.pop()[1]
    assert value.startswith("by waiter")
    holder.signal(signal.SIGCONT)
    own, read, stats = holder.hear()
    assert own.startswith("by the holder")
    assert read == value
    assert stats["commits"] == 0
    assert stats["commit_rejected"] + stats["leases_lost"] >= 1
    assert not any(stats[name] for name in BYPASSES)
    assert not [*client.scan_iter("tc1:*:s:*")]
    assert marks.count(key, "led") == marks.count(key, "loading") == 1
    for each in waiters:
        each.tell(key)
    assert {each.hear() for each in waiters for _ in range(2)} == {(key, value)}
    for each in waiters:
        each.tell()
        assert each.hear()["commit_rejected"] == 0
    for each in (holder, *waiters):
        assert each.end() == 0


@pytest.fixture
def run(
    start: Callable[..., Member], client: redis.Redis, redis_server: RedisServer, namespace: str
) -> Callable[..., None]:
    def run(policy: dict[str, Any], colour: str, point: str) -> None:
        marks = Marks(redis_server.url, namespace)
        judge(start, client, marks, policy, colour, point)
        marks.close()

    return run


@pytest.mark.parametrize("point", ["granted", "loading", "encoding", "committing"])
@pytest.mark.parametrize("colour", COLOURS)
def test_what_a_stopped_holder_loaded_is_its_own_callers_alone(
    run: Callable[..., None], colour: str, point: str
) -> None:
    """SIGSTOP past the lease, wherever it stands: another process loads, and its value is what everybody reads."""
    run({"lease": 0.3}, colour, point)


def test_a_stopped_holder_of_the_default_lease(run: Callable[..., None]) -> None:
    """The same with a lease of 3 s."""
    run({}, "threads", "loading")
