"""The breaker, and the calls that it guards: budget, retry, refusals, and replies that nobody expects."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tier2 import Io, a_lease, a_record

from tiercache.blocking import run
from tiercache.policy import Policy
from tiercache.port import Cooldown, RemoteDown, RemoteRefused
from tiercache.remote.breaker import LONGEST, TRIPS, Breaker
from tiercache.remote.client import RedisRemote
from tiercache.remote.commands import Names
from tiercache.remote.links import Unanswered
from tiercache.remote.resp import Refusal
from tiercache.testing import SteppedClock

OPERATIONS: dict[str, Callable[[RedisRemote, Io], Any]] = {
    "read": lambda remote, io: remote.read(io, "k"),
    "read_many": lambda remote, io: remote.read_many(io, ["k", "k2"]),
    "acquire": lambda remote, io: remote.acquire(io, a_lease(), b"", True),
    "commit": lambda remote, io: remote.commit(io, a_lease(), a_record(b"12345678"), True),
    "commit large": lambda remote, io: remote.commit(io, a_lease(), a_record(b"12345678", b"x" * 9000), False),
    "renew": lambda remote, io: remote.renew(io, [a_lease(), a_lease()]),
    "release": lambda remote, io: remote.release(io, a_lease()),
    "fail": lambda remote, io: remote.release(io, a_lease(), ValueError("x"), Policy()),
    "write_many": lambda remote, io: remote.write_many(io, [("k", a_record(b"12345678")), ("k", a_record(b"1" * 8))]),
    "invalidate": lambda remote, io: remote.invalidate(io, ["k", "k2"], True),
}
RETRIED = [name for name in OPERATIONS if name not in ("write_many", "invalidate")]


class World:
    """A remote whose connection is a function, under a stepped clock."""

    def __init__(self, exchange: Callable[..., list[Any]], draw: float = 1.0) -> None:
        self.clock = SteppedClock()
        self.counts: Counter[str] = Counter()
        self.breaker = Breaker(self.clock, lambda: draw)
        self.sent = 0
        self._exchange = exchange
        self.io = Io(self.exchange, left=0.5)
        self.remote = RedisRemote(Names("ns"), self.breaker, self.clock, self._count, call_timeout=0.1, push_bytes=4096)

    def _count(self, name: str, n: int = 1) -> None:
        self.counts[name] += n

    def exchange(self, packed: bytes, replies: int, timeout: float) -> list[Any]:
        self.sent += 1
        return self._exchange(packed, replies, timeout)

    def do(self, operation: str) -> Any:
        return run(OPERATIONS[operation](self.remote, self.io))


def silent(packed: bytes, replies: int, timeout: float) -> list[Any]:
    raise Unanswered("no answer in time")


def nothing(packed: bytes, replies: int, timeout: float) -> list[Any]:
    return [-2, None] * (replies // 2)


@pytest.fixture
def breaker() -> tuple[Breaker, SteppedClock]:
    clock = SteppedClock()
    return Breaker(clock, lambda: 0.5), clock


def trip(breaker: Breaker) -> None:
    for _ in range(TRIPS):
        breaker.unanswered(breaker.admits())
    assert breaker.open


# The breaker.


def test_it_opens_after_three_unanswered_calls_in_a_row(breaker: Any) -> None:
    """An answer in between starts the count anew; opening is told once."""
    breaker, _ = breaker
    opened = []
    for answered in (False, False, True, False, False, False):
        assert not breaker.open
        assert breaker.remaining() == 0
        opened.append(breaker.answered() if answered else breaker.unanswered(breaker.admits()))
    assert opened == [False, False, False, False, False, True]
    assert breaker.open
    assert breaker.admits() == 0


def test_one_probe_goes_after_a_pause_that_doubles_to_five_seconds(breaker: Any) -> None:
    """U(0.5, 1) s first; nobody else is let through until the probe's own pause is over."""
    breaker, clock = breaker
    trip(breaker)
    pauses = []
    for _ in range(6):
        pauses.append(breaker.remaining())
        clock.step(pauses[-1] - 0.001)
        assert breaker.admits() == 0
        clock.step(0.001)
        probe = breaker.admits()
        assert probe
        assert breaker.admits() == 0
        assert not breaker.unanswered(probe)
    assert pauses == pytest.approx([0.75, 1.5, 3.0, LONGEST, LONGEST, LONGEST])


