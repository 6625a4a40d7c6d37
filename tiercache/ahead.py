"""Refresh ahead: what this process is often asked for is renewed near its end, without waiting for a request.

    filled ── appointment ──▶ gone: forget it
       ▲                      newer than it was: another appointment
       │                      no longer hit `hot_rate` times a second: forget it
       │                      due: an early flight, as if XFetch's coin had fallen ── value ──▶ filled
       └──────── later ◀───── it failed, or somebody else loads ◀────────┘

The appointment is early enough for the loader, and a random share earlier, so that processes and keys do not come
at once; the lease sees to it that one of them loads. The others read what it has stored, each at its own time.
"""

import heapq
import itertools
import math
import threading
from functools import partial
from typing import NamedTuple

from tiercache import events
from tiercache.leader import Leader, behind
from tiercache.local.flight import Flight
from tiercache.local.outcome import Outcome
from tiercache.local.store import Entry
from tiercache.local.table import Mode, Verdict
from tiercache.policy import Policy
from tiercache.port import Fill, Loader, Node, Place, Port

DUE, AHEAD = int(Verdict.DUE), int(Mode.AHEAD)
MOST = 10_000  # keys that are watched at once
SPREAD = 5.0  # seconds within which the processes of a fleet come for one entry, at most
ROOM = 2.0  # load times between the last moment to begin and the end of freshness


class Watched(NamedTuple):
    """A key's next appointment, and how it is loaded."""

    order: int  # of this appointment, among all
    spread: float  # seconds before the last moment
    loader: Loader
    policy: Policy
    place: Place


class Ahead:
    """The appointments of one cache in this process."""

    def __init__(self, node: Node, half_life: float, most_running: int) -> None:
        self._node, self._half_life, self._most_running = node, half_life, most_running
        self._look_every = half_life / 8
        self.after_fork()

    def after_fork(self) -> None:
        """In the child nothing is watched yet."""
        self.lock = threading.Lock()
        self._order = itertools.count(1)
        # Guarded by `lock`.
        self._watched: dict[str, Watched] = {}
        self._due: list[tuple[float, int, str]] = []  # a heap of (when, order, key); only the latest order counts
        self._appointed = math.inf  # when the timer calls
        self._running: set[Flight] = set()
        self._look_at = -math.inf  # the next time

    def watch(self, key: str, fill: Fill, loader: Loader, policy: Policy, port: Port) -> None:
        """Tier 1 was filled with a value that is to be refreshed ahead."""
        _, fresh, _, _, delta, *_ = fill
        now = self._node.now()
        spread = max(delta / 2, min(SPREAD, (fresh - now) / 10)) * (1 - self._node.draw() / 2)
        watched = Watched(next(self._order), spread, loader, policy, port.place())
        with self.lock:
            self._put(key, watched, _last_moment(fresh, delta) - spread)
            while len(self._watched) > MOST:
                self._forget_one()
            if len(self._due) > 2 * len(self._watched) + 100:
                self._due = [each for each in self._due if self._is_latest(each)]
                heapq.heapify(self._due)
        self._look(now)
        self._appoint()

    def _put(self, key: str, watched: Watched, when: float) -> None:
        self._watched.pop(key, None)  # the latest stand last
        self._watched[key] = watched
        heapq.heappush(self._due, (when, watched.order, key))

    def _is_latest(self, appointment: tuple[float, int, str]) -> bool:
        watched = self._watched.get(appointment[2])
        return watched is not None and watched.order == appointment[1]

    def _forget_one(self) -> None:
        # One of the oldest that is not popular; if none of them is, the oldest that is left.
        for key in list(itertools.islice(self._watched, 8)):
            watched = self._watched.pop(key)
            if not self._is_hot(key, watched.policy):
                return
            self._watched[key] = watched
        del self._watched[next(iter(self._watched))]

    def _is_hot(self, key: str, policy: Policy) -> bool:
        return self._node.table.rate(key, self._node.now(), self._half_life) >= policy.hot_rate

    def _look(self, now: float) -> None:
        # Between two looks hits count as if they came evenly: they must not lie too far apart.
        if now >= self._look_at:
            self._look_at = now + self._look_every
            self._node.table.hot(0, now, self._half_life)

    def _appoint(self) -> None:
        with self.lock:
            when = min(self._due[0][0], self._look_at) if self._due else math.inf
            if when >= self._appointed:
                return
            self._appointed = when
        self._node.timer.appoint(when, self._turn)

    async def _turn(self, io: Port) -> None:
        # On the timer's thread.
        now = self._node.now()
        due = []
        with self.lock:
            if now < self._appointed:  # an earlier call has done what this one was for
                return
            self._appointed = math.inf
            while self._due and self._due[0][0] <= now:
                appointment = heapq.heappop(self._due)
                if self._is_latest(appointment):
                    due.append((appointment[2], self._watched.pop(appointment[2])))
        self._look(now)
        for key, watched in due:
            self._meet(key, watched, now)
        self._appoint()

    def _meet(self, key: str, watched: Watched, now: float) -> None:
        entry = self._node.table.peek(key)
        if entry is None or now >= entry.hard:
            return
        when = _last_moment(entry.fresh, entry.delta) - watched.spread
        if now < when:  # it was replaced since
            self._later(key, watched, when)
        elif self._is_hot(key, watched.policy):
            watched.place(partial(self._start, key, watched, entry))

    def _later(self, key: str, watched: Watched, when: float) -> None:
        with self.lock:
            self._put(key, watched._replace(order=next(self._order)), when)
        self._appoint()

    def _start(self, key: str, watched: Watched, entry: Entry, port: Port) -> None:
        # Where the loader has run before: on a thread, or on its event loop.
        node, now = self._node, self._node.now()
        later = now + max(0.1, entry.delta / 2, abs(entry.fresh - now) / 4)
        with self.lock:
            self._running = {flight for flight in self._running if not flight.settled}
            full = len(self._running) >= self._most_running
        verdict, *rest = (0,) if full else node.table.probe(key, now, mode=AHEAD)
        if verdict != DUE:  # somebody refreshes it, or it is quiet, or nobody vouches for it now
            self._later(key, watched, later)
            return
        flight: Flight = rest[-1]
        with self.lock:
            self._running.add(flight)
        leader = Leader(port, flight, watched.loader, watched.policy)
        node.tell("refreshes_ahead", events.EarlyRefresh, key)

        async def fly(port: Port) -> Outcome | None:
            try:
                return await leader.flies_at(port)
            finally:
                if leader.quiet:
                    self._later(key, watched, node.now() + leader.quiet)

        if not behind(port, flight, fly):
            self._later(key, watched, later)


def _last_moment(fresh: float, delta: float) -> float:
    return fresh - ROOM * delta
