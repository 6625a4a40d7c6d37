"""A holder that is killed, wherever it stands, costs the fleet one more load and at most the rest of its lease."""

import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import redis
from holders import CLASSES, LEASED, POINTS, STAGED, holder, waiter
from members import Marks, Member
from redis_server import RedisServer
from test_flow import BYPASSES

JITTER = 0.3  # seconds past the lease's end after which a waiter elects again
SLACK = 10.0  # for a busy machine; nothing here waits for `max_load`, which is 60 s
CALLERS = 2  # of each waiting process
BATCH = 6  # holders at once


class Rounds:
    """Runs holders in batches beside two processes of waiters, one of each colour, and judges each round."""

    def __init__(self, start: Callable[..., Member], server: RedisServer, namespace: str, lease: float) -> None:
        self.marks = Marks(server.url, namespace)
        self._policy = {"lease": lease}
        self._start, self._lease, self._namespace = start, lease, namespace
        self._waiters = [start(waiter, self._policy, colour, CALLERS) for colour in ("threads", "tasks")]
        for each in self._waiters:
            assert each.hear() == "ready"
        self.fell: Counter[str] = Counter()
        self.longest = 0.0  # seconds from a death to the load that made up for it
        self.loads = self.made_up = self.staged = 0

    def calibrate(self) -> float:
        """How long a holder takes, from the word to the answer, among as many others as in a batch."""
        holders = [self._holder(f"calibration-{n}", "nowhere", n) for n in range(BATCH)]
        for each in holders:
            each.tell()
        took = statistics.median([each.hear() for each in holders])
        for each in holders:
            each.tell()
            assert each.end() == 0
        return took

    def _holder(self, key: str, stop_at: str, number: int) -> Member:
        colour = "threads" if stop_at == STAGED else ("threads", "tasks")[number % 2]
        member = self._start(holder, self._policy, colour, key, stop_at)
        assert member.hear() == "ready"
        return member

    def run(self, client: redis.Redis, plan: dict[str, float | str]) -> None:
        """One batch: each key's holder dies after so many seconds, or at a point by itself."""
        holders = {
            key: self._holder(key, death if isinstance(death, str) else "nowhere", number)
            for number, (key, death) in enumerate(plan.items())
        }
        began = time.monotonic()
        events: list[tuple[float, str, str]] = []
        for key, death in plan.items():
            holders[key].tell()
            if isinstance(death, float):
                events += [(began + random.uniform(0, death), "ask", key), (began + death, "kill", key)]
        killed: dict[str, float] = {}
        for at, what, key in sorted(events):
            time.sleep(max(0.0, at - time.monotonic()))  # the chaos itself: a death at a random moment
            if what == "kill":
                killed[key] = time.monotonic()
                holders[key].signal(signal.SIGKILL)
            else:
                self._ask(key)
        for key, death in plan.items():
            if death in (*LEASED, STAGED):
                self.marks.until(key, "granted")
            elif isinstance(death, str):
                assert holders[key].end() == -signal.SIGKILL
            if isinstance(death, str):
                self._ask(key)
        for member in holders.values():
            assert member.end() == -signal.SIGKILL
        # What the dead left in Redis ends with the lease.
        staged = [*client.scan_iter(f"tc1:{{{self._namespace}:*:s:*")]
        for name in [*staged, *client.scan_iter(f"tc1:{{{self._namespace}:*:l")]:
            assert client.pttl(name) <= self._lease * 1000
        self.staged += len(staged)
        heard: list[tuple[str, str]] = []
        for each in self._waiters:
            heard += [each.hear() for _ in range(CALLERS * len(plan))]
        for key in plan:
            self._judge(key, [value for name, value in heard if name == key], killed.get(key))

    def _ask(self, key: str) -> None:
        for each in self._waiters:
            each.tell(key)

    def _judge(self, key: str, answers: list[str], killed: float | None) -> None:
        marks = self.marks.all(key)
        reached = [(word, at) for word, at in marks if word in (*POINTS, STAGED)]
        led = [at for word, at in marks if word == "led"]
        loads = len(led) + sum(word == "loading" for word, _ in reached)
        last, died = reached[-1] if reached else ("asked", killed)
        self.fell[next(name for name, words in CLASSES.items() if last in words)] += 1
        assert len(answers) == CALLERS * len(self._waiters)
        assert len(set(answers)) == 1, (key, answers, marks)
        assert 1 <= loads <= 2, (key, marks)
        self.loads += loads
        if "committed" in dict(reached):
            assert not led, (key, marks)
            assert answers[0].startswith("by the holder")
        elif led and dict(reached).get("granted"):
            self.made_up += 1
            delay = led[0] - (killed or died or 0.0)
            self.longest = max(self.longest, delay)
            assert delay <= self._lease + JITTER + SLACK, (key, marks)

    def end(self) -> list[dict[str, int]]:
        for each in self._waiters:
            each.tell()
        counters = [each.hear() for each in self._waiters]
        for each in self._waiters:
            assert each.end() == 0
        self.marks.close()
        return counters


@pytest.fixture
def rounds(start: Callable[..., Member], redis_server: RedisServer, namespace: str) -> Callable[[float], Rounds]:
    return lambda lease: Rounds(start, redis_server, namespace, lease)


def test_killed_holders_are_replaced_within_their_lease(
    rounds: Callable[[float], Rounds],
    client: redis.Redis,
    amount: Callable[[int, int], int],
    record_property: Callable[[str, Any], None],
) -> None:
    """SIGKILL at random moments and at each point of acquire, load and commit: two loads at most, all answered."""
    field = rounds(0.3)
    took = field.calibrate()
    number = amount(42, 210)
    for first in range(0, number, BATCH):
        plan: dict[str, float | str] = {}
        for n in range(first, first + BATCH):
            points = (*POINTS, STAGED)
            death = points[n // 2 % len(points)] if n % 2 else random.uniform(0, 1.3 * took)
            plan[f"k{n}-{'large' if death == STAGED or n // 2 % 2 else 'small'}"] = death
        field.run(client, plan)
    for stats in field.end():
        assert not any(stats[name] for name in (*BYPASSES, "undecodable", "unread")), stats
    assert set(field.fell) == set(CLASSES)
    assert field.staged
    record_property("holders_killed", number)
    record_property("staged_values_left", field.staged)
    record_property("loads", field.loads)
    record_property("loads_made_up_for", field.made_up)
    record_property("longest_delay_seconds", round(field.longest, 3))
    for name, times in field.fell.items():
        record_property(f"killed {name}", times)


def test_a_killed_holder_of_the_default_lease(rounds: Callable[[float], Rounds], client: redis.Redis) -> None:
    """The same at each point with a lease of 3 s, all at once."""
    field = rounds(3.0)
    field.run(client, {f"k-{point}": point for point in ("granted", "loading", "encoding")})
    field.end()
    assert field.made_up == 3
