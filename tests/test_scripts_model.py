"""The scripts against a model of them: any order of operations, lost replies, late duplicates, expiries, evictions."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
import redis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from machines import run_machine
from redis_server import RedisServer
from tier2 import Ear, Tier2, a_lease, a_record, servers

from tiercache.local.record import Record
from tiercache.policy import Policy
from tiercache.port import Busy, Cooldown, Granted, Hit, Lease
from tiercache.remote.commands import INLINE

POLICY = Policy(error_backoff=3.0, error_backoff_max=10.0)
SMALL, LARGE = b"x", b"x" * (INLINE + 1)
Told = list[tuple[str, list[bytes]]]


class Held:
    """A lease as the model sees it."""

    def __init__(self, token: bytes, attempt: int) -> None:
        self.token, self.attempt = token, attempt
        self.waiters: set[str] = set()

    def tell(self, key: str, kind: bytes, value: bytes = b"") -> Told:
        return [(inbox, [key.encode(), self.token[:8], kind, value]) for inbox in self.waiters]


class Scripts(RuleBasedStateMachine):
    """One key, two flights, two processes. After every step the server holds what the model holds."""

    client: ClassVar[redis.Redis]
    tiers: ClassVar[list[Tier2]]
    ear: ClassVar[Ear]
    counted: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        names = self.tiers[0].names
        self.v, self.l, self.f = names.value("k"), names.lease("k"), names.failure("k")
        self.announcements = names.invalidations
        self.expected: Told = []
        # The model.
        self.record: Record | None = None
        self.held: Held | None = None
        self.count = 0
        self.failure: tuple[str, bytes] | None = None  # reason, token; while it cools down
        self.leases = [a_lease(), a_lease()]
        self.lost: list[Lease] = []  # acquires that were sent and not answered, not yet executed
        self.granted: dict[bytes, int] = {}
        self.fenced: set[bytes] = set()  # ids whose lease was granted before the last invalidation or write

    def teardown(self) -> None:
        self.client.flushall()
        self.ear.heard()

    flights = st.sampled_from(["first", "second", "holder"])
    processes = st.integers(0, 1)
    payloads = st.sampled_from([SMALL, LARGE])

    def flight(self, which: str) -> int:
        tokens = [lease.token for lease in self.leases]
        if which == "holder" and self.held is not None and self.held.token in tokens:
            return tokens.index(self.held.token)
        return int(which == "second")

    # Operations.

    @rule(which=flights, process=processes, listen=st.booleans(), knows=st.booleans(), again=st.booleans())
    def acquire(self, which: str, process: int, listen: bool, knows: bool, again: bool) -> None:
        lease, tier = self.leases[self.flight(which)], self.tiers[process]
        known = self.record.id if knows and self.record is not None else b""
        for _ in range(2 if again else 1):
            answer = tier.acquire(lease, known, listen)
            self.elect(lease.token, lease.attempt, known, tier.inbox if listen else "", answer)
            if isinstance(answer, Granted):
                self.granted[lease.token] = lease.attempt

    @rule(which=flights)
    def an_acquire_gets_no_answer(self, which: str) -> None:
        """Its client tries again, or gives up; Redis may still execute it."""
        lease = self.leases[self.flight(which)]
        sent = Lease("k", lease.token, lease.seconds)
        sent.attempt = lease.attempt
        self.lost.append(sent)
        lease.attempt += 1

    @precondition(lambda self: self.lost)
    @rule(knows=st.booleans())
    def an_acquire_is_executed_late(self, knows: bool) -> None:
        known = self.record.id if knows and self.record is not None else b""
        sent = self.lost.pop()
        attempt = sent.attempt + 1
        self.elect(sent.token, attempt, known, "", self.tiers[0].acquire(sent, known), heard=False)

    def elect(self, token: bytes, attempt: int, known: bytes, inbox: str, answer: Any, heard: bool = True) -> None:
        if self.held is not None and self.held.token == token:
            self.held.attempt = max(self.held.attempt, attempt)
            assert answer == Granted(self.held.attempt)
        elif self.record is not None and not self.record.soft_invalid and self.record.id != known:
            assert answer == Hit()
        elif self.held is not None:
            if inbox:
                self.held.waiters.add(inbox)
            assert isinstance(answer, Busy)
            assert answer.holder == self.held.token[:8]
        elif self.failure is not None:
            assert isinstance(answer, Cooldown)
            assert answer.reason == self.failure[0]
        else:
            assert answer == Granted(attempt)
            self.held = Held(token, attempt)
        if isinstance(answer, Granted) and heard:
            self.fenced.discard(token[:8])  # what is loaded from here on is newer

    @rule(
        which=flights, process=processes, payload=payloads, kept=st.booleans(), announce=st.booleans(),
        again=st.booleans(),
    )  # fmt: skip
    def commit(self, which: str, process: int, payload: bytes, kept: bool, announce: bool, again: bool) -> None:
        flight, tier = self.flight(which), self.tiers[process]
        token = self.leases[flight].token
        lease = Lease("k", token, 30.0)
        lease.attempt = self.granted.get(token, 0)  # the one whose GRANTED was heard
        record = a_record(lease.id, payload, 20_000 * kept, 40_000 * kept)
        stored = tier.commit(lease, record, announce)
        assert stored == self.store(lease, record, announce)
        if again:  # after a lost reply
            assert tier.commit(lease, record, announce) == (stored and self.record == record)
        if stored:
            self.leases[flight] = a_lease()

    def store(self, lease: Lease, record: Any, announce: bool) -> bool:
        if self.record is not None and self.record.id == lease.id and not self.record.soft_invalid:
            return True
        held = self.held
        if held is None or held.token != lease.token:
            return False
        self.held = None
        if held.attempt != lease.attempt:
            self.expected += held.tell("k", b"retry")
            return False
        pushed = len(record.payload) == 1 or not record.hard_ms  # what is not kept can't be read
        self.expected += held.tell("k", b"ready", record.pack() if pushed else b"")
        if record.hard_ms:
            self.record = record
        if announce:
            self.expected.append((self.announcements, [b"k", lease.id]))
        self.failure, self.count = None, 0
        return True

    @rule(which=flights)
    def renew(self, which: str) -> None:
        lease = self.leases[self.flight(which)]
        assert self.tiers[0].renew([lease]) == [self.held is not None and self.held.token == lease.token]

    @rule(which=flights, fails=st.booleans(), again=st.booleans())
    def release(self, which: str, fails: bool, again: bool) -> None:
        flight, tier = self.flight(which), self.tiers[0]
        lease = self.leases[flight]
        arguments = (lease, ValueError("x"), POLICY) if fails else (lease,)
        pause = tier.release(*arguments)
        if self.held is not None and self.held.token == lease.token:
            if fails:
                self.count += 1
                self.failure = ("failed", lease.token)
                assert pause == min(10, 3 * 2 ** (self.count - 1))
                value = b"\x93\xaaValueError\xa1x\xcd" + int(pause * 1000).to_bytes(2, "big")
                self.expected += self.held.tell("k", b"failed", value)
            else:
                assert pause == 0
                self.expected += self.held.tell("k", b"retry")
            self.held = None
            if again:
                assert pause - 2.9 < tier.release(*arguments) <= pause
            self.leases[flight] = a_lease()
        elif not (fails and self.failure == ("failed", lease.token)):
            assert pause == 0

    @rule(soft=st.booleans())
    def invalidate(self, soft: bool) -> None:
        self.tiers[0].invalidate(["k"], soft)
        if self.held is not None:
            self.expected += self.held.tell("k", b"retry")
        self.expected.append((self.announcements, [b"k", b""]))
        if self.record is not None:
            self.record = self.record._replace(soft_invalid=True) if soft else None
        self.fence()

    @rule(payload=payloads)
    def write(self, payload: bytes) -> None:
        record = a_record(os.urandom(8), payload)
        self.tiers[0].write_many([("k", record)])
        if self.held is not None:
            self.expected += self.held.tell("k", b"ready", record.pack() if payload == SMALL else b"")
        self.expected.append((self.announcements, [b"k", record.id]))
        self.record = record
        self.fence()

    def fence(self) -> None:
        self.held, self.failure, self.count = None, None, 0
        self.fenced = {lease.id for lease in self.leases}

    @rule(
        listening=st.booleans(), payload=payloads, again=st.booleans(),
        way_out=st.sampled_from(["commit", "fail", "retry", "late", "paused"]),
    )  # fmt: skip
    def a_load(self, listening: bool, payload: bytes, again: bool, way_out: str) -> None:
        """The usual course of things: one leads, another waits, and then this or that happens."""
        self.acquire("first", 0, False, True, False)
        if way_out == "paused":
            self.something_happens("the lease ends")
        self.acquire("second", 1, listening, True, False)
        if way_out == "paused":
            self.commit("first", 0, payload, True, False, again)
        if way_out == "late":
            self.an_acquire_gets_no_answer("holder")
            self.an_acquire_is_executed_late(True)
        if way_out in ("fail", "retry"):
            self.release("holder", way_out == "fail", again)
        else:
            self.commit("holder", 0, payload, True, False, again)

    # What Redis and time do.

    @rule(event=st.sampled_from(["the lease ends", "the cooldown ends", "the record is evicted", "SCRIPT FLUSH"]))
    def something_happens(self, event: str) -> None:
        if event == "the lease ends":
            self.client.delete(self.l)
            self.held = None
        elif event == "the cooldown ends":
            self.client.pexpire(self.f, 60_000)
            self.failure = None
        elif event == "the record is evicted":
            self.client.delete(self.v)
            self.record = None
        else:
            self.client.script_flush()

    # What always holds.

    @invariant()
    def the_server_holds_what_the_model_holds(self) -> None:
        self.counted["states"] += 1
        names = {name.decode() for name in self.client.scan_iter()}
        assert all(self.client.pttl(name) > 0 for name in names), "a key without a TTL"
        wanted = {self.v} if self.record is not None else set()
        wanted |= {self.l} if self.held is not None else set()
        wanted |= {self.f} if self.count else set()
        assert names == wanted
        assert self.client.get(self.v) == (self.record.pack() if self.record is not None else None)
        if self.held is not None:
            lease = self.client.hgetall(self.l)
            waiters = {b"w:" + inbox.removeprefix("tc1:in:").encode() for inbox in self.held.waiters}
            assert set(lease) == {b"t", b"n"} | waiters
            assert (lease[b"t"], int(lease[b"n"])) == (self.held.token, self.held.attempt)

    @invariant()
    def everybody_was_told_and_nobody_twice(self) -> None:
        expected, self.expected = self.expected, []
        assert sorted(self.ear.heard()) == sorted(expected)

    @invariant()
    def no_fenced_value_is_fresh(self) -> None:
        """S3: nothing whose lease was granted before an invalidation is readable as fresh after it."""
        found = self.tiers[1].read("k").record
        assert found is None or found.soft_invalid or found.id not in self.fenced


@pytest.fixture(params=servers())
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer(executable=request.param) as server:
        yield server


def test_the_scripts_do_what_their_model_does(
    server: RedisServer,
    namespace: str,
    amount: Callable[[int, int], int],
    record_property: Callable[[str, object], None],
) -> None:
    """Same answers, same state, same messages, a TTL on every key; S1, S2, S3, S6 and S11 at every step."""
    counted: Counter[str] = Counter()
    with server.client() as client:
        tiers = [Tier2(server.url, namespace) for _ in range(2)]
        ear = Ear(client, tiers[0].inbox, tiers[1].inbox, tiers[0].names.invalidations)
        machine = type("Machine", (Scripts,), {"client": client, "tiers": tiers, "ear": ear, "counted": counted})
        try:
            run_machine(machine, amount(100, 3000), 50, counted, record_property)
        finally:
            ear.close()
            for tier in tiers:
                tier.close()
