"""Loads that outlast their lease, and event loops that are blocked: a lease is held as long as its load runs.

C code that keeps the GIL for longer than a lease stops every thread of its process: that is a stopped holder.
"""

import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from holders import waiter
from members import Marks, Member
from redis_server import RedisServer
from servers import SOON, until
from slow import holds_on_a_blocked_loop, loads_for, overdue, waits_on_a_blocked_loop
from test_flow import BYPASSES

COLOURS = ("threads", "tasks")
pytestmark = pytest.mark.steady


@pytest.fixture
def waiters(start: Callable[..., Member]) -> Callable[..., list[Member]]:
    """Two other processes that wait for keys, one of each colour."""

    def run(policy: dict[str, Any], *keys: str) -> list[Member]:
        members = [start(waiter, policy, colour, 2) for colour in COLOURS]
        for member in members:
            assert member.hear() == "ready"
            for key in keys:
                member.tell(key)
        return members

    return run


def end(waiters: list[Member]) -> None:
    for each in waiters:
        each.tell()
        stats = each.hear()
        assert not any(stats[name] for name in (*BYPASSES, "commit_rejected"))
        assert each.end() == 0


def is_kept(stats: dict[str, int]) -> None:
    assert stats["loads"] == stats["grants"] == stats["commits"] == 1
    assert not any(stats[name] for name in (*BYPASSES, "leases_lost", "loads_overdue"))


@pytest.fixture
def marks(redis_server: RedisServer, namespace: str) -> Any:
    marks = Marks(redis_server.url, namespace)
    yield marks
    marks.close()


@pytest.mark.parametrize(("policy", "short", "long"), [({"lease": 0.3}, 6, 6), ({}, 7, 57)], ids=["short", "default"])
def test_a_load_may_last_many_leases(
    start: Callable[..., Member],
    waiters: Callable[..., list[Member]],
    marks: Marks,
    amount: Callable[[int, int], int],
    policy: dict[str, float],
    short: int,
    long: int,
) -> None:
    """Twenty leases, of a thread's load and of a task's: nobody else loads, and the value is stored."""
    seconds = amount(short, long)
    holders = [start(loads_for, policy, colour, colour, seconds) for colour in COLOURS]
    for each in holders:
        assert each.hear() == "loading"
    others = waiters(policy, *COLOURS)
    for each in holders:
        value, stats = each.hear()
        assert value == "by the holder"
        is_kept(stats)
        assert each.end() == 0
    for each in others:
        assert sorted(each.hear() for _ in range(4)) == sorted([(colour, value) for colour in COLOURS] * 2)
    end(others)
    for colour in COLOURS:
        assert [word for word, _ in marks.all(colour)] == ["loading"]


@pytest.mark.parametrize("inside", [True, False], ids=["in the loader", "beside it"])
@pytest.mark.parametrize("policy", [{"lease": 0.3}, {}], ids=["short lease", "default lease"])
def test_a_blocked_loop_keeps_its_lease(
    start: Callable[..., Member],
    waiters: Callable[..., list[Member]],
    marks: Marks,
    amount: Callable[[int, int], int],
    policy: dict[str, float],
    inside: bool,
) -> None:
    """The loop runs nothing for many leases: one load in the fleet, and its commit is accepted."""
    seconds = amount(15, 50) / 10 if policy else amount(4, 7)
    holder = start(holds_on_a_blocked_loop, policy, seconds, inside)
    assert holder.hear() == "loading"
    others = waiters(policy, "k")
    marks.until_waited_for("k", 2)
    holder.tell()
    value, stats = holder.hear()
    assert value == "by the holder"
    is_kept(stats)
    assert holder.end() == 0
    for each in others:
        assert [each.hear() for _ in range(2)] == [("k", value)] * 2
    end(others)
    assert [word for word, _ in marks.all("k")] == ["loading"]


@pytest.mark.parametrize("lease", [0.3, 3.0, 60.0])
def test_a_blocked_loop_loses_no_message(
    start: Callable[..., Member], marks: Marks, amount: Callable[[int, int], int], lease: float
) -> None:
    """The holder commits while the waiting loop is blocked: once it runs, it has the value, from the one message."""
    policy = {"lease": lease}
    holder = start(loads_for, policy, "threads", "k", None)
    assert holder.hear() == "loading"
    member = start(waits_on_a_blocked_loop, policy, 10, amount(15, 50) / 10)
    assert member.hear() == "waiting"
    holder.tell()
    is_kept(holder.hear()[1])
    assert holder.end() == 0
    told = time.monotonic()
    member.tell()
    answers, stats = member.hear()
    assert time.monotonic() - told < 30  # not the longest of the leases
    assert member.end() == 0
    assert answers == ["by the holder"] * 10
    assert stats["loads"] == stats["hits_remote"] == 0
    assert [word for word, _ in marks.all("k")] == ["loading"]


@pytest.mark.parametrize("stale", [False, True], ids=["nothing stale", "stale value"])
@pytest.mark.parametrize("colour", COLOURS)
def test_a_load_past_max_load_is_given_up(
    start: Callable[..., Member], waiters: Callable[..., list[Member]], marks: Marks, colour: str, stale: bool
) -> None:
    """Followers get the old value or LoadTimeout, another process loads; a sync caller still gets its own value."""
    holder = start(overdue, {"lease": 0.3, "max_load": 1.5}, colour, stale)
    assert holder.hear() == "loading"
    others = waiters({"lease": 0.3}, "k")
    assert holder.hear() == "overdue"
    [(key, value)] = {each.hear() for each in others for _ in range(2)}
    assert (key, value[:9]) == ("k", "by waiter")
    holder.tell()
    own, followers, kept, stats = holder.hear()
    assert holder.end() == 0
    end(others)
    instead = "old" if stale else "LoadTimeout"
    assert own == ("late" if colour == "threads" else instead)
    assert followers == [instead] * 4
    assert kept == value
    assert stats["loads_overdue"] == 1
    assert stats["commits"] == stats["leases_lost"] == stats["loads_abandoned"] == 0
    words = ["loading", *(["cancelled"] if colour == "tasks" else [])]
    assert sorted(word for word, _ in marks.all("k")) == sorted([*words, "led"])


@pytest.mark.parametrize("colour", COLOURS)
def test_an_overdue_lease_is_given_back(
    start: Callable[..., Member], client: redis.Redis, namespace: str, colour: str
) -> None:
    """With the default lease: it is deleted, it does not end by itself, and nothing is stored."""
    lease = f"tc1:{{{namespace}:k}}:l"
    client.config_set("notify-keyspace-events", "Kgx")
    with client.pubsub() as events:
        events.subscribe(f"__keyspace@0__:{lease}")
        holder = start(overdue, {"max_load": 3.0}, colour, False)
        assert holder.hear() == "loading"
        assert holder.hear() == "overdue"
        until(lambda: not client.exists(lease))
        client.publish(f"__keyspace@0__:{lease}", "end")
        seen = []
        while (event := events.get_message(timeout=SOON)) is not None and event["data"] != b"end":
            seen.append(event["data"])
    client.config_set("notify-keyspace-events", "")
    assert seen[-1] == b"del"
    assert b"expire" in seen
    assert b"expired" not in seen
    holder.tell()
    own, followers, kept, stats = holder.hear()
    assert holder.end() == 0
    assert own == ("late" if colour == "threads" else "LoadTimeout")
    assert followers == ["LoadTimeout"] * 4
    assert kept is None
    assert not client.exists(f"tc1:{{{namespace}:k}}:v")
    assert stats["loads_overdue"] == 1
    assert stats["commits"] == 0
