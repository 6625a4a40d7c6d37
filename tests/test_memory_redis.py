"""The Redis in memory against a real one: the same commands get the same answers, state and messages.

The clock of the one in memory stands still. A real server's does not, so what it says of lifetimes may be less by
the time that the example has taken. Lifetimes are in thousands of seconds, so that nothing ends by itself; where
time is to pass, it passes on both.
"""

import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import msgpack
import mutants_lua
import pytest
import redis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from machines import run_machine
from redis_server import RedisServer
from tier2 import Ear, Io, Tier2, servers

from tiercache.local.record import ERROR, NONE, VALUE, Found, Record
from tiercache.policy import Policy
from tiercache.port import Cooldown, Lease, RemoteRefused
from tiercache.remote import commands
from tiercache.remote.commands import INLINE
from tiercache.remote.resp import Refusal, pack
from tiercache.testing import MemoryRedis, SteppedClock
from tiercache.testing.redis import MemoryLinks

AGE = 1_000_000  # ms: the unit of all lifetimes here
LEASE = 3 * AGE / 1000
STEP = AGE + 500  # what is one unit old has ended, beyond doubt
ROUNDING = 5  # ms
KEYS = ["k", "ä}{b\n"]
TOKENS = [bytes([n]) * 16 for n in range(3)]
PROCESSES = [bytes([n]) * 16 for n in (7, 8)]
LARGE = b"x" * (INLINE + 1)
POLICIES = [Policy(error_backoff=1000.0, error_backoff_max=most) for most in (1000.0, 3000.0, 1e9)]


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


ERRORS = [
    ValueError("no such table"),
    ValueError("é" * 300),
    ValueError("\ud800"),
    Unprintable(),
    type("E" * 300, (Exception,), {})("x" * 40),
]

keys = st.sampled_from([*KEYS, KEYS[0], KEYS[0]])
tokens = st.sampled_from(TOKENS)
processes = st.integers(0, 1)
ids = st.sampled_from([token[:8] for token in TOKENS] + [b"other id"])
records = st.builds(
    Record,
    kind=st.sampled_from([VALUE, NONE, ERROR]),
    codec=st.integers(0, 2),
    compression=st.integers(0, 2),
    fresh_ms=st.sampled_from([0, AGE, 2 * AGE]),
    hard_ms=st.sampled_from([0, AGE, 2 * AGE, 1000 * AGE]),
    delta_ms=st.integers(0, 2**32 - 1),
    id=ids,
    payload=st.sampled_from([b"", b"x", b"y" * 40, b"z" * (INLINE - 38), LARGE]),
    soft_invalid=st.booleans(),
    signed=st.booleans(),
)
junk = st.sampled_from(
    [b"", b"tc\1", b"something else that is long enough to be a header", b"tc\2" + b"\0" * 60, b"tc\1" + b"\0" * 35]
)
strings = st.one_of(
    records.map(Record.pack),
    records.map(lambda record: record.pack()[:-1]),
    records.map(lambda r: r.pack() + b"y"),
    junk,
)
WAITERS = {b"w:" + process.hex().encode(): b"1" for process in PROCESSES} | {b"w:": b"1"}
hashes = st.one_of(
    st.builds(
        lambda token, n, waiters: {b"t": token} | n | waiters,
        tokens,
        st.sampled_from([{}, {b"n": b"0"}, {b"n": b"1"}, {b"n": b"2"}, {b"n": b"x"}, {b"n": b""}]),
        st.sampled_from([{}, WAITERS]),
    ),
    st.builds(
        lambda token, count, rest: rest | count | {b"by": token},
        tokens,
        st.sampled_from([{}, {b"count": b"1"}, {b"count": b"60"}, {b"count": b"x"}, {b"count": b""}]),
        st.sampled_from([{}, {b"reason": b"failed", b"type": b"T", b"message": b"m" * 300}]),
    ),
    st.sampled_from([{b"x": b"y"}, {b"n": b"1"}, WAITERS]),
)
lifetimes = st.sampled_from([None, AGE, 3 * AGE])
units = st.sampled_from([AGE, 2 * AGE])
shifts = st.integers(-2, 1)  # between the attempt of a late acquire and the last one

OLD = ["none", "known", "unknown", "of this token", "of the wrong length", "without TTL"]
CIRCUMSTANCES = ["an old failure", "the lease persists", "v is foreign", "f is foreign", "the server is full"]


