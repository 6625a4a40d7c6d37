"""Tier 1 beside a model of it, written from sections 4 and 6 of the protocol; every order of everything it can do.

What is served, who flies, what is evicted and what is counted is compared with the model at each step. S4, S5 and S8
are asserted without it, from what the test did.
"""

import itertools
import math
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from machines import run_machine

from tiercache.local.face import Face
from tiercache.local.flight import Flight
from tiercache.local.table import Mode, Raises, Table, Verdict

HIT, DUE, LEAD, JOIN, ALONE = map(int, Verdict)
LOAD, READ, FORCE, WRITE, VERIFY, AHEAD = map(int, Mode)
LOST = 0  # the epoch while nobody hears the inbox
WINDOW = 21
EVER = -math.inf

# Times are sums of powers of two, so that ends kept in four bytes are exact.
keys = st.sampled_from("abcd")
ids = st.sampled_from([b"", b"first id", b"other id"])
seconds = st.sampled_from([0.0, 0.25, 1.0, 4.0, 16.0, 64.0])
draws = st.sampled_from([1.0, 0.5, math.exp(-WINDOW + 0.1)])
betas = st.sampled_from([1.0, 1.0, 0.0, 2.0])
modes = st.sampled_from([LOAD, LOAD, LOAD, READ, FORCE, VERIFY, AHEAD])


@dataclass
class Kept:
    """An entry, as the model sees it."""

    value: Any
    fresh: float
    hard: float
    verify: float
    theta: float  # of the fill: no coin is tossed earlier than WINDOW * theta from the end
    delta: float
    epoch: int
    id: bytes
    weight: int
    born: int
    quiet: float = EVER
    calm: float = EVER  # the longest quiet since something happened: the short way keeps to that
    disturbed: bool = False  # something happened to the key: no longer served the short way


@dataclass
class Led:
    """A flight, as the model sees it."""

    flight: Flight
    key: str
    mode: int
    born: int
    epoch: int  # when its request was sent
    cut: bool = False
    writes: bytes = b""
    wakers: dict[object, "Caller"] = field(default_factory=dict)  # the first of each loop, and of all threads
    waiting: int = 0
    cancelled: int = 0


@dataclass
class Caller:
    """Waits on a flight, as a thread (`who` None) or on an event loop."""

    who: object
    woken: int = 0
    loop_is_closed: bool = False

    def __call__(self) -> None:
        self.woken += 1
        if self.loop_is_closed:
            raise RuntimeError("this loop is closed")


class Model:
    """Tier 1 in the plainest words."""

    def __init__(self, max_entries: int, max_bytes: int | None) -> None:
        self.max_entries, self.max_bytes = max_entries, max_bytes
        self.kept: OrderedDict[str, Kept] = OrderedDict()  # the one used last is the last
        self.joinable: dict[str, Led] = {}
        self.epoch = self.epochs = 1
        self.counts: Counter[str] = Counter()

    def find(self, key: str) -> Kept | None:
        if key in self.kept:
            self.kept.move_to_end(key)
        return self.kept.get(key)

    def verified(self, kept: Kept, now: float, refreshing: bool = False) -> bool:
        return kept.epoch == self.epoch != LOST and (refreshing or now < kept.verify)

    def is_quiet(self, kept: Kept, now: float) -> bool:
        return now < kept.quiet and self.epoch in (kept.epoch, LOST)

    def falls(self, kept: Kept, now: float, draw: float, beta: float) -> bool:
        theta = beta * kept.delta
        return theta > 0 and kept.fresh - now <= -theta * math.log(draw)

    def probe(self, key: str, now: float, draw: float, swr: float, beta: float, mode: int) -> tuple[int, Any]:
        """The verdict, and what it serves or whom it joins."""
        kept, running = self.find(key), self.joinable.get(key)
        if kept is not None and now >= kept.hard:
            del self.kept[key]
            kept = None
        if mode == AHEAD:
            due = kept is not None and kept.epoch == self.epoch != LOST and not self.is_quiet(kept, now)
            if not due or kept is None or running is not None:
                return HIT, None
            self.counts["early_refreshes"] += 1
            return DUE, kept.value
        refreshing = running is not None and running.flight.early and not running.flight.settled
        trusted = kept is not None and (self.is_quiet(kept, now) or self.verified(kept, now, refreshing))
        if kept is not None and trusted and mode not in (FORCE, WRITE) and now < max(kept.fresh, kept.fresh + swr):
            self.counts["hits_local"] += mode != VERIFY
            stale = now >= kept.fresh
            self.counts["stale_served"] += stale
            due = stale or self.falls(kept, now, draw, beta)
            if due and running is None and mode != READ and not self.is_quiet(kept, now):
                self.counts["early_refreshes"] += 1
                return DUE, kept.value
            return HIT, kept.value
        if mode == VERIFY:
            return HIT, None
        if running is None or mode == WRITE:
            return LEAD, None
        if mode == READ and running.mode != READ:
            return ALONE, None
        self.counts["joins"] += 1
        return JOIN, running.flight

    def put(self, key: str, kept: Kept) -> None:
        self.kept.pop(key, None)
        if self.max_bytes is not None and kept.weight > self.max_bytes:
            self.counts["evictions"] += 1
            return
        self.kept[key] = kept
        while len(self.kept) > self.max_entries or self.weight() > (
            math.inf if self.max_bytes is None else self.max_bytes
        ):
            self.kept.popitem(last=False)
            self.counts["evictions"] += 1

    def weight(self) -> int:
        return sum(kept.weight for kept in self.kept.values())

    def cut(self, led: Led) -> None:
        led.cut = True
        if self.joinable.get(led.key) is led:
            del self.joinable[led.key]

    def cut_flights(self) -> None:
        for led in list(self.joinable.values()):
            self.cut(led)


