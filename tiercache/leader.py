"""One flight, from its start to its settlement.

    read ── fresh ──────────────────────────────────────────────▶ settle
      │ stale, absent (an early refresh starts here)
      ▼
    elect ── HIT ──▶ read again        COOLDOWN ── stale value or the failure ──▶ settle
      │  ▲
      │  └── BUSY: wait on the flight's slot; ready ──────────────▶ settle
      ▼ GRANTED                 failed ── stale value or failure ─▶ settle
    load ── value ── commit ── OK: tier 1 is filled; REJECTED: only the callers get it ──▶ settle
      └──── error ── release ── stale value or the error ───────▶ settle

Where Redis does not answer, the loader runs under the local flight alone (a bypass), is counted, and never
commits. A flight that was cut loose on the way settles its callers like any other; the table fills nothing.
This file is longer than others because these states share one state, and are read together.
"""

import logging
import math
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeAlias

from tiercache import delegation, events
from tiercache.errors import CacheClosed, CodecError, LoadFailed, LoadTimeout, PolicyError
from tiercache.loaded import Loaded
from tiercache.local.flight import Flight
from tiercache.local.outcome import AGAIN, Outcome, answer
from tiercache.local.record import Found, unpack
from tiercache.local.table import Mode, Raises, Verdict
from tiercache.local.xfetch import clamp, window
from tiercache.patience import PATIENT, Deadlines, late, meanwhile, serves, tail
from tiercache.policy import Policy
from tiercache.port import (
    Busy,
    Cooldown,
    Fill,
    Fly,
    Granted,
    Hit,
    Lease,
    Loader,
    Message,
    Old,
    Port,
    RemoteDown,
    RemoteRefused,
    Slot,
)
from tiercache.reading import look, unverified
from tiercache.result import Source

log = logging.getLogger("tiercache")

DUE = int(Verdict.DUE)
LOAD, FORCE, VERIFY, AHEAD = int(Mode.LOAD), int(Mode.FORCE), int(Mode.VERIFY), int(Mode.AHEAD)


def behind(port: Port, flight: Flight, fly: Fly) -> bool:
    """Let a refresh run behind its caller; False: nobody is free to run it, and it is left to a later call."""
    spawned = port.spawn(flight, fly)
    if not spawned:
        port.node.count("refreshes_skipped")
        port.node.table.settle(flight, AGAIN)
    return spawned


Ending: TypeAlias = tuple[Outcome, Fill | None]
Loading: TypeAlias = Callable[[], Coroutine[Any, Any, Ending]]
HANDED_OVER: Ending = (Outcome(), None)  # a refresh thread goes on with the flight, and settles it


