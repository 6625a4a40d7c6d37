"""What the protocol may ask of the world, and one process's part of the fleet.

This file is longer than others because it is the whole vocabulary of the flow, and has next to no logic.
"""

import contextvars
import inspect
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from types import FunctionType
from typing import Any, NamedTuple, Protocol, TypeAlias

from tiercache.events import Event, Invalidated, Listeners
from tiercache.local.flight import Flight
from tiercache.local.outcome import Outcome, answer
from tiercache.local.record import Found, Record
from tiercache.local.store import Entry
from tiercache.local.table import Table
from tiercache.policy import Policy
from tiercache.result import Source

BIRTHS = 10_000  # entries of tier 1 whose age is known


Loader: TypeAlias = Callable[[], Any]
# What tier 1 keeps: value, fresh, hard, verify (monotonic ends), delta, beta, epoch, record id, weight.
Fill: TypeAlias = tuple[Any, float, float, float, float, float, int, bytes, int]


def is_async(loader: Callable[..., Any]) -> bool:
    """Is it a coroutine function, also through partial or an instance's `__call__`?"""
    while isinstance(loader, partial):
        loader = loader.func
    if type(loader) is FunctionType and not (loader.__code__.co_flags & inspect.CO_COROUTINE or loader.__dict__):
        return False  # soon said of most: a plain function that nobody has marked
    call = getattr(type(loader), "__call__", None)  # noqa: B004  # the method itself is wanted
    return inspect.iscoroutinefunction(loader) or inspect.iscoroutinefunction(call)


class Granted(NamedTuple):
    attempt: int


class Hit(NamedTuple):
    pass


class Busy(NamedTuple):
    left: float
    holder: bytes


class Cooldown(NamedTuple):
    left: float
    reason: str
    type_name: str
    message: str


class Message(NamedTuple):
    """What an inbox hears of one key: `kind` is "ready", "failed", "retry" or "epoch"."""

    holder: bytes
    kind: str
    value: bytes


class RemoteDown(Exception):
    """No answer from Redis: unreachable, too slow, breaker open, budget spent."""