class Interleaved(RuleBasedStateMachine):
    """One table, four keys; nothing happens on its own."""

    max_entries: ClassVar[int] = 3
    max_bytes: ClassVar[int | None] = None
    counted: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        self.table = Table(self.max_entries, self.max_bytes)
        self.model = Model(self.max_entries, self.max_bytes)
        self.now = 0.0
        self.short = Face(self.table, lambda: self.now)
        self.flying: list[Led] = []  # not settled yet
        self.order = itertools.count(1)
        self.fenced: dict[str, tuple[int, bytes]] = {}  # when the key was last cut, and the record that replaced it
        self.born: dict[Any, tuple[int, bytes, float]] = {}  # of each value: its flight, its record, its hard end

    # Reading.

    def served(self, key: str, value: Any) -> None:
        """S4 and S5, for a value that goes to a caller of `key`."""
        self.counted["served"] += 1
        born, id, hard = self.born[value]
        fence, replaced_by = self.fenced.get(key, (0, b""))
        assert born > fence or (id and id == replaced_by), "S4: older than an invalidation that was handled"
        assert self.now < hard, "S5: past its hard end"

    @rule(key=keys, mode=modes, swr=seconds, beta=betas, draw=draws)
    def probe(self, key: str, mode: int = LOAD, swr: float = 0.0, beta: float = 1.0, draw: float = 1.0) -> None:
        expected, what = self.model.probe(key, self.now, draw, swr, beta, mode)
        verdict, *rest = self.table.probe(key, self.now, draw, swr, beta, mode)
        assert verdict == expected
        if mode == AHEAD and verdict == HIT:  # nobody is served
            return
        if verdict in (HIT, DUE) and what is not None:
            assert rest[0] is what
            self.served(key, what)
        elif verdict == JOIN:
            assert rest == [what]
            led = self.model.joinable[key]
            fence, replaced_by = self.fenced.get(key, (0, b""))
            assert led.born > fence or (led.writes and led.writes == replaced_by), "S4: joined a flight that is older"
        elif verdict != LEAD:
            assert rest == [None]
        if verdict in (DUE, LEAD):
            self.lead(rest[-1], key, LOAD if verdict == DUE else mode, early=verdict == DUE)

    def lead(self, flight: Flight, key: str, mode: int, early: bool) -> None:
        assert (flight.key, flight.mode, flight.early, flight.cut, flight.settled) == (key, mode, early, False, False)
        kept = self.model.kept.get(key)
        assert (flight.seen and flight.seen.value) is (kept and kept.value)
        if mode == WRITE and key in self.model.joinable:
            self.model.cut(self.model.joinable[key])
        assert key not in self.model.joinable, "S8: a second joinable flight"
        led = Led(flight, key, mode, next(self.order), self.table.stamp())
        flight.cancel = lambda: self.cancelled(led)
        self.model.joinable[key] = led
        self.flying.append(led)

    def cancelled(self, led: Led) -> None:
        led.cancelled += 1

    @rule(key=keys)
    def take_the_short_way(self, key: str) -> None:
        """It serves what the long way would serve whatever the coin says, and takes a plain entry."""
        before = self.table.stats()["hits_local"]
        try:
            value = self.short.get(key)
        except AttributeError:  # there is no long way here
            value = None
        kept = self.model.kept.get(key)
        if self.table.stats()["hits_local"] > before:
            assert kept is not None
            assert value is kept.value
            assert not isinstance(value, Raises)
            assert self.model.verified(kept, self.now)
            assert self.now < kept.fresh
            early = self.now < kept.fresh - WINDOW * kept.theta and not kept.disturbed
            assert early or self.now < kept.calm
            self.model.find(key)
            self.model.counts["hits_local"] += 1
            self.served(key, value)
        elif kept is not None and not isinstance(kept.value, Raises) and not kept.disturbed:
            in_time = self.now < min(kept.hard, kept.fresh - WINDOW * kept.theta)
            assert not (self.model.verified(kept, self.now) and in_time)

    @rule(key=keys)
    def peek(self, key: str) -> None:
        entry, kept = self.table.peek(key), self.model.find(key)
        assert (entry is None) == (kept is None)
        if entry is not None and kept is not None:
            assert (entry.key, entry.value, entry.fresh, entry.weight) == (key, kept.value, kept.fresh, kept.weight)
            assert (entry.hard, entry.verify, entry.delta) == (kept.hard, kept.verify, kept.delta)
            assert entry.id == kept.id

    # Flights.

    @rule(key=keys, id=ids)
    def write(self, key: str, id: bytes) -> None:
        self.probe(key, WRITE)
        led = self.flying[-1]
        self.table.writing(led.flight, id)
        led.writes = id

    def some(self, data: st.DataObject, cut: bool = False) -> Led:
        return data.draw(st.sampled_from([led for led in self.flying if led.cut or not cut]))

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def a_flight_sends_its_request(self, data: st.DataObject) -> None:
        """What it brings is stamped with the epoch of now, however late it comes."""
        self.some(data).epoch = self.table.stamp()

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), who=st.sampled_from([None, "a loop", "another loop"]), closed=st.booleans())
    def a_caller_waits(self, data: st.DataObject, who: object, closed: bool) -> None:
        led = self.some(data)
        caller = Caller(who, loop_is_closed=closed and who is not None)
        assert led.flight.follow(who, caller) is led.wakers.setdefault(who, caller)
        led.waiting += 1

    @precondition(lambda self: any(led.waiting for led in self.flying))
    @rule(data=st.data())
    def a_caller_leaves(self, data: st.DataObject) -> None:
        """The last one cancels the flight, which runs on until it is settled."""
        led = data.draw(st.sampled_from([led for led in self.flying if led.waiting]))
        led.waiting -= 1
        before = led.cancelled
        led.flight.leave()
        assert led.cancelled == before + (led.waiting == 0)

    @precondition(lambda self: self.flying)
    @rule(
        data=st.data(),
        fresh=seconds,
        tail=seconds,
        verify=st.one_of(seconds, st.just(math.inf)),
        delta=st.sampled_from([0.0, 0.0, 0.25]),
        beta=betas,
        id=ids,
        weight=st.integers(0, 4),
        kind=st.sampled_from([*["value"] * 6, "raises", "unverified"]),
        cut=st.booleans(),
    )
    def a_flight_brings_a_value(self, data: st.DataObject, cut: bool, **ends: Any) -> None:
        if cut and not any(led.cut for led in self.flying):
            cut = False
        self.bring(self.some(data, cut), **ends)

    def bring(
        self,
        led: Led,
        fresh: float,
        tail: float,
        verify: float,
        delta: float,
        beta: float,
        id: bytes,
        weight: int,
        kind: str,
    ) -> None:
        value = Raises(KeyError()) if kind == "raises" else object()
        epoch = LOST if kind == "unverified" else led.epoch
        kept = Kept(
            value, self.now + fresh, self.now + fresh + tail, self.now + verify, beta * delta, delta, epoch,
            led.writes or id, weight, led.born,
        )  # fmt: skip
        self.born[value] = led.born, kept.id, kept.hard
        self.settle(led, kept, beta)

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def a_flight_brings_nothing(self, data: st.DataObject) -> None:
        self.settle(self.some(data), None)

    def settle(self, led: Led, kept: Kept | None, beta: float = 1.0) -> None:
        """Every waker is called once, also of a flight that was cut; only one that was not cut fills."""
        fill, outcome = None, object()
        if kept is not None:
            fill = (
                kept.value, kept.fresh, kept.hard, kept.verify, kept.delta, beta, kept.epoch, kept.id, kept.weight
            )  # fmt: skip
        assert self.table.settle(led.flight, outcome, fill)
        callers = led.wakers.values()
        assert [caller.woken for caller in callers] == [1] * len(callers)
        self.counted["woken"] += len(callers)
        dead = sum(caller.loop_is_closed for caller in callers)
        if dead:
            self.model.counts["dead_wakers"] += dead
        assert led.flight.outcome is outcome
        assert led.flight.follow(None, Caller(None)) is None
        assert not self.table.settle(led.flight, "late", fill)
        assert led.flight.outcome is outcome
        self.flying.remove(led)
        if not led.cut:
            del self.model.joinable[led.key]
            if kept is not None:
                self.model.put(led.key, kept)

    @rule(
        key=keys,
        fresh=seconds,
        delta=st.sampled_from([0.0, 0.25]),
        weight=st.integers(0, 4),
        reads=st.lists(st.tuples(st.sampled_from([0.0, 0.25, 1.0, 4.0]), modes, seconds, betas, draws), max_size=5),
    )
    def a_value_is_loaded_and_read(self, key: str, fresh: float, delta: float, weight: int, reads: list[Any]) -> None:
        """The usual course of things."""
        if key not in self.model.joinable:
            self.probe(key, FORCE)
        self.bring(self.model.joinable[key], fresh, 16.0, 64.0, delta, 1.0, b"", weight, "value")
        for length, *read in reads:
            self.take_the_short_way(key)
            self.advance(length)
            self.probe(key, *read)

    # Fences, epochs, quiet, time.

    @rule(key=keys, id=ids)
    def cut(self, key: str, id: bytes) -> None:
        self.table.cut(key, id)
        self.fenced[key] = next(self.order), id
        kept, running = self.model.find(key), self.model.joinable.get(key)
        if kept is not None and (not id or kept.id != id):
            del self.model.kept[key]
        if running is not None and (not id or running.writes != id):
            self.model.cut(running)

    @rule(what=st.sampled_from(["lose the inbox", *["subscribe"] * 3, "cut flights", "clear"]))
    def upheave(self, what: str) -> None:
        model = self.model
        if what == "lose the inbox":
            self.table.cut_all(verified=False)
            model.epoch = LOST
        elif what == "subscribe":
            self.table.cut_all()
            model.epochs += 1
            model.epoch = model.epochs
            model.cut_flights()
        elif what == "cut flights":
            self.table.cut_flights()
            model.cut_flights()
        else:
            self.table.clear()
            model.kept.clear()
            model.cut_flights()

    @rule(key=keys, length=seconds)
    def quiet(self, key: str, length: float) -> None:
        self.table.quiet(key, self.now + length, self.now)
        if (kept := self.model.find(key)) is not None:
            kept.quiet = self.now + length
            kept.calm = max(kept.calm, kept.quiet)

    @rule(key=keys)
    def unquiet(self, key: str) -> None:
        self.table.unquiet(key)
        if (kept := self.model.find(key)) is not None:
            kept.quiet, kept.calm, kept.disturbed = EVER, EVER, True

    @rule(length=st.sampled_from([0.25, 1.0, 4.0]))
    def advance(self, length: float) -> None:
        self.now += length

    # What always holds.

    @invariant()
    def the_counters_are_the_models(self) -> None:
        model = self.model
        expected = +model.counts + Counter(entries=len(model.kept), bytes=model.weight())
        assert +Counter(self.table.stats()) == +expected
        assert self.table.stamp() == model.epoch

    @invariant()
    def flights_are_cut_as_the_model_says(self) -> None:
        for led in self.flying:
            assert (led.flight.cut, led.flight.settled) == (led.cut, False)
            assert not any(caller.woken for caller in led.wakers.values())

    def teardown(self) -> None:
        """What is left is evicted by new entries in the order in which it was last used."""
        for led in list(self.flying):
            self.settle(led, None)
        victims = list(self.model.kept)
        room = self.max_entries - len(victims)
        for n in range(len(victims) + room):
            self.probe(f"new {n}", FORCE)
            weight = 0 if self.max_bytes is None else -(-self.max_bytes // self.max_entries)
            self.bring(self.flying[-1], 1.0, 0.0, math.inf, 0.0, 1.0, b"", weight, "value")
            gone = [key for key in victims if key not in self.model.kept]
            assert all(self.table.peek(key) is None for key in gone)
            assert self.table.stats()["entries"] == len(self.model.kept)
        assert all(self.table.peek(key) is not None for key in self.model.kept)


@pytest.mark.parametrize("max_bytes", [None, 6], ids=["by number", "by bytes too"])
def test_tier_1_does_what_its_model_does(
    max_bytes: int | None, amount: Callable[[int, int], int], record_property: Callable[[str, object], None]
) -> None:
    """Verdicts, values, evictions and counters of the model; S4, S5 and S8 at every step; every waker called once."""
    counted: Counter[str] = Counter()
    machine = type("Machine", (Interleaved,), {"max_bytes": max_bytes, "counted": counted})
    run_machine(machine, amount(200, 5000), 50, counted, record_property)
