"""Callers that leave: the others get the value of the one load, and when all have left the lease is free at once."""

import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from callers import LEAVES, churn, herd, leavers
from holders import waiter
from members import Marks, Member
from redis_server import RedisServer
from test_flow import BYPASSES

PROCESSES = 4
CALLERS = 20  # threads in each process, and as many tasks
LONG_LEASE = {"lease": 60.0}


def is_clean(stats: dict[str, int]) -> None:
    assert not any(stats[name] for name in (*BYPASSES, "leases_lost", "commit_rejected", "undecodable")), stats


@pytest.mark.parametrize("policy", [{"lease": 1.0}, {}], ids=["short lease", "default lease"])
def test_callers_that_leave_cost_the_others_nothing(
    start: Callable[..., Member],
    client: redis.Redis,
    redis_server: RedisServer,
    namespace: str,
    policy: dict[str, float],
    amount: Callable[[int, int], int],
    record_property: Callable[[str, Any], None],
) -> None:
    """20 % of the tasks cancelled, 20 % of the threads timed out, in 4 processes: one load for all the others."""
    marks = Marks(redis_server.url, namespace)
    members = [start(herd, policy, CALLERS) for _ in range(PROCESSES)]
    for member in members:
        assert member.hear() == "ready"
    rounds = amount(3, 30)
    left = 0
    for number in range(rounds):
        key = f"k{number}"
        for member in members:
            member.tell(key)
        for member in members:
            assert member.hear() == "gone"
        client.rpush(f"go:{namespace}:{key}", "go")
        results = [member.hear() for member in members]
        assert marks.count(key, "loading") == 1
        leavers = PROCESSES * CALLERS // LEAVES
        cancelled, timed_out = (sum(result[n] for result in results) for n in (1, 2))
        assert cancelled == leavers
        assert leavers - 1 <= timed_out <= leavers
        answers = [answer for result in results for answer in result[0]]
        assert answers == [f"value of {key}"] * (2 * PROCESSES * CALLERS - cancelled - timed_out)
        left += cancelled + timed_out
    for member in members:
        member.tell()
    counters = [member.hear() for member in members]
    for member in members:
        assert member.end() == 0
    marks.close()
    for stats in counters:
        is_clean(stats)
    assert sum(stats["loads_abandoned"] for stats in counters) == 0
    assert sum(stats["loads"] for stats in counters) == sum(stats["grants"] for stats in counters) == rounds
    record_property("herds", rounds)
    record_property("callers_left", left)


def test_cancelled_at_any_moment(
    start: Callable[..., Member],
    redis_server: RedisServer,
    namespace: str,
    amount: Callable[[int, int], int],
    record_property: Callable[[str, Any], None],
) -> None:
    """The same with short loads, so that cancellations hit reads, elections and commits too: one load per key."""
    keys = [f"k{n}" for n in range(amount(40, 1000))]
    members = [start(churn, {"lease": 1.0}, keys, CALLERS) for _ in range(PROCESSES)]
    for member in members:
        assert member.hear() == "ready"
    for member in members:
        member.tell()
    results = [member.hear() for member in members]
    for member in members:
        assert member.end() == 0
    assert sum(wrong for (_, wrong), _ in results) == 0
    cancelled = sum(cancelled for (cancelled, _), _ in results)
    assert cancelled > 0
    marks = Marks(redis_server.url, namespace)
    assert {key: marks.count(key, "loading") for key in keys} == dict.fromkeys(keys, 1)
    marks.close()
    for _, stats in results:
        is_clean(stats)
        assert stats["loads_abandoned"] == 0
    record_property("callers_cancelled", cancelled)


@pytest.fixture
def leaving(
    start: Callable[..., Member], redis_server: RedisServer, namespace: str
) -> Callable[..., tuple[Any, dict[str, int], set[str], list[str]]]:
    """Every task of a load cancelled while two other processes wait; what came of it: answers and marks."""

    def run(policy: dict[str, Any], stays: bool = False, waits: bool = False) -> Any:
        marks = Marks(redis_server.url, namespace)
        first = start(leavers, policy, CALLERS, stays)
        assert first.hear() == "loading"
        waiters = [start(waiter, policy, colour, 2) for colour in ("threads", "tasks")]
        for each in waiters:
            assert each.hear() == "ready"
            each.tell("k")
        marks.until_waited_for("k", len(waiters))
        first.tell()
        assert first.hear() == "left"
        began = time.monotonic()
        if waits:
            first.tell()
        values = {each.hear()[1] for each in waiters for _ in range(2)}
        assert time.monotonic() - began < LONG_LEASE["lease"] / 2
        if not waits:
            first.tell()
        answers, stats = first.hear()
        for each in waiters:
            each.tell()
            is_clean(each.hear())
        for each in (first, *waiters):
            assert each.end() == 0
        words = [word for word, _ in marks.all("k")]
        marks.close()
        is_clean(stats)
        return answers, stats, values, words

    return run


@pytest.mark.parametrize("policy", [LONG_LEASE, {}], ids=["long lease", "default lease"])
def test_the_lease_is_free_at_once_when_all_have_left(leaving: Callable[..., Any], policy: dict[str, float]) -> None:
    """The load is cancelled; a waiting process leads long before the lease's end, and all get its value."""
    answers, stats, values, words = leaving(policy)
    assert words == ["loading", "cancelled", "led"]
    assert len(values) == 1
    assert values == set(answers)
    assert stats["loads_abandoned"] == 1
    assert stats["commits"] == 0


def test_a_load_that_is_to_finish_is_not_cancelled(leaving: Callable[..., Any]) -> None:
    """`on_abandon="finish"`: everybody left, the load goes on and is for the others."""
    answers, stats, values, words = leaving({**LONG_LEASE, "on_abandon": "finish"}, waits=True)
    assert words == ["loading"]
    assert values == set(answers) == {"by the leavers"}
    assert stats["loads_abandoned"] == 0


def test_a_thread_keeps_the_load_of_cancelled_tasks(leaving: Callable[..., Any]) -> None:
    """Every task left, a thread of the same process still waits: nothing is cancelled."""
    answers, stats, values, words = leaving(LONG_LEASE, stays=True, waits=True)
    assert words == ["loading"]
    assert values == set(answers) == {"by the leavers"}
    assert stats["loads_abandoned"] == 0