def test_an_answer_closes_it_and_it_starts_small_again(breaker: Any) -> None:
    """Closing is told once."""
    breaker, clock = breaker
    trip(breaker)
    clock.step(0.75)
    assert breaker.admits()
    assert breaker.answered()
    assert not breaker.open
    assert not breaker.answered()
    trip(breaker)
    assert breaker.remaining() == pytest.approx(0.75)


def test_calls_that_were_under_way_when_it_opened_do_not_count(breaker: Any) -> None:
    """Fifty threads that time out together open it once, for one pause."""
    breaker, clock = breaker
    tickets = [breaker.admits() for _ in range(50)]
    assert [breaker.unanswered(ticket) for ticket in tickets].count(True) == 1
    assert breaker.remaining() == pytest.approx(0.75)
    clock.step(0.75)
    probe = breaker.admits()
    for ticket in tickets:
        breaker.unanswered(ticket)
    assert breaker.remaining() == pytest.approx(0.75)
    breaker.unanswered(probe)
    assert breaker.remaining() == pytest.approx(1.5)


def test_a_probe_that_never_reports_is_followed_by_another(breaker: Any) -> None:
    """A cancelled call does not keep it open for ever."""
    breaker, clock = breaker
    trip(breaker)
    clock.step(0.75)
    assert breaker.admits()
    clock.step(0.75)
    assert breaker.admits()


def test_of_many_threads_one_becomes_the_probe() -> None:
    """All at the same instant, many times over; looking at the clock lets the others in."""
    clock = SteppedClock()

    def yielding() -> float:
        time.sleep(0.0001)
        return clock()

    breaker = Breaker(yielding, lambda: 1.0)
    trip(breaker)
    together = threading.Barrier(8)
    probes: list[int] = []

    def ask() -> None:
        for _ in range(30):
            if together.wait(30) == 0:
                clock.step(LONGEST)
            together.wait(30)
            if ticket := breaker.admits():
                probes.append(ticket)
            together.wait(30)

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(ask) for _ in range(8)]:
            future.result(60)
    assert len(probes) == len(set(probes)) == 30


# The calls.


@pytest.mark.parametrize("operation", OPERATIONS)
def test_reads_and_idempotent_scripts_are_tried_twice(operation: str) -> None:
    """What would be a second write or invalidation is not repeated."""
    world = World(silent)
    with pytest.raises(RemoteDown, match="no answer in time"):
        world.do(operation)
    assert world.sent == (2 if operation in RETRIED else 1)


def test_the_second_try_of_an_acquire_is_another_attempt() -> None:
    """Its packed words differ in the attempt number alone; the answer that is believed is the last one's."""
    sent = []

    def lossy(packed: bytes, replies: int, timeout: float) -> list[Any]:
        sent.append(packed)
        if len(sent) == 1:
            raise Unanswered("lost")
        return [[b"GRANTED", 2]]

    world, lease = World(lossy), a_lease()
    assert run(world.remote.acquire(world.io, lease, b"", False)).attempt == 2  # type: ignore[union-attr, arg-type]
    assert lease.attempt == 2
    assert sent[0] != sent[1]
    assert sent[0].replace(b"\r\n$1\r\n1\r\n", b"\r\n$1\r\n2\r\n", 1) == sent[1]