class RemoteRefused(Exception):
    """An error reply. `code` is its first word."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Lease:
    """The right of one flight to load one key; `timer` renews it while it is held."""

    def __init__(self, key: str, token: bytes, seconds: float) -> None:
        self.key = key
        self.token = token
        self.attempt = 0
        self.seconds = seconds
        self.due = 0.0
        self.ends = float("inf")
        self.overdue: Callable[[], object] | None = None
        self.lost = False
        self.names: list[str] = []  # of its key in tier 2, once they are needed

    @property
    def id(self) -> bytes:
        """Names the lease in messages, and the record that it commits."""
        return self.token[:8]


class Remote(Protocol):
    """Tier 2. `io` sends for whoever asks; every method raises RemoteDown or RemoteRefused."""

    shared: bool  # False: there is no tier 2, and nothing needs to be encoded

    async def read(self, io: "Port", key: str) -> Found: ...
    async def read_many(self, io: "Port", keys: list[str]) -> list[Found]: ...
    async def acquire(
        self, io: "Port", lease: Lease, known: bytes, listen: bool
    ) -> Granted | Hit | Busy | Cooldown: ...
    async def commit(self, io: "Port", lease: Lease, record: Record | None, announce: bool) -> bool: ...
    async def renew(self, io: "Port", leases: list[Lease]) -> list[bool]: ...
    async def release(
        self, io: "Port", lease: Lease, error: BaseException | None = None, policy: Policy | None = None
    ) -> float: ...
    async def write_many(self, io: "Port", records: list[tuple[str, Record]]) -> None: ...
    async def invalidate(self, io: "Port", keys: list[str], soft: bool) -> None: ...
    def failure(self, message: bytes) -> Cooldown: ...
    def remaining(self) -> float: ...


class Old:
    """An older value that may still serve, with its monotonic ends; a soft-invalid one when a load fails, only."""

    __slots__ = ("born", "delta", "fill", "fresh", "hard", "soft_invalid", "source", "value")

    def __init__(
        self,
        value: Any,
        fresh: float,
        hard: float,
        delta: float,
        *,
        source: Source = "local",
        born: float | None = None,
        fill: Any = None,
        soft_invalid: bool = False,
    ) -> None:
        self.value, self.fresh, self.hard, self.delta = value, fresh, hard, delta
        self.source, self.born = source, born
        self.fill, self.soft_invalid = fill, soft_invalid

    def serves(self, now: float, failure: BaseException | None = None) -> Outcome:
        """The outcome of who gets it in place of a new value."""
        outcome = answer(self.value, self.source, self.born)
        outcome.stale = self.soft_invalid or now >= self.fresh  # else it was to be refreshed early
        outcome.failure = failure
        return outcome


class Slot:
    """Where the messages for one waiting flight arrive; cleared before its acquire is sent."""

    __slots__ = ("key", "messages", "wake")

    def __init__(self, key: str) -> None:
        self.key = key
        self.messages: list[Message] = []
        self.wake: Callable[[], object] | None = None

    def clear(self) -> None:
        self.messages.clear()

    def put(self, message: Message) -> None:
        self.messages.append(message)
        if (wake := self.wake) is not None:
            try:
                wake()
            except RuntimeError:  # its event loop is closed: nobody waits there any more
                pass


class Failure(NamedTuple):
    """A load that failed in this process, until its cooldown ends."""

    error: BaseException
    until: float
    old: Old | None  # what may still serve
    seen: Any  # the entry of tier 1 that it began with, or None


Place: TypeAlias = Callable[[Callable[["Port"], object]], object]
Fly: TypeAlias = Callable[["Port"], Coroutine[Any, Any, Outcome | None]]


class Port(Protocol):
    """One call's view of the world. `left` is the Redis time that its flight may still use, in seconds."""

    node: "Node"
    left: float
    on_loop: bool  # its flights run on an event loop
    in_frame: bool  # the flights that it leads run in their caller's frame, who can't leave before they end

    async def ready(self) -> None:
        """Return when the process can hear messages, or can't be made to in time; `node.ready` says it is done."""

    def exchange(self, packed: bytes, replies: int, timeout: float) -> list[Any] | Awaitable[list[Any]]:
        """Send and read so many replies, at once or when they are awaited; raises `Unanswered`."""
        ...

    async def lead(self, flight: Flight, fly: Fly, policy: Policy) -> Outcome | None:
        """Run a flight here, or start it beside the caller and return None: it is to be joined."""

    def follow(self, flight: Flight, seconds: float) -> Any:
        """Begin to wait for somebody's flight. None: it is settled; else what a task awaits for so long, and a thread
        waits for by its `wait(seconds)`, before it leaves the flight."""

    async def join(self, flight: Flight, seconds: float) -> Outcome | None:
        """The outcome of somebody's flight, None if it takes longer."""

    async def load(self, loader: Loader, flight: Flight, policy: Policy) -> Outcome:
        """Run the loader where protocol.md says; an Exception becomes the outcome's error."""
        ...

    async def wait(self, slot: Slot, seconds: float) -> Message | None:
        """The first message on a slot, None if none comes in time."""

    def spawn(self, flight: Flight, fly: Fly) -> bool:
        """Run a flight behind its caller. False where nobody is free to run it."""
        ...

    def place(self) -> Place:
        """Calls something with a port like this one, where this call is, also when it is over; from any thread.

        Nothing is called where nobody is left.
        """
        ...

    def stop(self) -> None:
        """End a load that has lasted too long, if it can be ended; from any thread."""

    def blocks_a_loop(self) -> bool:
        """Would waiting here stop an event loop?"""
        ...


loading: contextvars.ContextVar[tuple[tuple[object, Flight], ...]] = contextvars.ContextVar("loading", default=())


