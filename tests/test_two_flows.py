"""Two or three calls of one key, stepped by hand in every order, in one process and in two.

The flow, the client, the scripts' twin and the table are the shipped ones. The port is this file's: whatever suspends
hands a `Pause` to the machine, which chooses who goes on, what Redis executes and when, which replies and messages
arrive, and when time passes.
"""

import itertools
import math
import types
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from machines import run_machine

from tiercache import Policy, flow
from tiercache.errors import LoadFailed, LoadTimeout
from tiercache.local.flight import Flight
from tiercache.local.following import outcome_of
from tiercache.local.outcome import AGAIN, Outcome
from tiercache.local.record import unpack
from tiercache.local.table import Mode
from tiercache.port import Fly, Loader, Message, RemoteDown, Slot
from tiercache.remote import commands
from tiercache.remote.commands import Names
from tiercache.remote.links import Unanswered
from tiercache.remote.resp import INCOMPLETE, reader
from tiercache.remote.timer import Timer
from tiercache.testing import MemoryCache, MemoryRedis, SteppedClock
from tiercache.testing.redis import MemoryInbox, MemoryWire

NAMES = Names("default")
V, L, F = (name("k").encode() for name in (NAMES.value, NAMES.lease, NAMES.failure))
SCRIPTS = {
    getattr(commands, name).sha.encode(): name
    for name in ("ACQUIRE", "COMMIT", "RENEW", "RELEASE", "INVALIDATE", "WRITE")
}
TTL, TAIL = 10.0, 5.0


class Boom(Exception):
    """What a loader raises here."""


# Where a call stands still.


class Pause:
    """`over`: it can go on by itself, with `answer()`. `until`: when its patience ends."""

    until = math.inf

    def over(self) -> bool:
        return False

    def answer(self) -> Any:
        return None


class Request(Pause):
    def __init__(self, packed: bytes, deadline: float) -> None:
        self.packed, self.deadline = packed, deadline
        self.replies: list[Any] | None = None  # once Redis has executed it


class Loading(Pause):
    def __init__(self, value: int) -> None:
        self.value = value


class Joined(Pause):
    def __init__(self, flight: Flight, until: float) -> None:
        self.flight, self.until = flight, until

    def over(self) -> bool:
        return self.flight.settled

    def answer(self) -> Any:
        return self.flight.outcome if self.flight.settled else None


class Waiting(Pause):
    def __init__(self, slot: Slot, now: float, seconds: float) -> None:
        self.slot, self.until = slot, now + seconds
        self.for_a_lease = seconds > 0.05  # else it spreads the re-checks of a new epoch

    def over(self) -> bool:
        return bool(self.slot.messages)

    def answer(self) -> Any:
        return self.slot.messages[-1] if self.slot.messages else None


@types.coroutine
def stand_still(pause: Pause) -> Generator[Pause, Any, Any]:
    return (yield pause)


class SteppedPort:
    """A port whose every method hands a Pause to the machine."""

    on_loop = False
    in_frame = True

    def __init__(self, machine: "Flows", process: "Host") -> None:
        self.machine, self.process, self.node = machine, process, process.node
        self.left = self.node.call_budget

    async def ready(self) -> None:
        pass

    async def exchange(self, packed: bytes, replies: int, timeout: float) -> list[Any]:
        return await stand_still(Request(packed, self.node.now() + timeout))

    async def lead(self, flight: Flight, fly: Fly, policy: Policy) -> Outcome | None:
        self.process.flights.append(flight)
        return await fly(self)

    async def join(self, flight: Flight, seconds: float) -> Outcome | None:
        if flight.follow(self, lambda: None) is None:
            return flight.outcome
        try:
            return await stand_still(Joined(flight, self.node.now() + seconds))
        finally:
            flight.leave()

    async def load(self, loader: Loader, flight: Flight, policy: Policy) -> Outcome:
        return await stand_still(Loading(self.machine.a_value()))

    async def wait(self, slot: Slot, seconds: float) -> Message | None:
        return await stand_still(Waiting(slot, self.node.now(), seconds))

    def spawn(self, flight: Flight, fly: Fly) -> bool:
        self.process.flights.append(flight)
        port = SteppedPort(self.machine, self.process)
        port.in_frame = False
        self.machine.begin(self.process, "refresh behind", fly(port))
        return True

    def stop(self) -> None:
        pass

    def blocks_a_loop(self) -> bool:
        return False


