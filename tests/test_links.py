"""Connections for threads, and the addresses they are made from."""

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis_server import RedisServer
from tier2 import FakeRedis

from tiercache.remote import links as module
from tiercache.remote.address import Address
from tiercache.remote.links import Link, Links, Unanswered, allowance
from tiercache.remote.resp import Refusal, pack, pack_all

PING = pack("PING")


@pytest.fixture
def make_links() -> Iterator[Callable[..., Links]]:
    made = []

    def make(url: str, limit: int = 2**20, most: int = 16, connect_timeout: float = 5.0) -> Links:
        made.append(Links(Address(url, None), connect_timeout, limit, most))
        return made[-1]

    yield make
    for links in made:
        links.close()


def test_replies_come_in_the_order_of_their_commands(make_links: Any, redis_server: RedisServer) -> None:
    """Several commands in one write; an error reply stands in its place."""
    links = make_links(redis_server.url)
    packed = pack_all([("ECHO", "a"), ("NOSUCH",), ("ECHO", b"\x00\xff")])
    first, error, last = links.exchange(packed, 3, 5)
    assert (first, last) == (b"a", b"\x00\xff")
    assert isinstance(error, Refusal)


def test_fifty_threads_each_get_their_own_answer(make_links: Any, redis_server: RedisServer) -> None:
    """They share few connections, which live on from call to call."""
    links = make_links(redis_server.url, most=4)
    with redis_server.client() as client:
        before = int(client.info()["total_connections_received"])
        together = threading.Barrier(50)

        def work(n: int) -> None:
            together.wait(30)
            for i in range(40):
                word = b"%d/%d" % (n, i)
                assert links.exchange(pack_all([("ECHO", word), ("ECHO", b"x" * n)]), 2, 30) == [word, b"x" * n]

        with ThreadPoolExecutor(50) as pool:
            assert list(pool.map(work, range(50))) == [None] * 50
        assert int(client.info()["total_connections_received"]) - before <= 4


def test_threads_beyond_the_last_connection_wait_and_are_told(make_links: Any) -> None:
    """No place within the timeout is our own fault, not Redis's; the place is there again afterwards."""
    asked, go_on = threading.Event(), threading.Event()

    def answer(command: list[bytes]) -> bytes:
        asked.set()
        assert go_on.wait(30)
        return b"+PONG\r\n"

    with FakeRedis(answer) as server, ThreadPoolExecutor(1) as pool:
        links = make_links(server.url, most=1)
        slow = pool.submit(links.exchange, PING, 1, 30)
        assert asked.wait(30)
        with pytest.raises(Unanswered, match="busy") as busy:
            links.exchange(PING, 1, 0.01)
        assert busy.value.ours
        go_on.set()
        assert slow.result(30) == [b"PONG"]
        assert links.exchange(PING, 1, 30) == [b"PONG"]


@pytest.mark.parametrize(
    "first", [b"$10\r\nhalf", None, b"no such thing\r\n", b"$100000\r\n" + b"x" * 100_000, b""],
    ids=["half a reply", "closed", "malformed", "too large", "silence"],
)  # fmt: skip
def test_a_connection_without_a_whole_reply_is_never_used_again(make_links: Any, first: bytes | None) -> None:
    """The next caller gets the answer to its own question, on a new connection."""
    replies = [first]
    with FakeRedis(lambda command: replies.pop() if replies else b"+mine\r\n") as server:
        links = make_links(server.url, limit=50_000)
        with pytest.raises(Unanswered) as lost:
            links.exchange(PING, 1, 0.2)
        assert lost.value.oversized == (first is not None and len(first) > 50_000)
        assert not lost.value.ours
        assert links.exchange(PING, 1, 30) == [b"mine"]
        assert server.accepted == 2