def test_an_open_breaker_sends_nothing_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    """One warning when it opens, one when it closes, none in between; it is counted."""
    world = World(silent)
    with caplog.at_level(logging.WARNING, "tiercache"):
        for operation in ("read", "acquire", "read", "commit", "invalidate"):
            with pytest.raises(RemoteDown):
                world.do(operation)
        assert world.sent == TRIPS
        with pytest.raises(RemoteDown, match="breaker is open: no answer in time"):
            world.do("read")
        world.clock.step(world.remote.remaining())
        world.io.left, world._exchange = 0.5, nothing
        assert world.do("read").record is None
        assert world.do("read").record is None
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "is open" in caplog.messages[0]
    assert "is closed" in caplog.messages[1]
    assert world.counts["breaker_opened"] == 1


@pytest.mark.parametrize("text", ["OOM no", "READONLY no", "NOPERM no", "LOADING no", "NOAUTH no"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_error_replies_are_refusals_and_never_open_the_breaker(operation: str, text: str) -> None:
    """They are answers: told apart by their code, not repeated."""
    world = World(lambda packed, replies, timeout: [Refusal(text)] * replies)
    for _ in range(2 * TRIPS):
        world.io.left = 0.5
        with pytest.raises(RemoteRefused) as refused:
            world.do(operation)
        assert refused.value.code == text.split()[0]
    assert world.sent == 2 * TRIPS
    assert not world.breaker.open


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_server_that_never_learns_a_script_refuses_it(operation: str) -> None:
    """NOSCRIPT for the text itself, or for what is no script at all, is a refusal like any other."""
    world = World(lambda packed, replies, timeout: [Refusal("NOSCRIPT no")] * replies)
    with pytest.raises(RemoteRefused, match="NOSCRIPT"):
        world.do(operation)
    assert world.sent == (1 if operation.startswith("read") else 2)


def test_a_refusal_is_said_once_while_it_lasts(caplog: pytest.LogCaptureFixture) -> None:
    """Once per code, and again when it comes back after a minute without."""
    world = World(lambda packed, replies, timeout: [Refusal("OOM no memory")] * replies)

    def refused() -> None:
        world.io.left = 0.5
        with pytest.raises(RemoteRefused):
            world.do("acquire")

    with caplog.at_level(logging.WARNING, "tiercache"):
        for _ in range(100):
            refused()
            world.clock.step(30)
        assert caplog.messages == ["Redis refuses with OOM (not repeated while it lasts): OOM no memory"]
        world.clock.step(61)
        refused()
        assert len(caplog.messages) == 2


def test_a_budget_that_is_spent_asks_nobody() -> None:
    """Every call spends from it, an answered one its timeout at most; one with nothing left takes no probe."""
    world = World(silent)

    def slow(packed: bytes, replies: int, timeout: float) -> list[Any]:
        assert timeout == pytest.approx(min(0.1, world.io.left))
        world.clock.step(0.2)
        return nothing(packed, replies, timeout)

    world._exchange, world.io.left = slow, 0.25
    for left in (0.15, 0.05, 0.0):
        world.do("read")
        assert world.io.left == pytest.approx(left)
    trip(world.breaker)
    world.clock.step(1.0)
    with pytest.raises(RemoteDown, match="budget is spent"):
        world.do("read")
    assert world.sent == 3
    world.io.left = 0.5
    assert world.do("read").record is None


def test_a_retry_has_only_what_the_first_try_left() -> None:
    """A budget below two timeouts shortens the second; none left: no second."""
    timeouts = []
    world = World(silent)

    def hangs(packed: bytes, replies: int, timeout: float) -> list[Any]:
        timeouts.append(timeout)
        world.clock.step(timeout)
        raise Unanswered("no answer in time")

    world._exchange = hangs
    for left, expected in ((0.15, [0.1, 0.05]), (0.1, [0.1])):
        timeouts.clear()
        world.breaker.answered()
        world.io.left = left
        with pytest.raises(RemoteDown):
            world.do("read")
        assert timeouts == pytest.approx(expected)


def test_our_own_congestion_is_not_redis_being_down() -> None:
    """No free connection, or a cache that was closed, does not open the breaker."""

    def busy(packed: bytes, replies: int, timeout: float) -> list[Any]:
        raise Unanswered("every connection is busy", ours=True)

    world = World(busy)
    for _ in range(2 * TRIPS):
        with pytest.raises(RemoteDown, match="busy"):
            world.do("read")
    assert not world.breaker.open


def test_a_reply_that_is_too_large_is_an_answer() -> None:
    """It closes the breaker; a read then asks for the header alone, anything else is down."""

    def huge(packed: bytes, replies: int, timeout: float) -> list[Any]:
        if b"GETRANGE" in packed:
            return [5000, a_record(b"12345678").pack()[:38]]
        raise Unanswered("a reply of more than 5 bytes", oversized=True)

    world = World(huge)
    trip(world.breaker)
    world.clock.step(1.0)
    found = world.do("read")
    assert not world.breaker.open
    assert found.record.id == b"12345678"
    assert found.record.kind == 255
    assert found.remaining == 5.0
    assert [each.record.id for each in world.do("read_many")] == [b"12345678"] * 2
    with pytest.raises(RemoteDown):
        world.do("acquire")


@pytest.mark.parametrize(
    "head",
    [b"", b"x" * 38, b"tc\x01", b"tc\x02" + a_record(b"1" * 8).pack()[3:38], None, Refusal("WRONGTYPE no"), 5, [b"x"]],
)
def test_something_too_large_that_is_no_record_is_absent(head: Any) -> None:
    """A foreign string of any size is nothing of ours."""

    def huge(packed: bytes, replies: int, timeout: float) -> list[Any]:
        if b"GETRANGE" in packed:
            return [5000, head]
        raise Unanswered("too large", oversized=True)

    assert World(huge).do("read").record is None


# Replies that nobody expects.

REPLIES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.binary(max_size=50),
        st.sampled_from(
            [
                b"OK",
                b"GRANTED",
                b"HIT",
                b"BUSY",
                b"COOLDOWN",
                b"LOST",
                b"REFUSED",
                b"REJECTED",
                a_record(b"1" * 8).pack(),
            ]
        ),
        st.sampled_from([Refusal(""), Refusal("NOSCRIPT x"), Refusal("WRONGTYPE x"), Refusal("ERR x")]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=6), st.dictionaries(st.binary(max_size=2), inner, max_size=2)),
    max_leaves=8,
)


