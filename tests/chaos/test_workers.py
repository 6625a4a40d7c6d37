"""Workers that are killed at any moment: no refresh is lost, none is made twice but for a death, nobody waits."""

import contextlib
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from members import SOON, Member
from test_flow import BYPASSES
from workers import KEYS, POLICY, sender, worker

WORKERS = 3
COLOURS = ("threads", "tasks", "threads", "tasks")
WAITING = ("misses", "waits", "joins")
SLACK = 0.5  # seconds


class Workers:
    """Some workers, of which each that has died is replaced."""

    def __init__(self, start: Callable[..., Member]) -> None:
        self._start = start
        self._working = [start(worker, 0.1) for _ in range(WORKERS)]
        for each in self._working:
            assert each.hear() == "ready"
        self.killed: set[int | None] = set()
        self.in_a_load = 0

    def kill(self, number: int) -> None:
        self._bury()
        dying = self._working[number % WORKERS]
        dying.signal(signal.SIGKILL)
        self._replace(dying)

    def _bury(self) -> None:
        for each in self._working:
            if each.process.exitcode is not None:  # by itself
                self.in_a_load += 1
                self._replace(each)

    def _replace(self, dead: Member) -> None:
        assert dead.end() == -signal.SIGKILL
        self.killed.add(dead.process.pid)
        self._working[self._working.index(dead)] = self._start(worker, 0.1)

    def end(self) -> None:
        for each in self._working:
            with contextlib.suppress(BrokenPipeError):  # it has died by itself
                each.tell()
        for each in self._working:
            if each.end() == -signal.SIGKILL:
                self.killed.add(each.process.pid)
            else:
                assert each.process.exitcode == 0


@pytest.mark.steady
def test_killed_workers_lose_no_refresh(
    start: Callable[..., Member],
    client: redis.Redis,
    namespace: str,
    amount: Callable[[int, int], int],
    record_property: Callable[[str, Any], None],
) -> None:
    """SIGKILL at random moments from outside, and from inside a load, while senders of both colours read on."""
    workers = Workers(start)
    senders = [start(sender, colour) for colour in COLOURS]
    deadline = time.monotonic() + SOON

    def ask(member: Member) -> tuple[dict[int, int], float, int, dict[str, int]]:
        member.tell("seen?")
        seen: tuple[dict[int, int], float, int, dict[str, int]] = member.hear()
        return seen

    def until_newer_than(version: int) -> None:
        for member in senders:
            while set(seen := ask(member)[0]) != set(range(KEYS)) or min(seen.values()) <= version:
                assert time.monotonic() < deadline, f"a refresh is lost: {seen}, none newer than {version}"
                time.sleep(0.05)

    until_newer_than(0)
    primed = [ask(member)[3] for member in senders]
    for number in range(amount(24, 200)):
        time.sleep(random.uniform(0.0, 0.6))  # the chaos itself
        workers.kill(number)
    deadline = time.monotonic() + SOON
    until_newer_than(max(version for member in senders for version in ask(member)[0].values()))
    ended = [ask(member) for member in senders]
    for member in senders:
        member.tell()
        assert member.end() == 0
    workers.end()

    loads = dict.fromkeys(("jobs_sent", "jobs_untaken", "jobs_unsent", "loads"), 0)
    for (_, oldest, backwards, stats), before in zip(ended, primed, strict=True):
        assert not any(stats[name] - before[name] for name in WAITING), (stats, before)
        assert not any(stats[name] for name in (*BYPASSES, "undecodable", "unread", "load_failures")), stats
        assert backwards == 0
        assert oldest <= POLICY["ttl"] + POLICY["stale_while_revalidate"] + SLACK
        for name in loads:
            loads[name] += stats[name] - before[name]
    assert loads["jobs_untaken"] <= loads["loads"] <= loads["jobs_untaken"] + loads["jobs_unsent"]
    replaced = [client.lrange(name, 0, -1) for name in client.scan_iter(f"loads:{namespace}:*")]
    twice = 0
    for pids in replaced:  # who loaded in place of one record
        twice += len(pids) - 1
        assert sum(int(pid) not in workers.killed for pid in pids) <= 1, pids
    assert loads["jobs_sent"]
    assert workers.in_a_load
    assert sum(map(len, replaced)) > loads["loads"] + 2 * KEYS  # the workers have loaded too
    record_property("workers_killed", len(workers.killed))
    record_property("in_a_load", workers.in_a_load)
    record_property("refreshes", len(replaced))
    record_property("loads_again_after_a_death", twice)
    record_property("by_the_senders_themselves", loads["loads"])
    record_property("oldest_value_seconds", round(max(each[1] for each in ended), 3))
