"""What the chaos tests share: processes that are ended, and a check that nothing is left behind."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any

import members
import pytest
import redis
from redis_server import RedisServer

SOON = 60.0


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis of the chaos tests' own, so that what is left on it is theirs."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A plain client of it."""
    with redis_server.client() as client:
        yield client


@pytest.fixture
def leftovers() -> Callable[[RedisServer], AbstractContextManager[None]]:
    """`with leftovers(server):` what runs inside leaves no process, thread, connection, lease or immortal key."""
    return _leaves_nothing


@pytest.fixture
def start(
    redis_server: RedisServer, namespace: str, leftovers: Callable[[RedisServer], AbstractContextManager[None]]
) -> Iterator[Callable[..., members.Member]]:
    """Starts members on the chaos tests' Redis: start(work, *args); ends them and checks what they leave behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(members.PATH))
        forkserver.ensure_running()
        resource_tracker.ensure_running()
    started: list[members.Member] = []

    def start(work: Callable[..., object], *args: Any) -> members.Member:
        started.append(members.Member(work, redis_server.url, namespace, *args))
        return started[-1]

    with leftovers(redis_server):
        try:
            yield start
        finally:
            for member in started:
                member.kill()
    for member in started:
        assert not member.said, f"on stderr: {member.said}"


@contextmanager
def _leaves_nothing(server: RedisServer) -> Iterator[None]:
    threads, processes = set(threading.enumerate()), _descendants()
    with server.client() as client:
        connections = _connections(client)
        yield
        _until_none(lambda: [each.name for each in set(threading.enumerate()) - threads if "tiercache-" in each.name])
        _until_none(lambda: _descendants() - processes)
        _until_none(lambda: _connections(client) - connections)
        immortal = [key for key in client.scan_iter("tc1:*") if client.ttl(key) == -1]
        assert not immortal
        _until_none(lambda: [*client.scan_iter("tc1:{*}:l"), *client.scan_iter("tc1:{*}:s:*")])


def _until_none(left: Callable[[], Any]) -> None:
    deadline = time.monotonic() + SOON
    while found := left():
        assert time.monotonic() < deadline, f"left behind: {found}"
        time.sleep(0.01)


def _connections(client: redis.Redis) -> set[str]:
    return {each["id"] for each in client.client_list()}


def _descendants() -> set[int]:
    """The processes below this one; a server that a later fixture stops is no business of the caller's."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, fields = stat.read_text().rsplit(") ", 1)
        except OSError:
            continue  # it ended meanwhile
        if "(redis-server" not in name and "(valkey-server" not in name:
            parents[int(stat.parent.name)] = int(fields.split()[1])
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}
