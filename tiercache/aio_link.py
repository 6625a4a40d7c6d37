"""The connections of one event loop: redis-py connects, then the transport is ours.

Reads and scripts of all tasks share one: those of one turn of the loop are few writes, and the answers come in order.
Who was alone lately is written at once. A cancelled caller keeps its place in the queue, so nobody gets another's
answer; a connection that misses a deadline is dropped. While one is laden with a large value, others use another.

This file is longer than others because how answers are told apart, and how a connection is lost, are read together.
"""

import asyncio
import math
import os
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any, TypeVar

from tiercache.local.waiter import Waiter, Waiting, end_all
from tiercache.remote.links import GRACE, Unanswered, allowance, is_demoted
from tiercache.remote.resp import INCOMPLETE, MALFORMED, Refusal, reader

T = TypeVar("T")
BATCH = 32  # requests in one write: Redis answers them while the same turn of the loop asks for more
LADEN = 65_536  # bytes of an unfinished reply beyond which a connection is not shared
MOST = 4  # connections of one loop
TURNS = 10  # of a busy loop, for what is to be there in time


async def within(seconds: float, future: "asyncio.Future[T]") -> T:
    """What a future gives, else it is cancelled: TimeoutError.

    However long a turn of the loop takes, it is a tenth of the time at most: it may be what the future waits for.
    """
    try:
        for _ in range(TURNS):
            if (await asyncio.wait({future}, timeout=seconds / TURNS))[0]:
                return future.result()
        raise TimeoutError
    except BaseException:
        future.cancel()
        raise


