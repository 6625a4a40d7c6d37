"""A herd over processes costs one load, few commands, and no way around the lease."""

import asyncio
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import fleet
import pytest
from redis_server import RedisServer
from test_flow import BYPASSES

from tiercache import Cache
from tiercache.remote.commands import HOT, RENEW

SET_UP = {"HELLO", "AUTH", "CLIENT", "SELECT", "INFO", "PING", "SUBSCRIBE", "MONITOR"}


class Monitor:
    """Counts the commands that clients send, without scripts' inner calls and connection set-up."""

    def __init__(self, server: RedisServer) -> None:
        self._client = server.client(socket_timeout=None)  # a herd may be silent for long
        self._monitor = self._client.monitor()
        self._monitor.__enter__()
        self.commands: list[str] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while not self._ended.is_set():
            entry: dict[str, Any] = self._monitor.next_command()
            if entry["command"].startswith("ECHO the end"):
                self._ended.set()
            elif entry["client_type"] != "lua":
                self.commands.append(entry["command"])

    def stop(self, server: RedisServer) -> list[str]:
        with server.client() as client:
            client.echo("the end")
        assert self._ended.wait(20)
        self._monitor.__exit__(None, None, None)
        self._client.close()
        return [
            each
            for each in self.commands
            if each.split(" ")[0].upper() not in SET_UP and not each.upper().startswith("INCRBY LOADS:")
        ]


def of_callers(commands: list[str]) -> list[str]:
    """Without renewals of leases and reports of popularity, whose number is a matter of how busy the machine is."""
    behind = (RENEW.sha, HOT.sha, HOT.text.partition("\n")[0])
    return [each for each in commands if not any(mark in each for mark in behind)]


@pytest.mark.parametrize(
    ("processes", "callers", "colour"), [(4, 250, "threads"), (4, 250, "tasks"), (16, 64, "tasks")]
)
def test_a_cold_herd_loads_once(
    redis_server: RedisServer, namespace: str, processes: int, callers: int, colour: str
) -> None:
    """All ask for one absent item: one load, at most 4 commands per process, no bypass, one decoding per process."""
    with Cache(redis_server.url, namespace=f"{namespace}-0") as cache:
        cache.ping()  # the scripts are known from here on
    members = [fleet.Member(fleet.herd, redis_server.url, namespace, colour, callers, 0.5) for _ in range(processes)]
    for member in members:
        assert member.hear() == "ready"
    monitor = Monitor(redis_server)
    for member in members:
        member.tell()
    results = [member.hear() for member in members]
    commands = monitor.stop(redis_server)
    for member in members:
        member.end()
    with redis_server.client() as client:
        assert int(client.get(f"loads:{namespace}")) == 1
        assert not client.keys(f"tc1:{{{namespace}:*:l")
    assert [len(waits) for waits, _ in results] == [callers] * processes
    assert len(of_callers(commands)) <= 4 * processes, commands
    for _, stats in results:
        assert not any(stats[name] for name in (*BYPASSES, "leases_lost", "undecodable", "unread")), stats
    assert sum(stats["grants"] for _, stats in results) == 1
    # The value came to the waiting processes in the message, and was decoded once in each.
    assert sum(command.startswith("GET ") for command in commands) <= processes
    assert sum(stats["decoded"] for _, stats in results) == processes - 1


@pytest.mark.parametrize(("keys", "waiters"), [(1, 5000), (1000, 50)])
def test_a_cold_start_of_many_tasks_loads_each_key_once(
    make_cache: Callable[..., Cache], redis_server: RedisServer, keys: int, waiters: int
) -> None:
    """As many loads as keys, four commands for each of them, and nothing goes around the lease."""
    cache = make_cache(connect_timeout=9, call_timeout=9, call_budget=30)
    cache.ping()
    monitor = Monitor(redis_server)
    loads: list[int] = []

    async def load(key: int) -> int:
        loads.append(key)
        return key

    async def main() -> list[int]:
        calls = [cache.aget_or_load(f"k{key}", partial(load, key)) for _ in range(waiters) for key in range(keys)]
        return await asyncio.gather(*calls)

    assert asyncio.run(main()) == [*range(keys)] * waiters
    commands = monitor.stop(redis_server)
    assert sorted(loads) == [*range(keys)]
    assert len(of_callers(commands)) == 4 * keys
    stats = cache.stats()
    assert (stats["grants"], stats["commits"], stats["joins"]) == (keys, keys, keys * (waiters - 1))
    assert not any(stats[name] for name in (*BYPASSES, "leases_lost", "unread", "breaker_opened")), stats


def test_a_killed_holder_delays_the_others_by_its_lease(redis_server: RedisServer, namespace: str) -> None:
    """SIGKILL during a load of 60 s: another leads within the lease, not the load."""
    policy = {"lease": 1.0, "max_load": 120.0}
    holder = fleet.Member(fleet.holder, redis_server.url, namespace, policy)
    assert holder.hear() == "loading"
    waiter = fleet.Member(fleet.waiter, redis_server.url, namespace, policy)
    assert waiter.hear() == "waiting"
    killed = time.monotonic()
    holder.signal(signal.SIGKILL)
    value, led, stats = waiter.hear()
    holder.end()
    waiter.end()
    assert value == "from the waiter"
    assert led - killed < 10  # the lease is 1 s; a load of 60 s is not waited for
    assert stats["loads"] == 1


def test_a_stopped_holders_commit_is_rejected(redis_server: RedisServer, namespace: str) -> None:
    """SIGSTOP past the lease: another loads; the holder, resumed, still answers its caller and stores nothing."""
    policy = {"lease": 0.3, "max_load": 120.0}
    holder = fleet.Member(fleet.holder, redis_server.url, namespace, policy)
    assert holder.hear() == "loading"
    holder.signal(signal.SIGSTOP)
    waiter = fleet.Member(fleet.waiter, redis_server.url, namespace, policy)
    assert waiter.hear() == "waiting"
    assert waiter.hear()[0] == "from the waiter"
    holder.signal(signal.SIGCONT)
    holder.tell()
    value, stats = holder.hear()
    assert value == "from the holder"
    assert stats["commits"] == 0
    assert stats["commit_rejected"] + stats["leases_lost"] >= 1
    again = fleet.Member(fleet.waiter, redis_server.url, namespace, policy)
    while (heard := again.hear()) == "waiting":
        pass
    assert heard[0] == "from the waiter"
    for member in (holder, waiter, again):
        member.end()