@pytest.mark.parametrize(
    "end", [None, b"", b"no such thing\r\n", b"$100000\r\n" + b"x" * 100_000, b"$10\r\nhalf"],
    ids=["closed", "silence", "malformed", "too large", "half a reply"],
)  # fmt: skip
def test_who_sends_for_others_loses_no_answer_that_came(make_links: Any, end: bytes | None) -> None:
    """Of three calls in one write the second ends the connection: the first is answered, the third asks again."""
    held, go_on = threading.Event(), threading.Event()

    def answer(command: list[bytes]) -> bytes | None:
        if command == [b"HOLD"]:
            held.set()
            assert go_on.wait(30)
        if command == [b"LAST"]:
            return b""  # a server that has lost its thread says no more
        return end if command == [b"END"] else b"+%b\r\n" % command[0]

    with FakeRedis(answer) as server, ThreadPoolExecutor(4) as pool:
        links = make_links(server.url, most=1, limit=50_000)
        calls = [pool.submit(links.exchange, pack("HOLD"), 1, 30)]
        assert held.wait(30)
        for number, word in enumerate(["FIRST", "END", "LAST"]):
            calls.append(pool.submit(links.exchange, pack(word), 1, 1))
            until(lambda: links.waiting == number + 1)  # noqa: B023
        go_on.set()
        assert calls[0].result(30) == [b"HOLD"]
        assert calls[1].result(30) == [b"FIRST"]
        for call, ours in ((calls[2], False), (calls[3], True)):
            with pytest.raises(Unanswered) as told:
                call.result(30)
            assert told.value.ours == ours
            assert told.value.oversized == (end is not None and len(end) > 50_000 and not ours)
        assert links.exchange(PING, 1, 30) == [b"PING"]
        assert (links.used, server.accepted) == (0, 2)


def until(done: Callable[[], Any]) -> None:
    end = time.monotonic() + 30
    while not done():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_an_answer_that_nobody_asked_for_ends_the_connection(make_links: Any) -> None:
    """A surplus reply is nobody's answer."""
    with FakeRedis(lambda command: b"+1\r\n+2\r\n" if command == [b"TWICE"] else b"+mine\r\n") as server:
        links = make_links(server.url)
        assert links.exchange(pack("TWICE"), 1, 30) == [b"1"]
        assert links.exchange(PING, 1, 30) == [b"mine"]
        assert server.accepted == 2


def test_a_new_connection_that_speaks_unasked_answers_nobody() -> None:
    """A new one would do the same: it is an error, not one try after another."""
    with FakeRedis(lambda command: b"+1\r\n") as server:
        link = Link(Address(server.url, None), 5.0)
        server._open[0].sendall(b"+2\r\n")
        assert link.readable(30)
        with pytest.raises(Unanswered, match="nobody asked"):
            link.exchange(PING, 1, 30, 2**20)
        link.close()
        assert server.accepted == 1


@pytest.mark.parametrize("size", [100, 100_000, 5_000_000])
def test_large_questions_and_answers_come_whole(make_links: Any, redis_server: RedisServer, size: int) -> None:
    """However many looks at the socket they take, on the same connection."""
    links = make_links(redis_server.url, limit=2**24)
    for word in (b"x" * size, b"y" * size):
        assert links.exchange(pack_all([("ECHO", word), ("ECHO", b"end")]), 2, 30) == [word, b"end"]
    assert len(links._living) == 1


def test_connections_that_the_server_closed_are_noticed_before_they_are_used(
    make_links: Any, redis_server: RedisServer
) -> None:
    """A call after a restart does not fail for it."""
    with RedisServer() as server:
        links = make_links(server.url)
        assert links.exchange(PING, 1, 5) == [b"PONG"]
        server.restart()
        assert links.exchange(PING, 1, 5) == [b"PONG"]


def test_one_dead_connection_takes_the_idle_ones_with_it(make_links: Any) -> None:
    """So that the retry is on a new one: connections through a dead host die together and in silence."""
    dead, entered, go = threading.Event(), threading.Semaphore(0), threading.Event()

    def answer(command: list[bytes]) -> bytes:
        if command == [b"WAIT"]:
            entered.release()
            go.wait(30)
        return b"" if dead.is_set() and server.accepted <= 3 else b"+OK\r\n"

    with FakeRedis(answer) as server, ThreadPoolExecutor(3) as pool:
        links = make_links(server.url)
        futures = []
        for _ in range(3):  # each once the call before is with the server, or one would be sent with another
            futures.append(pool.submit(links.exchange, pack("WAIT"), 1, 30))
            assert entered.acquire(timeout=30)
        go.set()
        assert [future.result(30) for future in futures] == [[b"OK"]] * 3
        dead.set()
        with pytest.raises(Unanswered):
            links.exchange(PING, 1, 0.05)
        assert links.exchange(PING, 1, 30) == [b"OK"]
        assert server.accepted == 4


