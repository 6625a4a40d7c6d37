"""One process's part of a cache: built without I/O, woken by the first call that needs Redis, forked, closed.

This file is longer than others because what is built, forked and closed is the same list each time.
"""

import os
import random
import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from tiercache.ahead import Ahead
from tiercache.alone import Alone
from tiercache.blocking import BlockingPort, run
from tiercache.errors import CacheClosed
from tiercache.events import BreakerClosed, BreakerOpened, Epoch
from tiercache.local.table import Table
from tiercache.port import Lease, Node, Port, Remote, RemoteDown
from tiercache.remote.breaker import Breaker
from tiercache.remote.client import RedisRemote
from tiercache.remote.commands import Names
from tiercache.remote.inbox import EPOCH, Slots
from tiercache.remote.popularity import KEPT, Reports
from tiercache.remote.timer import Timer
from tiercache.values import Values
from tiercache.wire import Wire
from tiercache.workers import Workers

if TYPE_CHECKING:
    from tiercache.aio import AioPort, Loops

LOAD_THREADS = 32  # sync loaders of async calls, at once


class Process:
    """What the calls of one cache share in this process."""

    def __init__(
        self,
        table: Table,
        *,
        wire: Wire | None,  # None: there is no tier 2
        names: Names,
        half_life: float,
        values: Values,
        weigh: Callable[[Any, int], int],
        now: Callable[[], float],
        push_bytes: int,
        call_timeout: float,
        call_budget: float,
        refresh_concurrency: int,
        around_load: Callable[[], AbstractContextManager[Any]] | None,
    ) -> None:
        self._names, self._now, self._wire = names, now, wire
        self._lock = threading.Lock()  # the inbox is made, and the node closed, under it
        self._pid = os.getpid()
        self._loops: Loops | None = None
        self._refreshers = Workers(refresh_concurrency, "tiercache-refresh")
        self._loaders = Workers(LOAD_THREADS, "tiercache-load")
        self._redis: RedisRemote | None = None
        if wire is not None:
            self._redis = RedisRemote(
                names,
                Breaker(now, _draw, self._breaker_changed),
                now,
                table.count,
                call_timeout=call_timeout,
                push_bytes=push_bytes,
            )
            self._redis.process = os.urandom(16)
        chosen: Remote = self._redis or Alone()
        self.node = Node(
            table=table,
            remote=chosen,
            values=values,
            slots=Slots(),
            timer=Timer(chosen, self.blocking, run, now, lambda *told: self.node.tell(*told)),
            now=now,
            draw=_draw,
            token=lambda: os.urandom(16),
            weigh=weigh,
            call_budget=call_budget,
            around_load=around_load or nullcontext,
            links=None if wire is None else wire.links(),
            jobs=None if self._redis is None else self._redis.jobs,
        )
        self.node.ahead = Ahead(self.node, half_life, refresh_concurrency)
        self.reports = None if self._redis is None else Reports(self.node, self._redis, half_life)
        if chosen.shared:
            table.cut_all(verified=False)  # until the inbox is subscribed
        _living.add(self)

    # Ports.

    def blocking(self) -> BlockingPort:
        """A port for one sync call."""
        return BlockingPort(self.node, self._refreshers)

    def aio(self) -> "AioPort":
        """A port for one async call, on the running loop."""
        return (self._loops or self.loops()).port(self.node)

    def loops(self) -> "Loops":
        if self._loops is None:
            with self._lock:  # a fork waits for it: a child could not end an import that another thread has begun
                import tiercache.aio_link  # noqa: F401  # which the first call on a loop needs
                from tiercache.aio import Loops

                if self._loops is None:
                    self._loops = Loops(self._wire, self._loaders)
        return self._loops

    def loop_links(self) -> Any:
        """Connections of the running loop beside those of its calls, for a call that waits long."""
        assert self._wire is not None
        return self._wire.loop_links()

    # Life.

    def wake(self) -> None:
        """Be ready to hear messages, in this very process; CacheClosed after `close`."""
        if self.node.closed:
            raise CacheClosed("this cache was closed; make a new one")
        if self._pid != os.getpid():
            self.after_fork_in_child()
        if self._redis is None or self.node.inbox is not None:
            return
        with self._lock:
            if self.node.inbox is not None:
                return
            inbox = self._new_inbox(self._redis)
            self.node.inbox, self.node.ready = inbox, False
        inbox.start()  # outside the lock: it may tell of an epoch
        if self.reports is not None:
            self.reports.start()

    def _new_inbox(self, redis: RedisRemote) -> Any:
        assert self._wire is not None
        return self._wire.inbox(
            (self._names.inbox(redis.process), self._names.invalidations),
            self.node.slots,
            up=self._new_epoch,
            down=lambda: self.node.table.cut_all(verified=False),
            invalid=lambda key, id: self.node.cut(key, id, heard=True),
            unquiet=self.node.table.unquiet,
            count=self.node.count,
            draw=_draw,
        )

    def _new_epoch(self) -> None:
        self.node.table.cut_all()
        self.node.failures.clear()
        self.node.tell("epochs", Epoch)

    def _breaker_changed(self, opened: bool) -> None:
        self.node.tell("", BreakerOpened if opened else BreakerClosed)

    async def check(self, port: Port) -> None:
        """Use everything that the protocol uses; RemoteDown or RemoteRefused says what does not work."""
        redis, key = self._redis, "tiercache:ping:" + self.node.token().hex()
        if redis is None:
            return
        await port.ready()
        port.left = self.node.call_budget  # the first call may have spent all of it on the inbox
        lease = Lease(key, self.node.token(), 1.0)
        record, _ = self.node.values.pack(key, "ping", id=lease.id, fresh=1.0, hard=1.0, delta=0.0)
        await redis.read(port, key)
        await redis.acquire(port, lease, b"", False)
        await redis.renew(port, [lease])
        await redis.commit(port, lease, record, False)
        await redis.release(port, lease)
        await redis.write_many(port, [(key, record)])
        await redis.invalidate(port, [key], False)
        inbox = self.node.inbox
        if inbox.fault is not None or not inbox.heard:
            raise RemoteDown(f"the inbox is not connected: {inbox.fault or 'no answer in time'}")

    async def hottest(self, port: Port, most: int) -> list[tuple[str, float, float]]:
        """The fleet's most popular keys."""
        if self._redis is None:
            raise ValueError("fleet=True: this cache has no Redis, so its process is all of its fleet; leave it out")
        return await self._redis.hottest(port, min(most, KEPT)) if most else []

    def close(self) -> None:
        """Give leases back and end the threads, waiting for Redis at most `call_budget` each; idempotent."""
        node = self.node
        with self._lock:
            if node.closed or self._pid != os.getpid():
                return
            node.closed = True
        node.table.closed = True
        node.table.clear()
        node.slots.put_all(EPOCH)
        node.timer.close(node.call_budget)
        for workers in (self._refreshers, self._loaders):
            workers.close(node.call_budget)
        if node.inbox is not None:
            node.inbox.close(node.call_budget)
        if node.links is not None:
            node.links.close()
        if self._loops is not None:
            self._loops.close()
        _living.discard(self)

    # Fork.

    def _locks(self) -> list[Any]:
        node = self.node
        return [
            self._lock,
            node.ahead.lock,
            node.table.guard,
            node.timer.changed,
            node.slots.lock,
            node.events.lock,
            self._refreshers.lock,
            self._loaders.lock,
            *([] if self._redis is None else [self._redis.breaker.lock]),
        ]

    def before_fork(self) -> None:
        for lock in self._locks():
            lock.__enter__()

    def after_fork_in_parent(self) -> None:
        for lock in reversed(self._locks()):
            lock.__exit__(None, None, None)

    def after_fork_in_child(self) -> None:
        """A new process id, no flights, no leases, no sockets; tier 1 is kept, unverified."""
        node = self.node
        self._pid = os.getpid()
        self._lock = threading.Lock()
        node.timer.after_fork()
        node.ahead.after_fork()
        node.slots = Slots()
        for workers in (self._refreshers, self._loaders):
            workers.after_fork()
        if self._loops is not None:
            self._loops.after_fork()
        if node.links is not None:
            node.links.after_fork()
        if node.inbox is not None:
            node.inbox.after_fork()
            node.inbox, node.ready = None, False
        node.table.cut_flights()
        node.leaders.clear()
        if self._redis is not None:
            self._redis.process = os.urandom(16)
            node.table.cut_all(verified=False)
        if self.reports is not None:
            self.reports.disown()


def _draw() -> float:
    return 1.0 - random.random()  # uniform in (0, 1]


_living: "weakref.WeakSet[Process]" = weakref.WeakSet()
_forking: list[Process] = []


def _before_fork() -> None:
    _forking[:] = list(_living)
    for process in _forking:
        process.before_fork()


def _after_fork_in_parent() -> None:
    for process in reversed(_forking):
        process.after_fork_in_parent()
    _forking.clear()


def _after_fork_in_child() -> None:
    for process in reversed(_forking):
        process.after_fork_in_parent()
        process.after_fork_in_child()
    _forking.clear()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