@given(st.sampled_from(sorted(OPERATIONS)), st.data())
def test_whatever_is_answered_an_operation_ends_or_is_refused(operation: str, data: st.DataObject) -> None:
    """RemoteDown and RemoteRefused are all that is ever raised."""

    def hostile(packed: bytes, replies: int, timeout: float) -> list[Any]:
        return [data.draw(REPLIES) for _ in range(replies)]

    try:
        World(hostile).do(operation)
    except (RemoteDown, RemoteRefused):
        pass


@given(st.one_of(st.binary(max_size=60), st.builds(msgpack.packb, st.lists(st.integers(0, 2**64 - 1), max_size=4))))
def test_a_failure_that_cannot_be_read_is_a_short_one(message: bytes) -> None:
    """A hostile description costs neither an exception nor memory."""
    cooldown = World(silent).remote.failure(message)
    assert cooldown.reason == "failed"
    assert 0 <= cooldown.left <= 1e9


def test_a_failure_is_read_as_it_was_told() -> None:
    """Name and text are cut at 200 characters, undecodable ones replaced."""
    world = World(silent)
    told = world.remote.failure(msgpack.packb([b"E" * 300, b"\xff" * 300, 1500]))
    assert told == Cooldown(1.5, "failed", "E" * 200, "�" * 200)
    assert not world.counts
    assert world.remote.failure(b"\xc1").type_name == "unknown"
    assert world.counts["undecodable"] == 1
