"""Connections for threads: redis-py connects (address, TLS, login), then the socket is ours.

The private attributes of redis-py that tiercache touches are all in this file and in `aio_link.py`.

This file is longer than others because who uses a connection, and who gives it up, are read together.
"""

import select
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

from tiercache.local.combining import CombiningPool
from tiercache.local.trip import trip
from tiercache.remote.resp import INCOMPLETE, MALFORMED, Refusal, reader

WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
GRACE = 0.05  # a deadline noticed later than this was missed by us, not by Redis


class Unanswered(Exception):
    """No (whole) answer: connection refused or lost, deadline passed, reply too large or malformed.

    `oversized`: Redis answers, but with too much. `ours`: it says nothing of Redis, or what another call says already.
    `came`: the replies that were whole.
    """

    def __init__(self, why: str, *, oversized: bool = False, ours: bool = False, came: list[Any] | None = None) -> None:
        super().__init__(why)
        self.oversized = oversized
        self.ours = ours
        self.came = came or []


def allowance(size: int) -> float:
    """Seconds that a call may take beyond its base for the size of what it moves: 10 ms per started 100 kB."""
    return 0.01 * -(-size // 100_000)


def is_demoted(reply: Any) -> bool:
    """Does it come from a primary that has become a replica? Its address may lead to the new one by now."""
    return type(reply) is Refusal and reply.code == "READONLY"


class Link:
    """One connection; used by one thread at a time."""

    def __init__(self, address: Any, connect_timeout: float) -> None:
        self._connection = address.connection(connect_timeout)
        why = ""
        try:
            self._connection.connect()
        except Exception as error:  # besides its own and the system's: names that are none, certificates, providers
            self._connection.disconnect()
            why = address.clean(_safe(error))
        if why:  # raised outside: what was not cleaned is in nobody's __context__
            raise Unanswered(f"can't connect: {why}")
        self._socket: socket.socket = self._connection._sock
        self._socket.setblocking(False)  # a timeout would cost a call of the system for each send and receive
        self._pending: Callable[[], int] = getattr(self._socket, "pending", int)  # what TLS has decrypted already
        self._fd = self._socket.fileno() if type(self._socket) is socket.socket else -1  # -1: TLS, or the user's own
        self._used = False
        self.demoted = False  # it is a replica's by now
        self._reader = reader()
        self._gets = self._reader.gets
        self._poller = select.poll()
        self._poller.register(self._socket, select.POLLIN)

    def exchange(self, packed: bytes, replies: int, timeout: float, limit: int) -> list[Any] | None:
        """Send and read that many replies. None: nothing was sent, for the connection ended since it was used last."""
        deadline = time.monotonic() + timeout
        came: list[Any] | bytes | int | None = None
        if not self._reader.has_data():  # else it has an answer that nobody asked for
            came = trip(self._fd, packed, replies, timeout) if self._fd >= 0 else None if self.readable(0) else 0
        if came is None:
            if self._used:
                return None
            raise Unanswered("an answer that nobody asked for")
        self._used = True
        if isinstance(came, list):  # shorter than any limit
            return came
        size = len(packed)
        if isinstance(came, bytes):
            return self.receive(deadline, replies, limit, size, came)
        if came < size:
            self.send(packed[came:], timeout + allowance(size))
        return self.receive(deadline, replies, limit, size)

    def send(self, packed: bytes, timeout: float) -> None:
        try:
            try:
                sent = self._socket.send(packed)
            except WOULD_BLOCK:
                sent = 0
            if sent < len(packed):
                self._socket.settimeout(timeout)
                self._socket.sendall(memoryview(packed)[sent:])
                self._socket.setblocking(False)
        except OSError as error:
            raise Unanswered(_safe(error)) from None

    def receive(
        self, deadline: float, replies: int = 1, limit: int = 2**62, size: int = 0, data: bytes = b""
    ) -> list[Any]:
        """The next replies, which begin with `data`; `limit` bounds the bytes of each.

        `size` bytes were moved before them in this call.
        """
        out: list[Any] = []
        received = 0  # of the reply that is not whole yet
        try:
            while True:
                if data:
                    received += len(data)
                    if received > limit:
                        raise Unanswered(f"a reply of more than {limit} bytes", oversized=True)
                    self._reader.feed(data)
                while (reply := self._gets()) is not INCOMPLETE:
                    out.append(reply)
                    if type(reply) is Refusal and is_demoted(reply):
                        self.demoted = True
                    if len(out) == replies:
                        return out
                    size += received
                    received = 0
                data = self._recv(deadline + allowance(size + received))
        except MALFORMED as error:
            raise Unanswered(str(error) or type(error).__name__, came=out) from None
        except Unanswered as error:
            error.came = out
            raise

    def _recv(self, deadline: float) -> bytes:
        while True:
            left = deadline - time.monotonic()
            if not (
                self._pending()
                or self._poller.poll(left * 1000 if left > 0 else 0)
                # This thread was starved: it may be there.
                or (time.monotonic() - deadline >= GRACE and self._poller.poll(0))
            ):
                raise Unanswered("no answer in time")
            try:
                data = self._socket.recv(65536)
            except WOULD_BLOCK:  # a part of a TLS record
                continue
            except OSError as error:
                raise Unanswered(_safe(error)) from None
            if not data:
                raise Unanswered("the server closed the connection")
            return data

    def readable(self, timeout: float) -> bool:
        """Wait until something can be received."""
        return bool(self._reader.has_data() or self._pending() or self._poller.poll(timeout * 1000))

    def interrupt(self) -> None:
        """Make a blocked `receive` of another thread end now."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it ended already

    def close(self) -> None:
        self._connection.disconnect()


class Links(CombiningPool):
    """A few connections shared by the threads of this process; `limit` bounds the bytes of a reply."""

    def __init__(self, address: Any, connect_timeout: float, limit: int, most: int = 8) -> None:
        super().__init__(Unanswered, limit, most)
        self._address = address
        self._connect_timeout = connect_timeout
        self._living: WeakSet[Link] = WeakSet()  # those in use too

    def _make(self) -> Link:
        link = Link(self._address, self._connect_timeout)
        self._living.add(link)
        return link

    def after_fork(self) -> None:
        """In the child: close the copies of the parent's sockets and start with none."""
        self.forget()
        for link in list(self._living):
            link.close()


def _safe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
