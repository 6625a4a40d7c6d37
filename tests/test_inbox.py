"""The process's ear: what it hears, epochs, lost and hanging connections, hostile messages, and its end."""

import logging
import queue
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis_server import RedisServer
from tier2 import FakeRedis

from tiercache.port import Message
from tiercache.remote import inbox as module
from tiercache.remote.address import Address
from tiercache.remote.inbox import EPOCH, Inbox, Slots
from tiercache.remote.links import Link

MINE, ALL = "tc1:in:me", "tc1:iv:ns"
PATIENCE = 30.0


class World:
    """An inbox whose every event is noted in order: up, down, invalid KEY, unquiet KEY, and messages on a slot."""

    def __init__(self, url: str, connect_timeout: float = 5.0) -> None:
        self.events: queue.Queue[Any] = queue.Queue()
        self.counts: Counter[str] = Counter()
        self.slots = Slots()
        self.slot = self.slots.open("k")
        self.slot.wake = lambda: self.events.put(self.slot.messages[-1])
        address = Address(url, None)
        self.inbox = Inbox(
            lambda: Link(address, connect_timeout),
            (MINE, ALL),
            self.slots,
            up=lambda: self.events.put("up"),
            down=lambda: self.events.put("down"),
            invalid=lambda key, id: self.events.put(("invalid", key, id)),
            unquiet=lambda key: self.events.put(("unquiet", key)),
            count=self._count,
            draw=lambda: 0.5,
            patience=connect_timeout,
        )

    def _count(self, name: str, n: int = 1) -> None:
        self.counts[name] += n

    def next(self) -> Any:
        return self.events.get(timeout=PATIENCE)

    def until(self, event: Any) -> None:
        while self.next() != event:
            pass

    def start(self) -> "World":
        self.inbox.start()
        assert self.inbox.started.wait(PATIENCE)
        return self


@pytest.fixture
def make_world() -> Iterator[Callable[..., World]]:
    worlds = []

    def make(*args: Any, **settings: Any) -> World:
        worlds.append(World(*args, **settings))
        return worlds[-1]

    yield make
    for world in worlds:
        world.inbox.close(PATIENCE)
        assert not world.inbox._thread.is_alive()


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server of this test's own, to be stopped and restarted."""
    with RedisServer() as server:
        yield server


def words(*parts: Any) -> bytes:
    return msgpack.packb(list(parts))


def test_it_hears_its_own_messages_and_everybodys_invalidations(make_world: Any, redis_server: RedisServer) -> None:
    """A message reaches the key's slots and ends its quiet; an invalidation names the record that stays."""
    world = make_world(redis_server.url).start()
    assert [world.next(), world.next()] == ["up", EPOCH]
    with redis_server.client() as client:
        assert client.publish(MINE, words(b"k", b"12345678", b"ready", b"value")) == 1
        assert client.publish(ALL, words(b"k", b"87654321")) >= 1
        client.publish(ALL, words("ä", b""))
        client.publish(MINE, words(b"another", b"12345678", b"retry", b""))
    assert [world.next() for _ in range(5)] == [
        ("unquiet", "k"),
        Message(b"12345678", "ready", b"value"),
        ("invalid", "k", b"87654321"),
        ("invalid", "ä", b""),
        ("unquiet", "another"),
    ]
    assert world.inbox.heard
    assert world.inbox.fault is None


def test_a_message_sets_all_slots_of_its_key_and_an_epoch_sets_all() -> None:
    """Two flights of one key have a slot each; a closed slot hears nothing, and may be closed again."""
    slots = Slots()
    one, two, other = slots.open("k"), slots.open("k"), slots.open("other")
    message = Message(b"id", "ready", b"")
    slots.put("k", message)
    slots.put("nobody", message)
    slots.put_all(EPOCH)
    assert one.messages == two.messages == [message, EPOCH]
    assert other.messages == [EPOCH]
    for _ in range(2):
        slots.close(one)
    one.clear()
    slots.put("k", message)
    assert one.messages == []
    assert len(two.messages) == 3
    slots.close(two)
    slots.close(other)
    Slots().close(one)  # those of a forked child


def test_a_slot_whose_loop_is_closed_disturbs_nobody() -> None:
    """A waker that raises is dropped, the others are woken."""
    slots = Slots()
    dead, alive = slots.open("k"), slots.open("k")
    woken = threading.Event()

    def closed() -> None:
        raise RuntimeError("Event loop is closed")

    dead.wake, alive.wake = closed, woken.set
    slots.put("k", EPOCH)
    assert woken.is_set()