# A process, and a call in it.


class SteppedTimer(Timer):
    """Without its thread: the machine lets it take its turns."""

    def _wake(self) -> None:
        pass


class TellingRedis(MemoryRedis):
    telling = 0  # whatever is older than this, the message of now makes invalid


class HeldInbox(MemoryInbox):
    """Messages wait until the machine delivers them."""

    _redis: TellingRedis

    def start(self) -> None:
        self.queue: deque[tuple[bytes, bytes, int]] = deque()
        super().start()

    def take(self, channel: bytes, payload: bytes) -> None:
        self.queue.append((channel, payload, self._redis.telling))

    def deliver(self) -> tuple[bytes, int]:
        channel, payload, invalid = self.queue.popleft()
        super().take(channel, payload)
        return channel, invalid


class HeldWire(MemoryWire):
    def inbox(self, channels: tuple[str, str], slots: Any, *, draw: Any, **hooks: Any) -> HeldInbox:
        return HeldInbox(self._redis, channels, slots, **hooks)


class HeldCache(MemoryCache):
    def _wire_to(self, *unused: Any) -> Any:
        return HeldWire(self._memory)


class Host:
    """One process of the fleet."""

    def __init__(self, machine: "Flows", number: int) -> None:
        self.cache = HeldCache(machine.redis)
        process = self.cache._process
        self.node = node = process.node
        node.draw = lambda: machine.draw
        node.token = lambda: next(machine.tokens).to_bytes(8, "big") + bytes([number]) * 8
        assert process._redis is not None
        process._redis.process = bytes([number]) * 16
        process._redis.breaker._draw = lambda: 1.0
        node.timer = SteppedTimer(node.remote, lambda: SteppedPort(machine, self), None, node.now, node.tell)
        process.wake()
        self.inbox: HeldInbox = node.inbox
        self.hears = True
        self.flights: list[Flight] = []
        self.handled = 0  # what is older than this, it knows to be invalid


class Call:
    def __init__(self, host: Host, kind: str, coroutine: Coroutine[Any, Any, Any], cached: set[Any], at: float) -> None:
        self.host, self.kind, self.coroutine = host, kind, coroutine
        self.cached, self.at, self.handled = frozenset(cached), at, host.handled
        self.pause = Pause()
        self.executed = 0  # when its invalidation or write was
        self.waits_for = b""  # the lease that BUSY named
        self.loads: Any = None

    def __repr__(self) -> str:
        return f"<{self.kind}: {type(self.pause).__name__}>"