class LoopLink(asyncio.Protocol):
    """A connected link; `exchange` may be called by any task of its loop."""

    def __init__(self, connection: Any, limit: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit = limit
        self._reader = reader()
        self._waiting: deque[Waiting] = deque()
        self._unsent: list[tuple[bytes, Waiting, float]] = []  # written when they are BATCH, or this turn is over
        self._crowded = False  # the last to be written was not alone: nor will the next be
        self._moved = 0  # bytes received so far
        self._head_at = 0  # how many had been when the first in the queue became the first
        self._watch: asyncio.TimerHandle | None = None  # looks for who is overdue
        self._full = False  # much is not sent yet
        self.closed = False
        # redis-py's stream objects are kept, because they close the transport when they are collected.
        self._connection = connection
        self._transport: asyncio.WriteTransport = connection._writer.transport
        self._transport.set_protocol(self)

    @property
    def laden(self) -> bool:
        """Would a small request wait behind a large one?"""
        return self._full or (self._moved - self._head_at > LADEN and bool(self._waiting))

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False

    def exchange(self, packed: bytes, replies: int, timeout: float) -> Waiting:
        """Send with others and read that many replies; it, or what it gives once it is awaited, raises Unanswered."""
        if self.closed:
            raise Unanswered("the connection is lost")
        waiting = Waiting(self._loop, asyncio.CancelledError, replies, len(packed), self._moved)
        alone = not self._waiting
        self._waiting.append(waiting)
        if alone:
            self._head_at = self._moved
        if alone and not self._crowded:
            self._write(packed, [(packed, waiting, timeout)])
        else:
            if not self._unsent:
                self._loop.call_soon(self._send)
            self._unsent.append((packed, waiting, timeout))
            if len(self._unsent) == BATCH:
                self._send()
        return waiting

    def _send(self) -> None:
        batch, self._unsent = self._unsent, []
        if batch and not self.closed:
            self._crowded = len(self._waiting) > 1
            self._write(b"".join([packed for packed, _, _ in batch]), batch)

    def _write(self, packed: bytes, batch: list[tuple[bytes, Waiting, float]]) -> None:
        now, first = self._loop.time(), math.inf
        for _, waiting, timeout in batch:  # from here on: the turn of the loop before it is no time of Redis
            waiting.until = now + timeout
            first = min(first, waiting.until)
        self._transport.write(packed)
        if self._watch is None or first < self._watch.when():
            self._look_at(first)

    def _look_at(self, when: float) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._watch = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        assert self._watch is not None
        planned, self._watch = self._watch.when(), None
        if not self._waiting:
            return
        now = self._loop.time()
        first = min(each.until + allowance(each.size + self._moved - each.moved_before) for each in self._waiting)
        if now - planned > GRACE:  # the loop was blocked: the answer may be there already
            first = max(first, now + 0.001)
        if first <= now:
            self._fail("no answer in time")
        elif first < math.inf:  # else none of them is sent yet
            self._look_at(first)

    def data_received(self, data: bytes) -> None:
        self._moved += len(data)
        self._reader.feed(data)
        waiting, gets = self._waiting, self._reader.gets
        answered: list[Waiter] = []
        try:
            while waiting and (reply := gets()) is not INCOMPLETE:
                if type(reply) is Refusal and is_demoted(reply):
                    self.closed = True
                first = waiting[0]
                first.value.append(reply)
                first.left -= 1
                self._head_at = self._moved
                if not first.left:
                    answered.append(waiting.popleft())
        except MALFORMED as error:
            self._fail(str(error) or type(error).__name__)
        if answered:
            self._loop.call_soon(end_all, self._loop, answered)
        if self._moved - self._head_at > self._limit and self._waiting:
            self._fail(f"a reply of more than {self._limit} bytes", oversized=True)
        elif not self._waiting and self._reader.has_data():
            self._fail("an answer that nobody asked for")
        if self.closed and not self._waiting:  # left for a new one, and now nobody waits here
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("the connection was lost" if exc is None else f"{type(exc).__name__}: {exc}")

    def _fail(self, why: str, *, oversized: bool = False) -> None:
        self.closed = True
        waiting, self._waiting = self._waiting, deque()
        told = False  # a lost connection is one failure of Redis, however many wait
        for each in waiting:
            if not each.done():
                each.fail(Unanswered(why, oversized=oversized, ours=told))
                told = True
            oversized = False  # only the first in the queue asked for it
        self.close()

    def close(self) -> None:
        self.closed = True
        self._unsent.clear()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self._transport.abort()
        self._connection._writer = self._connection._reader = None

    def after_fork(self) -> None:
        """In the child: give up its copy of the socket, behind the back of the loop, which is the parent's."""
        fd = self._transport.get_extra_info("socket").fileno()
        if fd >= 0:
            with open(os.devnull) as nothing:
                os.dup2(nothing.fileno(), fd, inheritable=False)


class LoopLinks:
    """The links of one event loop, made when they are first needed and again when they are lost."""

    def __init__(self, address: Any, connect_timeout: float, limit: int) -> None:
        self._address = address
        self._connect_timeout = connect_timeout
        self._limit = limit
        self._links: list[LoopLink] = []
        self._connecting: asyncio.Task[LoopLink] | None = None
        self._keeper: AsyncGenerator[None, None] | None = None

    def free(self) -> LoopLink | None:
        """A connected link that is not laden, or, of as many as there may be, the first."""
        for link in self._links:
            if not link.closed and not link.laden:
                return link
        self._links = [link for link in self._links if not link.closed]
        return self._links[0] if len(self._links) >= MOST else None

    async def link(self, patience: float) -> LoopLink:
        """A new link, within `patience` seconds; concurrent callers share one attempt to connect."""
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
            self._connecting.add_done_callback(self._connected)
        try:
            return await within(patience, asyncio.shield(self._connecting))
        except TimeoutError:
            raise Unanswered("can't connect: timed out") from None

    def _connected(self, task: "asyncio.Task[LoopLink]") -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()  # it was told to whoever waited

    async def _connect(self) -> LoopLink:
        connection, why = self._address.async_connection(), ""
        try:
            await within(self._connect_timeout, asyncio.ensure_future(connection.connect()))
        except Exception as error:  # besides its own and the system's: names that are none, certificates, providers
            await connection.disconnect(nowait=True)
            why = self._address.clean(f"{type(error).__name__}: {error}")
        if why:
            raise Unanswered(f"can't connect: {why}")
        link = LoopLink(connection, self._limit)
        self._links.append(link)
        if self._keeper is None:
            self._keeper = self._keep()
            await self._keeper.__anext__()
        return link

    async def _keep(self) -> AsyncGenerator[None, None]:
        # asyncio.run finalizes a started generator before it closes the loop: no socket outlives its loop.
        try:
            yield
        finally:
            self.close()
            await asyncio.sleep(0)

    def after_fork(self) -> None:
        for link in self._links:
            link.after_fork()

    def close(self) -> None:
        """Drop the connections; callable on the loop's thread only."""
        links, self._links = self._links, []  # a link refers to its loop, which is held weakly
        for link in links:
            link.close()