class Leader:
    """Takes one flight from its start to its settlement."""

    _lease: Lease | None = None  # until it is needed: most flights end with what Redis has
    down: RemoteDown | RemoteRefused | None = None  # why it could not be read
    known = b""
    quiet = 0.0  # seconds for which an old value is served without asking again
    serves_read = False  # the outcome is a record that was read, not a value that was loaded
    waited = False
    private = False  # the outcome is for the leader's own caller alone
    keeps = True  # the loader did not say otherwise
    reply: Any = None  # of the last election
    untaken = False  # a worker was asked, in vain
    stored = False  # Redis says that it has what was loaded

    def __init__(
        self, port: Port, flight: Flight, loader: Loader | None, policy: Policy, ends: Deadlines = PATIENT
    ) -> None:
        self.port, self.flight, self.loader, self.policy, self.ends = port, flight, loader, policy, ends
        self.given = policy  # a loader may have rules of its own for what it returns
        self.node = port.node
        self.key = flight.key
        self.looked = flight.early or not self.node.remote.shared  # Redis holds nothing that may answer
        seen = flight.seen
        self.old = self.node.softened.get(self.key)
        if seen is not None:
            self.old = self.node.old(seen)
        if flight.early and seen is not None:
            self.known = seen.id
        if flight.mode == FORCE:
            self.node.table.writing(flight, self.lease.id)

    @property
    def lease(self) -> Lease:
        """The lease that the flight asks for, or holds."""
        if self._lease is None:
            self._lease = Lease(self.key, self.node.token(), self.policy.lease)
        return self._lease

    async def flies_at(self, port: Port) -> Outcome | None:
        """`fly`, at another port: a refresh runs on a thread or task of its own."""
        self.port = port
        return await self.fly()

    async def look_up(self) -> Outcome | None:
        """Settle the flight, if no load is needed for that; None: it still flies."""
        return await self._to_its_end(self._look_up())

    async def fly(self) -> Outcome | None:
        """Run the flight; whatever happens, it is settled once. None: a thread goes on with it."""
        return await self._to_its_end(self._resolve())

    async def _to_its_end(self, steps: Coroutine[Any, Any, Ending | None]) -> Outcome | None:
        leaders, table = self.node.leaders, self.node.table
        leaders[self.flight] = self
        try:
            ended = await steps
        except Exception as error:
            log.exception("A flight of %r failed: this is a defect of tiercache", self.key)
            ended = Outcome(error=error), None
            self._abandon()
        except BaseException:  # cancelled, interrupted, a loop that closes: others elect again
            leaders.pop(self.flight, None)
            table.settle(self.flight, AGAIN)
            self._abandon()
            raise
        if ended is None or ended is HANDED_OVER:
            return None
        leaders.pop(self.flight, None)
        outcome, fill = ended
        if fill is None:
            self._rest()  # before the next caller can start another refresh
        self.node.settle(self.flight, AGAIN if self.private else outcome, fill)
        if fill is not None:
            self._rest()
            if self.given.refresh_ahead and self.loader is not None and not self.flight.cut:
                self.node.ahead.watch(self.key, fill, self.loader, self.given, self.port)
        if (
            fill is not None
            and self.serves_read
            and not self.quiet
            and self.flight.mode == LOAD
            and not self.flight.early
        ):
            self._refresh_if_due(outcome, fill)
        return outcome

    def _rest(self) -> None:
        if self.quiet and not self.flight.cut:
            self.node.table.quiet(self.key, self.node.now() + self.quiet, self.node.now())

    def _abandon(self) -> None:
        # Gives the lease back from another thread: nothing may be awaited on these ways out.
        if self._lease is not None and self._lease.attempt:
            self.node.timer.abandon(self._lease)

    def _refresh_if_due(self, outcome: Outcome, fill: Fill) -> None:
        # A value that was read rather than loaded may be due, or stale, already.
        node, policy = self.node, self.policy
        _, fresh, _, _, delta, *_ = fill
        if node.now() < fresh - window(policy.beta * delta):
            return
        verdict, *rest = node.table.probe(
            self.key, node.now(), node.draw(), policy.stale_while_revalidate, policy.beta, VERIFY
        )
        if outcome.stale:
            node.tell("", events.StaleServed, self.key, "revalidating")  # the table has counted it, as what follows
        if verdict == DUE:
            node.tell("", events.EarlyRefresh, self.key)
            leader = Leader(self.port, rest[-1], self.loader, policy)
            behind(self.port, leader.flight, leader.flies_at)

    def may_leave(self) -> bool:
        """Is there an old value for callers who wait no longer than `soft_timeout`?"""
        old = self.old
        return self.looked and old is not None and not old.soft_invalid and serves(self.node, old, self.policy)

    def _hands_over(self, load: Loading) -> bool:
        """Shall a thread run the load, so that its caller can leave with an old value after `soft_timeout`?"""
        if not (self.ends.soft < math.inf and self.port.in_frame and self.policy.refresh != "caller"):
            return False
        if not self.may_leave():
            return False
        handed = self.port.spawn(self.flight, partial(self._goes_on, load))
        self.node.count("soft_timeouts_skipped", int(not handed))
        return handed

    async def _goes_on(self, load: Loading, port: Port) -> Outcome | None:
        self.port = port
        return await self._to_its_end(load())

    async def _resolve(self) -> Ending:
        ended = await self._look_up()
        if ended is not None:
            return ended
        if self.down is not None:
            return await self._bypass(self.down)
        if not self.flight.early:
            self.node.tell("misses", events.Miss, self.key)
        elif self.policy.refresh == "worker" and (ended := await self._delegate()) is not None:
            return ended
        return await self._elect()

    async def _look_up(self) -> Ending | None:
        failure = self.node.failure(self.key)
        if failure is not None:
            self.quiet = failure.until - self.node.now()
            # Of the entry that the failed flight began with, it knew what Redis still has.
            self.old = failure.old if self.flight.seen == failure.seen else self.old or failure.old
            outcome, fill = self._failed(failure.error)
            return outcome.shared(), fill
        if self.looked:
            return None
        try:
            read = await self.read()
        except (RemoteDown, RemoteRefused) as error:
            self.looked = True
            kept = unverified(self.node, self.old, self.policy) if self.flight.mode != FORCE else None
            if kept is None:
                self.down = error
                return None
            self.quiet = max(0.1, self.node.remote.remaining())
            return kept, None
        if read is not None:
            self.node.tell("hits_remote", events.Hit, self.key, "remote")
        return read

    # Reading.

    async def read(self, accept: bool = False) -> Ending | None:
        """What Redis holds, if it may be served; else None, and `known` and `old` say what was seen."""
        sent, epoch = self.node.now(), self.node.table.stamp()
        found = await self.node.remote.read(self.port, self.key)
        return self.take(found, sent, epoch, accept or self.flight.mode != FORCE)

    def take(self, found: Found, sent: float, epoch: int, accept: bool = True) -> Ending | None:
        """The outcome and fill of a record that was read or pushed, if it may be served."""
        self.looked = True
        self.old, self.known = None, found.record.id if found.record is not None else b""
        outcome, fill = look(self.node, self.flight, found, self.policy, sent, epoch)
        if outcome is not None and accept:
            self.serves_read = True
            outcome.source = self._read_as()
            return outcome, fill
        record = found.record
        if record is not None and fill is not None:
            value, fresh, hard, _, delta, *_ = fill
            self.old = Old(
                value, fresh, hard, delta, source=self._read_as(), born=hard - record.hard_ms / 1000,
                fill=None if record.soft_invalid else fill, soft_invalid=record.soft_invalid,
            )  # fmt: skip
        return None

    def _read_as(self) -> Source:
        # What is read after a wait is what was waited for.
        return "waited" if self.waited else "remote"

    # Electing.

    async def _elect(self) -> Ending:
        slots = self.node.slots  # the same to the end, also in a child that a loader forks
        slot = None if self.flight.early else slots.open(self.key)
        brief = self.node.nested() or self.port.blocks_a_loop()  # two processes may wait for each other
        patience = self.policy.nested_wait if brief else self.policy.max_load
        give_up = self.node.now() + patience
        try:
            while True:
                if self.node.closed:
                    return Outcome(error=CacheClosed(f"the cache was closed while {self.key!r} was waited for")), None
                step = await self._ask(slot, give_up)
                if step is not None:
                    return step
        finally:
            if slot is not None:
                slots.close(slot)

    async def _ask(self, slot: Slot | None, give_up: float) -> Ending | None:
        """One election and what follows from it; None: elect again."""
        node = self.node
        if slot is not None:
            slot.clear()
        sent, epoch = node.now(), node.table.stamp()
        try:
            listen = slot is not None and node.listens()
            reply = self.reply = await node.remote.acquire(self.port, self.lease, self.known, listen)
        except (RemoteDown, RemoteRefused) as error:
            self._abandon()
            if self.flight.early:
                self.quiet = max(0.1, node.remote.remaining())
                return AGAIN, None
            return await self._bypass(error)
        match reply:
            case Granted():
                node.count("grants")
                if self.untaken:
                    node.count("jobs_untaken")
                return HANDED_OVER if self._hands_over(self._load) else await self._load()
            case Hit():
                return await self._again(self.read(accept=True))
            case Cooldown():
                node.count("cooldowns")
                return await self._cooldown(reply)
            case Busy() if slot is None:
                node.count("busy")
                self.quiet = reply.left
                return AGAIN, None
            case Busy():
                node.count("busy")
                return await self._wait(slot, reply, sent, epoch, give_up)

    async def _delegate(self) -> Ending | None:
        # To a worker, who has a while for it: until then this process asks nobody, and then it looks by itself.
        if self.node.asked.pop(self.key, None) == self.known:
            self.untaken = True
            return None
        self.quiet = await delegation.ask(self.port, self.flight, self.loader, self.policy)
        if not self.quiet:
            return None
        place = self.port.place()

        async def look(io: Port) -> None:
            place(self._look_again)

        self.node.timer.appoint(self.node.now() + self.quiet, look)
        return AGAIN, None

    def _look_again(self, port: Port) -> None:
        node, entry = self.node, self.node.table.peek(self.key)
        if entry is None or node.asked.get(self.key) != entry.id:
            return
        node.table.unquiet(self.key)
        verdict, *rest = node.table.probe(self.key, node.now(), mode=AHEAD)
        if verdict == DUE:
            node.tell("", events.EarlyRefresh, self.key)
            leader = Leader(port, rest[-1], self.loader, self.given)
            behind(port, leader.flight, leader.flies_at)

    async def _again(self, reading: Any) -> Ending | None:
        try:
            return await reading  # type: ignore[no-any-return]
        except (RemoteDown, RemoteRefused) as error:
            return await self._bypass(error)

    async def _wait(self, slot: Slot | None, busy: Busy, sent: float, epoch: int, give_up: float) -> Ending | None:
        assert slot is not None
        node, now = self.node, self.node.now()
        if node.timer.holds(busy.holder) and self.port.blocks_a_loop():
            return await self._bypass(None, "bypass_loop")
        again_at = now + busy.left + 0.1 + 0.2 * node.draw()
        soft = self.ends.soft if self.port.in_frame else math.inf  # else the caller only joins this flight
        limit = min(again_at, self.ends.until, give_up, max(now, soft))
        node.count("waits")
        self.waited = True
        message = await self.port.wait(slot, limit - now)
        if message is not None:
            return await self._heard(slot, message, busy.holder, sent, epoch)
        if limit == again_at:
            return None
        if limit == max(now, soft):
            self.ends = self.ends._replace(soft=math.inf)
            outcome = meanwhile(node, self.flight, self.policy)
            self.private = outcome is not None
            return None if outcome is None else (outcome, None)
        if limit == self.ends.until:
            self.private = True
            return late(node, self.flight, self.policy), None
        return await self._bypass(None, "bypass_nested")

    async def _heard(self, slot: Slot, message: Message, holder: bytes, sent: float, epoch: int) -> Ending | None:
        if message.kind == "epoch":
            slot.clear()
            message_after = await self.port.wait(slot, 0.05 * self.node.draw())  # not all processes at once
            return None if message_after is None else await self._heard(slot, message_after, holder, sent, epoch)
        if message.holder != holder:
            return None  # of another lease: a hint to look again
        if message.kind == "failed":
            return await self._cooldown(self.node.remote.failure(message.value))
        if message.kind != "ready":
            return None
        record = unpack(message.value) if message.value else None
        if record is None:
            return await self._again(self.read(accept=True))
        taken = self.take(Found(record, record.hard_ms / 1000), sent, epoch)
        if taken is not None and not taken[0].stale:
            return taken
        if record.hard_ms == 0 and self.old is not None:
            return answer(
                self.old.value, "waited", self.old.born
            ), None  # an answer that is not kept, meant for those who waited
        # It was waited for longer than it lives. By this clock it may be over, but Redis knows what it has left.
        return await self._again(self.read(accept=True))

    async def _cooldown(self, reply: Cooldown) -> Ending:
        self.quiet = reply.left
        if reply.reason == "unstored":  # the last value could not be stored: waiting in line would help nobody
            return (AGAIN, None) if self.flight.early else await self._bypass(None, "bypass_refused")
        return self._failed(LoadFailed(self.key, reply.type_name, reply.message, reply.left))

    # Loading.

    async def _load(self) -> Ending:
        node, policy, lease = self.node, self.policy, self.lease
        started = node.now()
        loaded = await self.run_loader(lease)
        if self.flight.settled:  # past max_load: its waiters have been told, the lease is gone
            return loaded, None
        delta = self._smooth(node.now() - started)
        if loaded.error is not None and not isinstance(loaded.error, policy.negative_errors):
            return await self._load_failed(loaded.error)
        value = loaded.value if loaded.error is None else Raises(loaded.error)
        return await self._commit(value, delta)

    async def run_loader(self, lease: Lease) -> Outcome:
        assert self.loader is not None
        self.node.count("loads")
        started = self.node.now()
        self.node.timer.hold(lease, self.policy.max_load, self.overdue)
        try:
            outcome = await self.port.load(self.loader, self.flight, self.policy)
        finally:
            self.node.timer.drop(lease)
        outcome.born = self.node.now()
        if isinstance(outcome.value, Loaded):
            outcome = self._unwrapped(outcome, outcome.value)
        if self.node.events:
            self._tell_loaded(outcome.error, self.node.now() - started)
        return outcome

    def _tell_loaded(self, error: BaseException | None, seconds: float) -> None:
        told: tuple[str, ...] = ("value",)
        if error is not None:
            negative = isinstance(error, self.policy.negative_errors)
            told = ("negative" if negative else "failed", type(error).__name__)
        self.node.tell("", events.Load, self.key, seconds, *told)

    def _unwrapped(self, outcome: Outcome, loaded: Loaded[Any]) -> Outcome:
        try:
            self.policy = loaded.rules(self.key, self.policy)
        except PolicyError as error:
            return Outcome(error=error)
        self.keeps = loaded.cache
        return Outcome(loaded.value, born=outcome.born)

    async def _commit(self, value: Any, delta: float) -> Ending:
        node, lease = self.node, self.lease
        fresh, hard = self._lifetimes(value)
        if lease.lost:
            return answer(value, "loaded", node.now()), None
        record, size = None, 0
        if node.remote.shared:
            try:
                record, size = node.values.pack(self.key, value, id=lease.id, fresh=fresh, hard=hard, delta=delta)
            except CodecError as error:
                return await self._load_failed(error)
        sent, epoch = node.now(), node.table.stamp()
        try:
            kept = await node.remote.commit(self.port, lease, record, self.flight.mode == FORCE and hard > 0)
        except RemoteDown:
            kept, epoch = True, 0  # it may be stored or not: the next read asks Redis
            node.timer.abandon(lease)
        except RemoteRefused:
            kept = True
            node.count("bypass_refused")
            node.timer.abandon(lease)
        else:
            self.stored = kept
            if kept:
                node.count("commits")
            else:
                node.tell("commit_rejected", events.CommitRejected, self.key)
        node.succeeded(self.key)
        outcome = answer(value, "loaded", sent)
        if not kept or not hard:
            return outcome, None
        return outcome, self._fill(value, size, sent, fresh, hard, delta, epoch, lease.id)

    async def _load_failed(self, error: BaseException) -> Ending:
        node, policy = self.node, self.policy
        node.count("load_failures")
        try:
            pause = await node.remote.release(self.port, self.lease, error, policy)
        except (RemoteDown, RemoteRefused):
            pause = policy.error_backoff
            node.timer.abandon(self.lease)
        pause = pause or policy.error_backoff
        if self._remember(error, pause) and self.old is not None:
            log.warning("The refresh of %r fails with %s: %s", self.key, type(error).__name__, error)
        self.quiet = pause
        return self._failed(error)

    def _remember(self, error: BaseException, pause: float) -> bool:
        # What was fenced says nothing of the loads that come after the fence, and its old value is over.
        return not self.flight.cut and self.node.failed(self.flight, error, pause, self.old)

    def _failed(self, error: BaseException) -> Ending:
        # Stale-if-error, else the error.
        old, now = self.old, self.node.now()
        if old is not None and self.flight.mode != FORCE and now < min(old.hard, old.fresh + tail(self.policy)):
            if not self.flight.early:
                self.node.tell("stale_served", events.StaleServed, self.key, "failed", type(error).__name__)
            outcome = old.serves(now, error)
            outcome.stale = True  # it stands in for what could not be loaded
            return outcome, old.fill
        return Outcome(error=error), None

    async def _bypass(self, error: Exception | None, counter: str = "") -> Ending:
        """Load without a lease, under the local flight; what comes is kept here at most, and unverified."""
        node, policy = self.node, self.policy
        if self._hands_over(lambda: self._bypass(error, counter)):
            return HANDED_OVER
        if not counter:
            broken = "bypass_breaker" if node.remote.remaining() else "bypass_unanswered"
            counter = "bypass_refused" if isinstance(error, RemoteRefused) else broken
        node.count(counter)
        # Refused: kept like any value, for messages still come. Not answered: kept, but nobody vouches for it.
        started, epoch = node.now(), node.table.stamp() if isinstance(error, RemoteRefused) else 0
        loaded = await self.run_loader(Lease(self.key, node.token(), math.inf))
        if self.flight.settled:
            return loaded, None
        if loaded.error is not None and not isinstance(loaded.error, policy.negative_errors):
            node.count("load_failures")
            self._remember(loaded.error, policy.error_backoff)
            return self._failed(loaded.error)
        if error is None:
            return loaded, None
        value = loaded.value if loaded.error is None else Raises(loaded.error)
        fresh, hard = self._lifetimes(value)
        lasted = node.now() - started
        return loaded, self._fill(value, 0, started, fresh, hard, lasted, epoch, b"") if hard else None

    def overdue(self) -> None:
        """The load has lasted `max_load`: its waiters get an old value or a timeout, the lease goes back."""
        outcome, fill = self._failed(
            LoadTimeout(f"the loader of {self.key!r} ran longer than max_load ({self.policy.max_load:g} s)")
        )
        self.node.count("loads_overdue")
        self.node.settle(self.flight, outcome, fill)
        self._abandon()
        self.port.stop()

    def _smooth(self, last: float) -> float:
        # Protocol section 5: a slow load counts at once, a fast one only by and by.
        previous = self.old.delta if self.old is not None else 0.0
        return max(last, 0.3 * last + 0.7 * previous)

    def _lifetimes(self, value: Any) -> tuple[float, float]:
        # Fresh and hard, in seconds, of a loaded value: jittered, or that of a negative answer; 0: not kept.
        policy = self.policy
        if not self.keeps:
            return 0.0, 0.0
        if isinstance(value, Raises) or value is None:
            return policy.negative_ttl, policy.negative_ttl
        fresh = policy.ttl * (1 - policy.jitter * self.node.draw())
        return fresh, fresh + tail(policy)

    def _fill(
        self, value: Any, size: int, sent: float, fresh: float, hard: float, delta: float, epoch: int, id: bytes
    ) -> Fill:
        # What tier 1 keeps of a loaded value, with the lifetimes counted from `sent`.
        node, policy = self.node, self.policy
        verify = sent + policy.local_ttl if node.remote.shared else math.inf
        weight = node.weigh(value, size)
        return value, sent + fresh, sent + hard, verify, clamp(delta, policy.ttl), policy.beta, epoch, id, weight