class Flows(RuleBasedStateMachine):
    """Who goes on is chosen; S2 to S9 are checked where they can be seen."""

    processes: ClassVar[int]
    at_once: ClassVar[int]
    counted: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        self.order = itertools.count(1)
        self.clock = SteppedClock()
        self.redis = TellingRedis(self.clock)
        self.tokens = itertools.count(1)
        self.draw = 1.0
        self.hosts = [Host(self, number) for number in range(self.processes)]
        self.calls: list[Call] = []
        self.late: list[tuple[Call, Request]] = []  # given up by their client, not executed yet
        self.made: dict[Any, int] = {}  # value -> when its load began, or its write was executed
        self.cached: set[Any] = set()  # the values whose flights have landed: who gets one now gets it from a cache
        self.dies: dict[Any, float] = {}  # value -> its last hard end, wherever it is kept
        self.granted: dict[tuple[bytes, bytes], int] = {}  # token and attempt -> when
        self.committed: set[bytes] = set()
        self.given_back: set[bytes] = set()  # ids of leases that a script ended
        self.fence = 0  # when the last invalidation or write was executed

    fates = st.sampled_from(["well", "well", "well", "executed", "executed", "executed", "lost", "other"])

    @initialize(swr=st.sampled_from([0.0, TAIL]), behind=st.booleans())
    def choose_a_policy(self, swr: float, behind: bool) -> None:
        self.policy = Policy(
            ttl=TTL,
            jitter=0.0,
            stale_while_revalidate=swr,
            stale_if_error=TAIL,
            negative_ttl=3.0,
            local_ttl=4.0,
            error_backoff=1.0,
            refresh="background" if behind else "caller",
        )

    def a_value(self) -> int:
        value = next(self.order)
        self.made[value] = value
        return value

    # Redis.

    def execute(self, call: Call, request: Request) -> None:
        commands = reader()
        commands.feed(request.packed)
        request.replies = []
        while (words := commands.gets()) is not INCOMPLETE:
            request.replies.append(self.execute_one(call, words))

    def state(self) -> tuple[Any, Any, Any]:
        db = self.redis.db
        return db.get(V), dict(db.hash(L)), dict(db.hash(F))

    def execute_one(self, call: Call, words: list[bytes]) -> Any:
        before, now = self.state(), next(self.order)
        text = words[1] if words[0] == b"EVALSHA" else commands.hashlib.sha1(words[1]).hexdigest().encode()
        script = SCRIPTS.get(text, "") if words[0].startswith(b"EVAL") else ""
        argv = words[3 + int(words[2]) :] if script else [b"", b""]
        self.redis.telling = now
        if script == "COMMIT":
            self.redis.telling = self.made.get(self.value_of(argv[2]), 0)
        reply = self.redis.execute(*words)
        if isinstance(reply, Exception):
            assert str(reply).startswith("NOSCRIPT")
            return reply
        after = self.state()
        holds = before[1].get(b"t") == argv[0]
        if script == "ACQUIRE" and reply[0] == b"GRANTED":
            self.granted.setdefault((argv[0], argv[1]), now)
            self.given_back.discard(argv[0][:8])  # an orphan, if this acquire is late: it ends by itself
        if script == "ACQUIRE" and reply[0] == b"BUSY" and isinstance(call.pause, Request):
            call.waits_for = reply[2]
        if before[1] and not after[1]:
            self.given_back.add(before[1][b"t"][:8])
        if script in ("INVALIDATE", "WRITE"):
            self.fence = call.executed = now
        if script in ("RENEW", "RELEASE") and not holds:
            assert after == before, "S6: a non-holder changed something"
        if after[0] != before[0] and after[0] is not None:
            self.stored(script, argv, before, after[0])
        return reply

    def value_of(self, data: bytes) -> Any:
        record = unpack(data)
        assert record is not None
        return self.hosts[0].node.values.open(record, self.policy)[0]

    def stored(self, script: str, argv: list[bytes], before: Any, data: bytes) -> None:
        record, value = unpack(data), self.value_of(data)
        assert record is not None
        if script == "INVALIDATE":
            assert record.soft_invalid
            return
        assert script in ("COMMIT", "WRITE"), f"S2: {script} wrote a record"
        self.dies[value] = max(self.dies.get(value, 0.0), self.clock() + record.hard_ms / 1000)
        if script == "WRITE":
            self.made[value] = self.fence
            return
        token, attempt = argv[:2]
        assert (before[1].get(b"t"), before[1].get(b"n")) == (token, attempt), "S2: stored without the lease"
        assert token not in self.committed, "S2: stored twice"
        self.committed.add(token)
        assert self.granted[token, attempt] > self.fence, "S3: loaded under a lease older than an invalidation"
        self.counted["commits"] += 1

    # Calls.

    def begin(self, host: Host, kind: str, coroutine: Coroutine[Any, Any, Any]) -> None:
        call = Call(host, kind, coroutine, self.cached, self.clock())
        self.calls.append(call)
        self.go_on(call)

    def go_on(self, call: Call, answer: Any = None, error: Exception | None = None) -> None:
        try:
            if error is not None:
                call.pause = call.coroutine.throw(error)
            else:
                call.pause = call.coroutine.send(answer)
            return
        except StopIteration as done:
            outcome = done.value
        except RemoteDown:
            assert call.kind in ("set", "invalidate")
            outcome = None
        self.calls.remove(call)
        self.cached.add(call.loads)
        if call.kind in ("set", "invalidate"):
            call.host.handled = max(call.host.handled, call.executed)
        elif isinstance(outcome, Outcome) and outcome is not AGAIN:
            self.ended(call, outcome)
        else:
            assert call.kind in ("get", "turn", "refresh behind")

    def ended(self, call: Call, outcome: Outcome) -> None:
        """A call has its answer: is it one that it may have?"""
        self.counted["answers"] += 1
        if outcome.error is not None:
            assert isinstance(outcome.error, (Boom, LoadFailed, LoadTimeout)), outcome.error
            assert call.kind != "get"
            return
        value = outcome.value
        if value is None:
            return  # a negative answer
        made = self.made[value]
        if not outcome.stale:
            assert made >= call.handled, "S4: older than an invalidation that was handled before the call"
        if value in call.cached and call.kind != "refresh behind":
            self.counted["cached answers"] += 1
            assert call.at < self.dies[value], "S5: dead before the call began"

    def can_go_on(self, call: Call) -> bool:
        return isinstance(call.pause, (Request, Loading)) or call.pause.over() or call.pause.until <= self.clock()

    @precondition(lambda self: sum(call.kind != "turn" for call in self.calls) < self.at_once)
    @rule(
        number=st.integers(0, 1),
        kind=st.sampled_from([*["get_or_load"] * 4, "get", "refresh", "set", "invalidate", "soften"]),
        draw=st.sampled_from([1.0, 1.0, 1e-9]),
    )
    def a_call_begins(self, number: int, kind: str, draw: float) -> None:
        host = self.hosts[number % self.processes]
        port, policy, self.draw = SteppedPort(self, host), self.policy, draw
        if kind in ("get_or_load", "refresh"):
            mode = Mode.FORCE if kind == "refresh" else Mode.LOAD
            coroutine: Any = outcome_of(flow.get_or_load, port, "k", object, policy, int(mode))
        elif kind == "get":
            coroutine = flow.get(port, "k", policy)
        elif kind == "set":
            value = self.a_value()
            self.cached.add(value)
            self.dies[value] = self.clock() + TTL + TAIL  # kept here, from when it is sent
            coroutine = flow.set_many(port, {"k": value}, policy)
        else:
            coroutine = flow.invalidate(port, ["k"], kind == "soften")
        self.begin(host, "invalidate" if kind == "soften" else kind, coroutine)

    @precondition(lambda self: any(map(self.can_go_on, self.calls)))
    @rule(data=st.data(), fates=st.lists(fates, min_size=1, max_size=4))
    def calls_go_on(self, data: st.DataObject, fates: list[str]) -> None:
        for fate in fates:
            if ready := [call for call in self.calls if self.can_go_on(call)]:
                self.advance(data.draw(st.sampled_from(ready)), fate)

    @precondition(lambda self: not self.calls)
    @rule(number=st.integers(0, 1), executed=st.booleans())
    def one_leads_and_another_asks(self, number: int, executed: bool) -> None:
        """Where most races begin; nothing is cached, which an eviction may always bring about."""
        self.redis.db.delete(V, F)
        for host, goal in ((number, "load"), (number + 1, "elect")):
            self.hosts[host % self.processes].cache.clear_local()
            self.a_call_begins(host, "get_or_load", 1.0)
            for _ in range(10):
                if not self.calls or self.goal(self.calls[-1].pause) == goal:
                    break
                self.advance(self.calls[-1], "well")
        if executed and self.calls and self.goal(self.calls[-1].pause) == "elect":
            self.advance(self.calls[-1], "executed")

    def goal(self, pause: Pause) -> str:
        elects = isinstance(pause, Request) and commands.ACQUIRE.sha.encode() in pause.packed
        return "load" if isinstance(pause, Loading) else "elect" if elects else ""

    def advance(self, call: Call, fate: str) -> None:
        pause = call.pause
        if isinstance(pause, Loading):
            self.loaded(call, pause.value, fate)
        elif not isinstance(pause, Request):
            self.go_on(call, pause.answer())
        elif fate == "executed" and pause.replies is None:
            self.execute(call, pause)
        elif fate == "lost" or self.clock() > pause.deadline:
            if pause.replies is None:
                self.late.append((call, pause))
            self.counted["replies lost"] += 1
            self.go_on(call, error=Unanswered("lost"))
        else:
            if pause.replies is None:
                self.execute(call, pause)
            self.go_on(call, pause.replies)

    def loaded(self, call: Call, value: int, fate: str) -> None:
        self.dies[value] = self.clock() + TTL + TAIL
        call.loads = value
        if fate in ("executed", "lost"):
            self.go_on(call, Outcome(error=Boom("no")))
        else:
            self.go_on(call, Outcome(None if fate == "other" else value))

    @precondition(lambda self: self.late)
    @rule()
    def redis_executes_what_its_client_gave_up(self) -> None:
        self.counted["executed late"] += 1
        self.execute(*self.late.pop(0))

    # Messages, time, the timer.

    def hosts_that(self, condition: Callable[[Host], bool]) -> list[Host]:
        return [host for host in self.hosts if condition(host)]

    @precondition(lambda self: self.hosts_that(lambda host: bool(host.inbox.queue)))
    @rule(data=st.data())
    def a_message_arrives(self, data: st.DataObject) -> None:
        self.deliver(data.draw(st.sampled_from(self.hosts_that(lambda host: bool(host.inbox.queue)))))

    def deliver(self, host: Host) -> None:
        channel, invalid = host.inbox.deliver()
        self.counted["messages"] += 1
        if channel.decode() == NAMES.invalidations:
            host.handled = max(host.handled, invalid)

    @rule(number=st.integers(0, 1), seldom=st.integers(0, 3))
    def an_inbox_is_lost_or_back(self, number: int, seldom: int) -> None:
        host = self.hosts[number % self.processes]
        if seldom and host.hears:
            return
        if host.hears:
            self.redis.unsubscribe(host.inbox.take)
            host.inbox.queue.clear()
            host.inbox.lost("the connection")
        else:
            host.inbox.start()
        host.hears = not host.hears

    @rule(seconds=st.sampled_from([*4 * [0.02], 0.5, 1.5, 4.0, 9.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.step(seconds)

    def wants_a_turn(self, host: Host) -> bool:
        runs = any(call.kind == "turn" and call.host is host for call in self.calls)
        return not runs and host.node.timer.pause() <= 0

    @precondition(lambda self: self.hosts_that(self.wants_a_turn))
    @rule(data=st.data())
    def the_timer_takes_its_turn(self, data: st.DataObject) -> None:
        host = data.draw(st.sampled_from(self.hosts_that(self.wants_a_turn)))
        self.begin(host, "turn", host.node.timer.turn())

    # What always holds.

    @invariant()
    def one_flight_may_be_joined_and_every_load_is_accounted_for(self) -> None:
        assert all(self.redis.db.pttl(name) >= 0 for name in self.redis.db.names())
        for host in self.hosts:
            host.flights = [flight for flight in host.flights if not flight.settled]
            assert sum(not flight.cut for flight in host.flights) <= 1, "S8"
            stats = Counter(host.cache.stats())
            bypasses = sum(number for name, number in stats.items() if name.startswith("bypass_"))
            assert stats["loads"] <= stats["grants"] + bypasses, "S9"

    def teardown(self) -> None:
        """All is well from here on: every call ends, nothing is left, and the next one gets a value."""
        for host in self.hosts:
            if not host.hears:
                host.inbox.start()
        self.finish()
        for number in range(self.processes):
            self.a_call_begins(number, "get_or_load", 1.0)
            self.finish()
        for host in self.hosts:
            assert not host.node.slots._slots
            assert not host.node.timer._held
            assert not [flight for flight in host.flights if not flight.settled]
            host.cache.close()

    def finish(self) -> None:
        for _ in range(1000):
            while self.late:
                self.execute(*self.late.pop(0))
            for host in self.hosts:
                while host.inbox.queue:  # what was executed late is heard, too
                    self.deliver(host)
                if self.wants_a_turn(host):
                    self.begin(host, "turn", host.node.timer.turn())
            ready = [call for call in self.calls if self.can_go_on(call)]
            for call in ready:
                self.advance(call, "well")
            if not self.calls and not any(map(self.wants_a_turn, self.hosts)):
                return
            if not ready:
                pauses = [(call.waits_for, call.pause) for call in self.calls]
                waiting = {id for id, pause in pauses if isinstance(pause, Waiting) and pause.for_a_lease}
                assert not waiting & self.given_back, "L3: a lease was given back and a waiter not woken"
                ends = [call.pause.until for call in self.calls]
                self.clock.step(max(0.001, min(ends, default=self.clock()) - self.clock()))
        raise AssertionError(f"these calls do not end: {self.calls}")


@pytest.mark.parametrize(("processes", "at_once"), [(1, 2), (2, 2), (2, 3)])
def test_calls_in_any_order_get_right_values_and_end(
    processes: int, at_once: int, amount: Callable[[int, int], int], record_property: Callable[[str, object], None]
) -> None:
    """S2 to S6, S8 and S9 at every step, whatever is lost or late; L3, and every call ends with a right value."""
    counted: Counter[str] = Counter()
    machine = type("Machine", (Flows,), {"processes": processes, "at_once": at_once, "counted": counted})
    run_machine(machine, amount(150, 5000), 60, counted, record_property)
