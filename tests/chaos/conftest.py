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
STALL = 0.075  # seconds: a quarter of the short leases
STEADY = "steady: runs once more if it fails while the machine stood still, which loses short leases"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", STEADY)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """A test with the mark `steady` proves something only where processes and Redis run when they want to."""
    if pyfuncitem.get_closest_marker("steady") is None:
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    server, start = (pyfuncitem._request.getfixturevalue(name) for name in ("redis_server", "start"))
    for tries_left in (4, 3, 2, 1, 0):
        with Pulse(server) as pulse:
            try:
                pyfuncitem.obj(**arguments)
                return True
            except AssertionError:
                if not tries_left or pulse.longest < STALL:
                    raise
        start.over()
        with server.client() as client:
            client.flushall()
    raise AssertionError("unreachable")


class Pulse:
    """How long this process or Redis went without running, at most, meanwhile."""

    def __init__(self, server: RedisServer) -> None:
        self.longest = 0.0
        self._client, self._ended = server.client(socket_timeout=SOON), threading.Event()
        self._thread = threading.Thread(target=self._beat, name="chaos-pulse")

    def _beat(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(0.005):
            self._client.ping()
            now = time.monotonic()
            self.longest = max(self.longest, now - last)
            last = now

    def __enter__(self) -> "Pulse":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()
        self._client.close()


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

    def over() -> None:
        while started:
            started.pop().kill()

    start.over = over  # type: ignore[attr-defined]  # ends all of them: the test begins anew

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