class MemoryTier2(Tier2):
    """`Tier2` over a MemoryRedis."""

    def __init__(self, memory: MemoryRedis, like: Tier2, push_bytes: int) -> None:
        self.counts = like.counts.copy()
        self.links = MemoryLinks(memory)
        self.names = like.names
        self.remote = self.made(push_bytes)
        self.io = Io(self.links.exchange)


class Side:
    """One of the two fleets: a server and two processes."""

    def __init__(self, tiers: list[Tier2]) -> None:
        self.tiers = tiers
        self.leases = {(key, token): Lease(key, token, LEASE) for key in KEYS for token in TOKENS}
        for tier, process in zip(tiers, PROCESSES, strict=True):
            tier.remote.process = process

    def raw(self, words: tuple[Any, ...]) -> Any:
        return self.tiers[0].links.exchange(pack(*words), 1, 10.0)[0]


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except RemoteRefused as error:
        return error.code, "refused"


class Parity(RuleBasedStateMachine):
    """Whatever a client can send, in any order, to both."""

    client: ClassVar[redis.Redis]
    tiers: ClassVar[list[Tier2]]  # of the real server: one pushes small values, the other nothing
    ear: ClassVar[Ear]
    counted: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        self.clock = SteppedClock()
        self.memory = MemoryRedis(self.clock)
        self.db = self.memory.db
        here = [MemoryTier2(self.memory, tier, size) for tier, size in zip(self.tiers, (4096, 0), strict=True)]
        self.sides = [Side(self.tiers), Side(here)]
        self.told: list[tuple[str, list[bytes]]] = []
        channels = [*(tier.inbox for tier in self.tiers), self.tiers[0].names.invalidations]
        self.memory.subscribe(self.hear, *channels)
        self.names = self.tiers[0].names
        self.began = time.monotonic()

    def hear(self, channel: bytes, payload: bytes) -> None:
        self.told.append((channel.decode(), msgpack.unpackb(payload, raw=True)))

    def teardown(self) -> None:
        self.client.config_set("maxmemory", 0)
        self.client.flushall()
        self.client.script_flush()
        self.ear.heard()

    # The comparison.

    def both(self, operation: Callable[[Side], Any]) -> Any:
        real, memory = (outcome(partial(operation, side)) for side in self.sides)
        self.counted["commands"] += 1
        assert self.alike(real, memory), (real, memory)
        return memory

    def alike(self, real: Any, memory: Any) -> bool:
        if isinstance(memory, Refusal) and isinstance(real, Refusal):
            return real.code == memory.code
        if type(real) is not type(memory):
            return False
        if isinstance(memory, Found):
            real, memory = ((found.record, found.remaining) for found in (real, memory))
        if isinstance(memory, Cooldown):  # Redis 6.2 quotes an error of a script in another way
            real = real._replace(message=re.sub(r"^@user_script: \d+: -", "", real.message).strip())
        if isinstance(memory, (tuple, list)):
            if memory[:1] == [b"REFUSED"]:
                real, memory = ([reply[0], Refusal(reply[1].decode())] for reply in (real, memory))
            return len(real) == len(memory) and all(map(self.alike, real, memory))
        if isinstance(memory, float):
            return self.lasts_as_long(real * 1000, memory * 1000)
        if isinstance(memory, int) and memory > 900_000:
            return self.lasts_as_long(real, memory)
        return bool(real == memory)

    def lasts_as_long(self, real: float, memory: float) -> bool:
        taken = (time.monotonic() - self.began) * 1000
        if memory < 0:
            return real == memory
        return bool(max(0.0, memory - taken - ROUNDING) <= real <= memory + ROUNDING)

    @invariant()
    def the_same_state(self) -> None:
        names = self.client.keys("*")
        assert set(names) == set(self.db.names())
        with self.client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.type(name).pttl(name)
                (pipe.get if self.db.type(name) == "string" else pipe.hgetall)(name)
            found = iter(pipe.execute(raise_on_error=False))
        for name in names:
            kind, left, value = next(found), next(found), next(found)
            assert kind.decode() == self.db.type(name), name
            assert self.lasts_as_long(left, self.db.pttl(name)), (name, left, self.db.pttl(name))
            if kind == b"string":
                assert value == self.db.get(name), name
                continue
            mine = dict(self.db.hash(name))
            if value.get(b"reason") == b"unstored":  # with the error's own words
                texts = [Refusal(each.pop(b"message").decode()) for each in (value, mine)]
                assert texts[0].code == texts[1].code
            assert value == mine, name

    @invariant()
    def the_same_messages(self) -> None:
        heard, told = defaultdict(list), defaultdict(list)
        for messages, of in ((self.ear.heard(), heard), (self.told, told)):
            for channel, words in messages:
                of[channel].append(words)
                self.counted["messages"] += 1
        self.told = []
        assert heard == told

    # What the client does.

    @rule(key=keys, token=tokens, process=processes, listen=st.booleans(), known=st.one_of(st.just(b""), ids))
    def acquire(self, key: str, token: bytes, process: int, listen: bool, known: bytes) -> None:
        self.both(lambda side: side.tiers[process].acquire(side.leases[key, token], known, listen))

    @rule(key=keys, token=tokens, shift=shifts)
    def an_acquire_is_a_late_duplicate(self, key: str, token: bytes, shift: int) -> None:
        """Redis executes it when its client has sent others, or given up."""

        def late(side: Side) -> Any:
            lease = Lease(key, token, LEASE)
            lease.attempt = max(0, side.leases[key, token].attempt - 1 + shift)
            return side.tiers[0].acquire(lease)

        self.both(late)

    @rule(key=keys, token=tokens, process=processes, record=records, announce=st.booleans(), again=st.booleans())
    def commit(
        self, key: str, token: bytes, process: int, record: Record, announce: bool, again: bool
    ) -> None:  # fmt: skip
        record = record._replace(id=token[:8], soft_invalid=False)
        for _ in range(1 + again):
            self.both(lambda side: side.tiers[process].commit(side.leases[key, token], record, announce))
            self.settle_the_short_cooldown(key)

    def settle_the_short_cooldown(self, key: str) -> None:
        # The second after a refused store is the one lifetime short enough to end by itself.
        self.the_same_state()
        name = self.names.failure(key)
        if self.db.type(name.encode()) == "hash" and 0 < self.db.pttl(name.encode()) <= 61_000:
            self.lives(name, AGE)

    @rule(key=keys, token=tokens, more=st.lists(tokens, max_size=2))
    def renew(self, key: str, token: bytes, more: list[bytes]) -> None:
        self.both(lambda side: side.tiers[0].renew([side.leases[key, each] for each in [token, *more]]))

    @rule(
        key=keys,
        token=tokens,
        error=st.one_of(st.none(), st.sampled_from(ERRORS)),
        policy=st.sampled_from(POLICIES),
        again=st.booleans(),
    )
    def release(self, key: str, token: bytes, error: Exception | None, policy: Policy, again: bool) -> None:
        for _ in range(1 + again):
            self.both(lambda side: side.tiers[0].release(side.leases[key, token], error, policy))

    @rule(pairs=st.lists(st.tuples(keys, records), min_size=1, max_size=3), process=processes)
    def write(self, pairs: list[tuple[str, Record]], process: int) -> None:
        pairs = [(key, record._replace(hard_ms=max(AGE, record.hard_ms))) for key, record in pairs]
        self.both(lambda side: side.tiers[process].write_many(pairs))

    @rule(which=st.lists(keys, min_size=1, max_size=3), soft=st.booleans())
    def invalidate(self, which: list[str], soft: bool) -> None:
        self.both(lambda side: side.tiers[0].invalidate(which, soft))

    @rule(key=keys, record=st.one_of(st.none(), records), known=st.sampled_from(["stands there", "none", "other"]))
    def replace(self, key: str, record: Record | None, known: str) -> None:
        stored = self.db.get(name) if self.db.type(name := self.names.value(key).encode()) == "string" else None
        id = {"stands there": (stored or b"")[30:38], "none": b"", "other": b"other id"}[known]
        if record is not None:
            record = record._replace(hard_ms=max(AGE, record.hard_ms))
        self.both(lambda side: side.tiers[0].replace(key, record, id))

    @rule(key=keys)
    def read(self, key: str) -> None:
        self.both(lambda side: side.tiers[0].read(key))
        name = self.names.value(key)
        for command in (("GETRANGE", name, 0, 37), ("GETRANGE", name, 3, 500), ("PTTL", name), ("GET", name)):
            self.both(lambda side, command=command: side.raw(command))
        self.both(lambda side: side.tiers[0].read_many(KEYS))

    @rule(
        key=keys,
        token=tokens,
        record=records,
        tries=st.integers(1, 3),
        waits=st.lists(st.tuples(processes, st.booleans()), max_size=3),
        shift=shifts,
        way_out=st.sampled_from(
            ["commit", "commit", "release", "fail", "late", "write", "invalidate", "soften", "replace"]
        ),
        old=st.sampled_from(OLD),
        given=st.sets(st.sampled_from(CIRCUMSTANCES), max_size=2),
    )
    def a_load(
        self,
        key: str,
        token: bytes,
        record: Record,
        tries: int,
        waits: list[Any],
        shift: int,
        way_out: str,
        old: str,
        given: set[str],
    ) -> None:
        """The usual course of things: one leads, others wait, and then this or that happens."""
        self.the_server_is_full(False)
        self.both(lambda side: side.raw(("DEL", *(self.name(key, place, b"") for place in "vlf"))))
        id = token[:8] if old == "of this token" else b"other id"
        if old != "none":
            data = record._replace(id=id).pack() + (b"y" if old == "of the wrong length" else b"")
            self.something_stands_there(key, "v", token, data, None if old == "without TTL" else AGE)
        if "an old failure" in given:
            self.something_stands_there(key, "f", token, {b"count": b"2"}, 60_000)
        known = id if old == "known" else b""
        for _ in range(tries):
            self.acquire(key, token, 0, False, known)
        if "the lease persists" in given:
            self.a_name_changes(key, "l", "persists")
        for process, listen in waits:
            self.acquire(key, TOKENS[TOKENS.index(token) - 1], process, listen, known)
        for place in "vf":
            if f"{place} is foreign" in given:
                self.something_stands_there(key, place, token, {b"x": b"y"} if place == "v" else b"x", AGE)
        self.the_server_is_full("the server is full" in given)
        if way_out == "late":
            self.an_acquire_is_a_late_duplicate(key, token, shift)
        if way_out in ("commit", "late"):
            self.commit(key, token, 0, record, True, True)
        elif way_out in ("release", "fail"):
            self.release(key, token, ERRORS[0] if way_out == "fail" else None, POLICIES[1], True)
        elif way_out == "write":
            self.write([(key, record)], 0)
        elif way_out == "replace":
            self.replace(key, record, "stands there")
        else:
            self.invalidate([key], way_out == "soften")

    another_load = a_third_load = a_load  # it is chosen more often than what makes it up

    # What else may come over the wire.

    @rule(
        script=st.sampled_from(
            ["acquire", "commit", "renew", "release", "invalidate", "write", "invalidate_if", "write_if"]
        ),
        key=keys,
        token=st.sampled_from([*TOKENS, b"short", *3 * [b"of the holder"]]),
        staged=tokens,
        attempt=st.sampled_from([0, 1, 2, 70_000, *4 * [b"of the holder"]]),
        inbox=st.sampled_from(["", "no such process", PROCESSES[0].hex(), PROCESSES[1].hex()]),
        ms=units,
        id=st.one_of(st.just(b""), ids),
        data=st.one_of(st.just(b""), strings),
        hard=st.sampled_from([0, AGE]),
        push=st.sampled_from(["0", "1"]),
        announces=st.booleans(),
        kind=st.sampled_from(["failed", "retry"]),
        most=st.sampled_from([AGE, 10**12]),
        meets=st.one_of(st.none(), st.tuples(st.sampled_from("vllf"), st.one_of(strings, hashes), lifetimes)),
    )
    def call_a_script(self, script: str, key: str, token: bytes, staged: bytes, meets: Any, **given: Any) -> None:
        if meets is not None and not self.db.full:
            self.something_stands_there(key, meets[0], staged, *meets[1:])
        names, channel = self.names, self.names.invalidations if given["announces"] else ""
        v, lease, f, s = names.value(key), names.lease(key), names.failure(key), names.staging(key, staged)
        ms, data, attempt = given["ms"], given["data"], given["attempt"]
        held = self.db.hash(lease.encode()) if self.db.type(lease.encode()) == "hash" else {}
        token = held.get(b"t", TOKENS[0]) if token == b"of the holder" else token
        attempt = held.get(b"n", 1) if attempt == b"of the holder" else attempt
        invalidated = ["soft" if given["hard"] else "hard", key, names.invalidations]
        written = [data, AGE, given["push"], key, names.invalidations, given["id"]]
        arguments: dict[str, Any] = {
            "acquire": ([v, lease, f, s], [token, attempt, given["inbox"], ms, given["id"]]),
            "commit": (
                [v, lease, f, s],
                [token, attempt, data, given["hard"], given["push"], key, AGE, channel],
            ),
            "renew": ([lease], [token, ms]),
            "release": ([lease, f, s], [token, given["kind"], key, ms, given["most"], b"\xff", data[:200]]),
            "invalidate": ([v, lease, f, s], invalidated),
            "invalidate_if": ([v, lease, f, s], [*invalidated, given["id"]]),
            "write": ([v, lease, f, s], written),
            "write_if": ([v, lease, f, s], [*written, token[:8]]),
        }
        words = commands.evalsha(getattr(commands, script.upper()), *arguments[script][:1], *arguments[script][1])
        answer = self.both(lambda side: side.raw(words))
        if isinstance(answer, Refusal) and answer.code == "NOSCRIPT":
            self.both(lambda side: side.raw(commands.evaluate(words)))

    @rule(key=keys, token=tokens, data=st.one_of(strings, st.just(LARGE)), ms=st.sampled_from([0, *5 * [AGE]]))
    def stage(self, key: str, token: bytes, data: bytes, ms: int) -> None:
        self.both(lambda side: side.raw(("SET", self.names.staging(key, token), data, "PX", ms)))

    # What others, time and the server do.

    def name(self, key: str, place: str, token: bytes) -> str:
        return self.names.staging(key, token) if place == "s" else self.names.value(key)[:-1] + place

    @precondition(lambda self: not self.db.full)
    @rule(
        key=keys,
        place=st.sampled_from("vlfs"),
        token=tokens,
        value=st.one_of(strings, hashes),
        ms=lifetimes,
    )
    def something_stands_there(self, key: str, place: str, token: bytes, value: Any, ms: int | None) -> None:
        """A foreign type, a malformed record, a lease or failure with fields of its own, a name without TTL."""
        name = self.name(key, place, token)
        self.client.delete(name)
        if isinstance(value, bytes):
            self.client.set(name, value, px=ms)
        else:
            self.client.hset(name, mapping=value)
        self.put(name.encode(), value, ms)
        if ms is not None:
            self.client.pexpire(name, ms)

    def put(self, name: bytes, value: Any, ms: int | None) -> None:
        self.db.delete(name)
        if isinstance(value, bytes):
            self.db.set(name, value)
        else:
            self.db.hset(name, value)
        if ms is not None:
            self.db.pexpire(name, ms)

    def lives(self, name: str, ms: int) -> None:
        self.client.pexpire(name, ms)
        self.db.pexpire(name.encode(), ms)

    @rule(key=keys, place=st.sampled_from("vlf"), event=st.sampled_from(["evicted", "persists", "cooled down"]))
    def a_name_changes(self, key: str, place: str, event: str) -> None:
        name = self.name(key, place, b"")
        kind = self.db.type(name.encode())
        if event == "evicted":
            self.both(lambda side: side.raw(("DEL", name, name)))
        elif event == "persists" and kind != "none" and not self.db.full:
            self.client.persist(name)
            value = self.db.get(name.encode()) if kind == "string" else dict(self.db.hash(name.encode()))
            self.put(name.encode(), value, None)
        elif event == "cooled down":
            self.lives(self.name(key, "f", b""), 60_000)

    @rule()
    def time_passes(self) -> None:
        for name in self.client.keys("*"):
            left = self.client.pttl(name)
            if left >= 0:
                self.client.pexpire(name, left - STEP)
        self.clock.step(STEP / 1000)

    @rule()
    def the_server_forgets_the_scripts(self) -> None:
        self.both(lambda side: side.raw(("SCRIPT", "FLUSH")))

    @rule(full=st.booleans())
    def the_server_is_full(self, full: bool) -> None:
        self.client.config_set("maxmemory", int(full))
        self.db.full = full