def test_a_refused_connection_is_unanswered_at_once(make_links: Any) -> None:
    """The text names the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(Unanswered, match=f"can't connect.*{port}"):
        make_links(f"redis://:se-cret@127.0.0.1:{port}").exchange(PING, 1, 5)


def test_a_server_that_hangs_is_unanswered_within_the_connect_timeout(make_links: Any) -> None:
    """The kernel accepts for a stopped server; the handshake does not end."""
    with RedisServer() as server:
        links = make_links(server.tcp_url, connect_timeout=0.2)
        server.process.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(Unanswered, match="can't connect"):
                links.exchange(PING, 1, 0.1)
            assert time.monotonic() - began < 5
        finally:
            server.process.send_signal(signal.SIGCONT)
        assert links.exchange(PING, 1, 30) == [b"PONG"]


def test_a_name_that_is_none_is_unanswered(make_links: Any) -> None:
    """Errors of any kind while connecting are one kind for the caller."""
    with pytest.raises(Unanswered, match="can't connect"):
        make_links("redis://a..b").exchange(PING, 1, 5)


def test_large_data_gets_more_time() -> None:
    """10 ms per started 100 kB."""
    assert [allowance(size) for size in (0, 1, 100_000, 100_001, 2_000_000)] == [0, 0.01, 0.01, 0.02, 0.2]


def test_closed_links_answer_nobody_and_keep_no_connection(make_links: Any, redis_server: RedisServer) -> None:
    """Also the one that was in use while they were closed."""
    asked, go_on = threading.Event(), threading.Event()

    def answer(command: list[bytes]) -> bytes:
        asked.set()
        assert go_on.wait(30)
        return b"+OK\r\n"

    with FakeRedis(answer) as server, ThreadPoolExecutor(1) as pool:
        links = make_links(server.url)
        running = pool.submit(links.exchange, PING, 1, 30)
        assert asked.wait(30)
        links.close()
        go_on.set()
        assert running.result(30) == [b"OK"]
        server._threads[1].join(30)  # it ends with its connection
        assert not server._threads[1].is_alive()
        with pytest.raises(Unanswered, match="closed") as closed:
            links.exchange(PING, 1, 30)
        assert closed.value.ours


class LatePoller:
    """Of a thread that was starved: the first look ends late, and at the second the answer is there."""

    def __init__(self, late: float, clock: list[float], found: bool) -> None:
        self.late, self.clock, self.found = late, clock, found
        self.looks = 0

    def poll(self, milliseconds: float) -> list[tuple[int, int]]:
        self.looks += 1
        self.clock[0] += milliseconds / 1000 + (self.late if self.looks == 1 else 0)
        return [(0, 1)] if self.looks > 1 and self.found else []


class Given:
    """An address whose connection has a socket already."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock

    def connection(self, connect_timeout: float) -> "Given":
        return self

    def connect(self) -> None:
        pass

    def disconnect(self) -> None:
        pass


@pytest.mark.parametrize(
    ("late", "found", "answered"),
    [(0.2, True, True), (0.2, False, False), (0.01, True, False)],
    ids=["late and there", "late and not there", "in time"],
)
def test_a_deadline_noticed_late_gets_one_more_look(
    monkeypatch: pytest.MonkeyPatch, late: float, found: bool, answered: bool
) -> None:
    """A starved thread is no failure of Redis; a deadline noticed in time is one."""
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    ours, theirs = socket.socketpair()
    with ours, theirs:
        link = Link(Given(ours), 1.0)
        poller = link._poller = LatePoller(late, clock, found)  # type: ignore[assignment]
        theirs.sendall(b"+OK\r\n")
        if answered:
            assert link.receive(100.1) == [b"OK"]
        else:
            with pytest.raises(Unanswered):
                link.receive(100.1)
    assert poller.looks == (1 if late < module.GRACE else 2)