@dataclass(eq=False, kw_only=True)
class Node:
    """One process's part of the fleet: what the calls of one cache share, whatever their colour."""

    table: Table
    remote: Remote
    values: Any  # a Values, None without tier 2
    slots: Any  # a remote.inbox.Slots
    timer: Any  # a remote.timer.Timer
    now: Callable[[], float]
    draw: Callable[[], float]
    token: Callable[[], bytes]
    weigh: Callable[[Any, int], int]
    call_budget: float
    around_load: Callable[[], Any]
    inbox: Any = None  # a remote.inbox.Inbox, from the first call that needs Redis on
    links: Any = None  # a remote.links.Links, None without tier 2
    ahead: Any = None  # an ahead.Ahead
    jobs: Any = None  # a remote.jobs.Jobs, None without tier 2
    closed: bool = False
    ready: bool = False  # the inbox has been tried: `Port.ready` has nothing more to wait for

    def __post_init__(self) -> None:
        self.failures: OrderedDict[str, Failure] = OrderedDict()
        self.softened: OrderedDict[str, Old] = OrderedDict()  # without tier 2: kept for stale-if-error only
        self.leaders: dict[Flight, Any] = {}  # a leader.Leader for each flight that is under way
        self.asked: OrderedDict[str, bytes] = OrderedDict()  # ids of the entries that workers are asked to refresh
        self.unsendable: OrderedDict[str, None] = OrderedDict()  # functions whose calls can't be sent to workers
        self.workers_alive = True  # until one is needed
        self.births: OrderedDict[str, tuple[bytes, float]] | None = None  # id and `born` of entries, once asked for
        self.count = self.table.count
        self.settle: Callable[..., bool] = self.table.settle
        self.events = Listeners()
        self.spellings: OrderedDict[str, str] = OrderedDict()  # digest -> key, while somebody listens

    def tell(self, counter: str, kind: Callable[..., Event], key: str = "", *fields: Any) -> None:
        """Something happened: count it, unless the table has, and tell whoever listens."""
        if counter:
            self.count(counter)
        if self.events:
            self.events.tell(kind(self.spellings.get(key, key), *fields))

    def spelled(self, wire: str, key: str) -> None:
        """Remember the key that stands behind a digest."""
        if self.events and len(key) <= 4096:
            keep(self.spellings, wire, key)

    def listens(self) -> bool:
        """Has this process an inbox that others can send to?"""
        return self.inbox is not None and self.inbox.heard

    def nested(self) -> bool:
        """Does the caller stand in a loader?"""
        stack = loading.get()
        return bool(stack) and any(not flight.settled for _, flight in stack)

    def reenters(self, key: str) -> bool:
        """Does the caller stand in a loader of this very key?"""
        stack = loading.get()
        return bool(stack) and any(node is self and flight.key == key and not flight.settled for node, flight in stack)

    def inside(self, flight: Flight) -> contextvars.Token[Any]:
        """Enter the loader of a flight; `loading.reset` leaves it."""
        return loading.set((*loading.get(), (self, flight)))

    def failure(self, key: str) -> Failure | None:
        """The failure of `key` that is still cooling down here, or None."""
        failure = self.failures.get(key)
        return failure if failure is not None and self.now() < failure.until else None

    def failed(self, flight: Flight, error: BaseException, pause: float, old: Old | None) -> bool:
        """Remember a failed load until its cooldown ends. True if it is the first one in a row."""
        first = self.failures.pop(flight.key, None) is None
        keep(self.failures, flight.key, Failure(error, self.now() + pause, old, flight.seen))
        return first

    def succeeded(self, key: str) -> None:
        """A load of `key` was stored: what failed before is forgotten."""
        self.failures.pop(key, None)
        self.softened.pop(key, None)

    def cut(self, key: str, id: bytes = b"", soft: bool = False, heard: bool = False) -> None:
        """The fence: this process handles an invalidation of `key`, or a write of the record `id`."""
        entry = self.table.peek(key) if soft and not self.remote.shared else None
        self.table.cut(key, id)
        self.succeeded(key)
        if entry is not None:
            keep(self.softened, key, self.old(entry, soft_invalid=True))
        self.tell("", Invalidated, key, heard)

    def note_births(self) -> None:
        """From now on, remember how old what is filled into tier 1 is."""
        if self.births is None:
            self.births = OrderedDict()
            self.settle = self._settle_noted

    def _settle_noted(self, flight: Flight, outcome: Outcome, fill: Fill | None = None) -> bool:
        if self.births is not None and fill is not None and outcome.born is not None:
            keep(self.births, flight.key, (fill[7], outcome.born), BIRTHS)
        return self.table.settle(flight, outcome, fill)

    def old(self, entry: Entry, soft_invalid: bool = False) -> Old:
        """What stands in tier 1, as a value that may serve when there is no better one."""
        noted = None if self.births is None else self.births.get(entry.key)
        born = noted[1] if noted is not None and noted[0] == entry.id else None
        return Old(entry.value, entry.fresh, entry.hard, entry.delta, born=born, soft_invalid=soft_invalid)


def keep(kept: OrderedDict[str, Any], key: str, value: Any, most: int = 1000) -> None:
    """Put something into a memory of bounded length."""
    kept.pop(key, None)  # the latest stand last
    kept[key] = value
    while len(kept) > most:
        kept.popitem(last=False)