@pytest.fixture(params=servers())
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer("--maxmemory-policy", "noeviction", executable=request.param) as server:
        yield server


def test_the_redis_in_memory_does_what_a_real_one_does(
    server: RedisServer,
    namespace: str,
    amount: Callable[[int, int], int],
    record_property: Callable[[str, object], None],
) -> None:
    """Same answers, same names, types, values and lifetimes, same messages in the same order on each channel."""
    counted: Counter[str] = Counter()
    with server.client() as client:
        tiers = [Tier2(server.url, namespace, push_bytes=size) for size in (4096, 0)]
        for tier, process in zip(tiers, PROCESSES, strict=True):
            tier.remote.process = process
        ear = Ear(client, tiers[0].inbox, tiers[1].inbox, tiers[0].names.invalidations)
        ours = {"client": client, "tiers": tiers, "ear": ear, "counted": counted}
        try:
            run_machine(type("Machine", (Parity,), ours), amount(80, 3000), 50, counted, record_property)
        finally:
            ear.close()
            for tier in tiers:
                tier.close()


@pytest.mark.parametrize("mutant", mutants_lua.MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_changes_one_place_of_its_script(mutant: mutants_lua.Mutant) -> None:
    """The list of mutants is about the scripts as they are."""
    text = (Path(commands.__file__).parent / "scripts" / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1
    assert mutant.old != mutant.new
