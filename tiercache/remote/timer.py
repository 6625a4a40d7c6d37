"""The thread that renews leases and gives them back, so that a blocked loop or loader loses neither.

What else is to be done at its time, and behind every caller, is done here too.
"""

import heapq
import itertools
import logging
import math
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from tiercache.events import LeaseLost
from tiercache.port import Lease, Port, Remote, RemoteDown, RemoteRefused

log = logging.getLogger("tiercache")

Job: TypeAlias = Callable[[Port], Coroutine[Any, Any, None]]


class Timer:
    """Renews every held lease each third of its lifetime; `run` finishes a coroutine on this thread."""

    def __init__(
        self,
        remote: Remote,
        io: Callable[[], Port],
        run: Callable[[Any], Any],
        now: Callable[[], float],
        tell: Callable[..., None],
    ) -> None:
        self._remote, self._io, self._run_now, self._now, self._tell = remote, io, run, now, tell
        self.changed = threading.Condition()
        # Guarded by `changed`.
        self._held: dict[bytes, Lease] = {}
        self._abandoned: list[Lease] = []
        self._appointed: list[tuple[float, int, Job]] = []  # a heap, soonest first
        self._order = itertools.count()
        self._closing = False
        self._next = math.inf  # when the thread looks again by itself
        self._thread: threading.Thread | None = None

    def hold(self, lease: Lease, max_load: float, overdue: Callable[[], object] | None) -> None:
        """Renew `lease` until it is dropped; call `overdue` on this thread if `max_load` seconds pass before."""
        now = self._now()
        lease.due = now + lease.seconds / 3
        lease.ends = now + max_load
        lease.overdue = overdue
        with self.changed:
            self._held[lease.token] = lease
            if (first := min(lease.due, lease.ends)) < self._next:
                self._next = first
                self._wake()

    def drop(self, lease: Lease) -> None:
        """Stop renewing."""
        with self.changed:
            self._held.pop(lease.token, None)

    def holds(self, id: bytes) -> bool:
        """Is the lease with this id held by this process?"""
        with self.changed:
            return any(lease.id == id for lease in self._held.values())

    def abandon(self, lease: Lease) -> None:
        """Give the lease back soon, from this thread: for ways out on which nothing may wait."""
        with self.changed:
            self._held.pop(lease.token, None)
            if not self._closing:
                self._abandoned.append(lease)
                self._wake()

    def appoint(self, when: float, job: Job) -> None:
        """Run `job` on this thread at `when`, or soon after; not at all if the cache is closed before."""
        with self.changed:
            if not self._closing:
                heapq.heappush(self._appointed, (when, next(self._order), job))
                if when < self._next:
                    self._next = when
                    self._wake()

    def close(self, timeout: float) -> None:
        """Give every lease back and end the thread, within `timeout` seconds."""
        with self.changed:
            self._closing = True
            self._abandoned += self._held.values()
            self._held.clear()
            self._appointed.clear()
            self._wake()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def after_fork(self) -> None:
        """In the child: the leases are the parent's, and so was the thread."""
        for lease in self._held.values():
            lease.lost = True  # the token is the parent's: nothing is committed with it here
        self.changed = threading.Condition()
        self._held, self._abandoned, self._appointed, self._next, self._thread = {}, [], [], math.inf, None

    def _wake(self) -> None:
        if self._thread is None and (self._held or self._abandoned or self._appointed):
            thread = threading.Thread(target=self._run, name="tiercache-timer", daemon=True)
            thread.start()
            self._thread = thread
        self.changed.notify()

    def _run(self) -> None:
        while True:
            with self.changed:
                while (pause := self.pause()) > 0:
                    self.changed.wait(min(pause, 3600.0))
                closing = self._closing
            self._run_now(self.turn())
            if closing:
                return

    async def turn(self) -> None:
        """Do what is due now: renew, give up, give back."""
        with self.changed:
            abandoned, self._abandoned = self._abandoned, []
            now = self._now()
            due = [lease for lease in self._held.values() if lease.due <= now < lease.ends]
            overdue = [lease for lease in self._held.values() if lease.ends <= now]
            for lease in overdue:
                del self._held[lease.token]
            jobs = []
            while self._appointed and self._appointed[0][0] <= now:
                jobs.append(heapq.heappop(self._appointed)[-1])
        if due:
            await self._renew(due)
        for lease in overdue:
            self._give_up(lease)
        for lease in abandoned:
            await self._release(lease)
        for job in jobs:
            try:
                await job(self._io())
            except Exception:  # leases are still to be renewed
                log.exception("A job behind the callers failed: this is a defect of tiercache")
        with self.changed:
            ends = [min(lease.due, lease.ends) for lease in self._held.values()]
            self._next = min(*ends, self._appointed[0][0] if self._appointed else math.inf, math.inf)

    def pause(self) -> float:
        """Seconds until the next turn; called under `changed`."""
        if self._closing or self._abandoned:
            return 0.0
        return self._next - self._now()

    async def _renew(self, leases: list[Lease]) -> None:
        try:
            kept = await self._remote.renew(self._io(), leases)
        except (RemoteDown, RemoteRefused):
            for lease in leases:
                lease.due = self._now() + lease.seconds / 10
            return
        for lease, ok in zip(leases, kept, strict=True):
            lease.due = self._now() + lease.seconds / 3
            if not ok and not lease.lost:
                with self.changed:
                    held = self._held.pop(lease.token, None) is not None
                if held:  # else it was committed while this renewal was under way
                    lease.lost = True
                    self._tell("leases_lost", LeaseLost, lease.key)
                    log.warning("The lease of %r was lost while its loader ran", lease.key)

    def _give_up(self, lease: Lease) -> None:
        if lease.overdue is not None:
            try:
                lease.overdue()
            except Exception:  # it may run code of the user's, and other leases are still to be renewed
                log.exception("Giving up the overdue load of %r failed", lease.key)

    async def _release(self, lease: Lease) -> None:
        try:
            await self._remote.release(self._io(), lease)
        except (RemoteDown, RemoteRefused):
            pass  # it ends by itself