def test_a_lost_connection_is_a_new_epoch(
    make_world: Any, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """From the loss on nothing is verified; the next subscription begins an epoch and wakes every slot."""
    with caplog.at_level(logging.WARNING, "tiercache"):
        world = make_world(server.url).start()
        world.until(EPOCH)
        with server.client() as client:
            client.client_kill_filter(_type="pubsub")
            assert [world.next() for _ in range(3)] == ["down", "up", EPOCH]
            assert client.publish(MINE, words(b"k", b"id", b"retry", b"")) == 1
        assert [world.next(), world.next().kind] == [("unquiet", "k"), "retry"]
        assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
        assert "not connected" in caplog.messages[0]
        assert "connected again" in caplog.messages[1]


def test_a_server_that_goes_and_comes_back_is_found_again(make_world: Any, server: RedisServer) -> None:
    """However long it was away."""
    world = make_world(server.tcp_url).start()
    world.until(EPOCH)
    server.halt()
    assert world.next() == "down"
    assert world.next() == "down"  # it has tried again, and failed
    assert world.inbox.fault is not None
    server.launch()
    world.until("up")
    assert world.next() == EPOCH
    assert world.inbox.fault is None


def test_a_server_that_is_absent_at_the_start_is_said_once(
    make_world: Any, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """`started` is set at the first failure; nothing was heard yet; one warning, and one when it comes."""
    server.halt()
    with caplog.at_level(logging.WARNING, "tiercache"):
        world = make_world(server.tcp_url).start()
        assert not world.inbox.heard
        assert "can't connect" in str(world.inbox.fault)
        for _ in range(3):
            assert world.next() == "down"
        server.launch()
        world.until(EPOCH)
    assert ["not connected" in text for text in caplog.messages] == [True, False]
    assert "connected again" in caplog.messages[1]
    assert world.inbox.heard


def test_a_server_that_hangs_is_noticed_by_a_ping(
    make_world: Any, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that is silent for longer than a ping may take is lost, though nobody closed it."""
    monkeypatch.setattr(module, "IDLE", 0.05)
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    world = make_world(server.tcp_url, connect_timeout=0.3).start()
    world.until(EPOCH)
    server.process.send_signal(signal.SIGSTOP)
    try:
        assert world.next() == "down"
        assert "no answer" in world.inbox.fault or "timed out" in world.inbox.fault
    finally:
        server.process.send_signal(signal.SIGCONT)
    world.until("up")
    assert world.next() == EPOCH


def test_an_idle_connection_that_answers_its_pings_stays(
    make_world: Any, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many silences long, with messages in between, it is one epoch."""
    monkeypatch.setattr(module, "IDLE", 0.002)
    world = make_world(server.url).start()
    world.until(EPOCH)
    with server.client() as client:
        for _ in range(3):
            client.config_resetstat()
            while int(client.info("commandstats").get("cmdstat_ping", {"calls": 0})["calls"]) < 5:
                pass
            client.publish(ALL, words(b"k", b""))
            assert world.next() == ("invalid", "k", b"")
    assert world.events.empty()


HOSTILE = [
    b"", b"\xc1", b"not msgpack", words(), words(b"k"), words(5, b""), words(b"\xff", b""), words(b"k", b"123"),
    words(b"k", 2**32 - 1), words(b"k", None), words([b"k"], b""), msgpack.packb({b"k": b""}), msgpack.packb(b"k"),
    words(*[b"k"] * 9), b"\x91" * 10_000, b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xc7\x01\x05x",
]  # fmt: skip
HOSTILE_MINE = [
    words(b"k", b"12345678", b"\xff", b""), words(b"k", b"12345678", b"ready", 2**32 - 1),
    words(b"k", b"12345678", b"ready"), words(b"k", True, b"ready", b""),
]  # fmt: skip


@pytest.mark.parametrize(("channel", "hostile"), [(MINE, HOSTILE + HOSTILE_MINE), (ALL, HOSTILE)])
def test_hostile_messages_are_counted_and_ignored(
    make_world: Any, redis_server: RedisServer, channel: str, hostile: list[bytes]
) -> None:
    """The next good one is heard on the same connection; a number is never taken for a size to allocate."""
    world = make_world(redis_server.url).start()
    world.until(EPOCH)
    with redis_server.client() as client:
        for data in hostile:
            client.publish(channel, data)
        client.publish(ALL, words(b"the end", b""))
    assert world.next() == ("invalid", "the end", b"")
    assert world.counts["undecodable"] == len(hostile)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.recursive(
    st.one_of(st.none(), st.integers(), st.binary(max_size=9), st.lists(st.binary(max_size=9), max_size=5)),
    lambda inner: st.lists(inner, max_size=5), max_leaves=10,
))  # fmt: skip
def test_no_reply_of_a_server_stops_the_ear(reply: Any) -> None:
    """Whatever shape a pushed reply has, it is heard or ignored."""
    world = World("redis://127.0.0.1:1")
    for channel in (MINE.encode(), ALL.encode(), b"?"):
        for data in (reply, msgpack.packb(repr(reply))):
            world.inbox._take([b"message", channel, data])
    world.inbox._take(reply)


def test_a_message_of_any_size_that_redis_allows_is_bounded(
    make_world: Any, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is larger costs the connection and not the memory."""
    monkeypatch.setattr(module, "LARGEST", 200_000)
    world = make_world(redis_server.url).start()
    world.until(EPOCH)
    with redis_server.client() as client:
        client.publish(MINE, b"x" * 1_000_000)
    assert [world.next() for _ in range(3)] == ["down", "up", EPOCH]


def test_a_user_who_may_not_subscribe_is_told_so(make_world: Any, server: RedisServer) -> None:
    """The fault names what Redis said; no acquire names this inbox."""
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "deaf", "on", ">pw", "~*", "+@all", "resetchannels")
    world = make_world(f"redis://deaf:pw@127.0.0.1:{server.port}").start()
    assert world.next() == "down"
    assert "SUBSCRIBE was refused: NOPERM" in world.inbox.fault
    assert not world.inbox.heard


def test_who_waits_for_the_start_is_told_however_it_ends(make_world: Any, redis_server: RedisServer) -> None:
    """From any thread, before or after it."""
    for url in (redis_server.url, "redis://127.0.0.1:1"):
        told = threading.Semaphore(0)
        world = make_world(url)
        world.inbox.when_started(told.release)
        assert not told.acquire(blocking=False)
        world.start()
        world.inbox.when_started(told.release)
        for _ in range(2):
            assert told.acquire(timeout=PATIENCE)


def test_a_callback_that_fails_does_not_make_the_process_deaf(
    make_world: Any, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged as a defect, and a new epoch begins: nothing is believed that was not heard."""
    world = make_world(redis_server.url)
    failures = [ValueError("a defect")]
    up = world.inbox._up

    def fails_once() -> None:
        if failures:
            raise failures.pop()
        up()

    world.inbox._up = fails_once
    with caplog.at_level(logging.ERROR, "tiercache"):
        world.start()
        assert [world.next() for _ in range(3)] == ["down", "up", EPOCH]
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_a_connection_that_is_lost_again_and_again_is_tried_less_and_less(make_world: Any) -> None:
    """The pause doubles, though each subscription succeeds."""
    subscribed = b"*3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:1\r\n"
    with FakeRedis(lambda command: subscribed * 2 + b"-ERR go away\r\n$-5\r\n") as server:
        world = make_world(server.url)
        pauses: queue.Queue[float] = queue.Queue()

        class Closing(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                assert timeout is not None
                pauses.put(timeout)
                return super().wait(timeout / 100)

        world.inbox._closing = Closing()
        world.start()
        assert [pauses.get(timeout=PATIENCE) for _ in range(8)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


def test_close_ends_a_silent_inbox_at_once(redis_server: RedisServer) -> None:
    """It does not wait for the next ping; nothing is logged, and closing again is nothing."""
    world = World(redis_server.url).start()
    world.until(EPOCH)
    for _ in range(2):
        world.inbox.close(PATIENCE)
    assert not world.inbox._thread.is_alive()


def test_close_ends_an_inbox_that_never_was_started() -> None:
    """There is nothing to wait for."""
    World("redis://127.0.0.1:1").inbox.close(PATIENCE)


def test_close_ends_an_inbox_between_two_attempts(make_world: Any, caplog: pytest.LogCaptureFixture) -> None:
    """And one whose server never answers, within the connect timeout; nothing is said about it."""
    world = make_world("redis://127.0.0.1:1").start()
    world.inbox.close(PATIENCE)
    assert not world.inbox._thread.is_alive()
    asked = threading.Event()

    def silent(command: list[bytes]) -> bytes:
        asked.set()
        return b""

    with FakeRedis(silent) as server:
        world = World(server.url, connect_timeout=PATIENCE)
        world.inbox.start()
        assert asked.wait(PATIENCE)
        caplog.clear()
        world.inbox.close(PATIENCE)
        assert not world.inbox._thread.is_alive()
        assert caplog.messages == []


def test_a_thousand_messages_are_heard_in_order(make_world: Any, redis_server: RedisServer) -> None:
    """Several in one segment, or one in several."""
    world = make_world(redis_server.url).start()
    world.until(EPOCH)
    with redis_server.client() as client, client.pipeline(transaction=False) as pipe:
        for n in range(1000):
            pipe.publish(ALL, words(b"%d" % n * (n % 50 + 1), b""))
        pipe.execute()
    assert [world.next()[1] for _ in range(1000)] == [str(n) * (n % 50 + 1) for n in range(1000)]
