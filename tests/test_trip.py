"""One question and its answer on a socket."""

import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tiercache.local.trip import trip
from tiercache.remote.resp import Reader

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Our end, which does not block, and the other."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


def answering(theirs: socket.socket, answer: bytes) -> threading.Thread:
    def run() -> None:
        assert theirs.recv(100)
        theirs.sendall(answer)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize("size", [1, 100, 16_384, 40_000])
def test_an_answer_comes_or_its_beginning(pair: Pair, size: int) -> None:
    """Another thread runs meanwhile; what is too long for one look is left for the next."""
    ours, theirs = pair
    answer = bytes(range(256)) * (size // 256 + 1)
    thread = answering(theirs, answer[:size])
    came = trip(ours.fileno(), b"question", 1, 30)
    thread.join()
    assert isinstance(came, bytes)
    assert 0 < len(came) <= 16_384
    ours.setblocking(True)
    while len(came) < size:
        came += ours.recv(65_536)
    assert came == answer[:size]


def asked(pair: Pair, answer: bytes, count: int) -> Any:
    """What a trip gives for an answer that comes at once and whole."""
    thread = answering(pair[1], answer)
    try:
        return trip(pair[0].fileno(), b"question", count, 30)
    finally:
        thread.join()


NUMBER_AND_STRING = b":-42\r\n$5\r\n\r\n$-1\r\n"


@pytest.mark.parametrize(
    ("answer", "replies"),
    [
        (NUMBER_AND_STRING, [-42, b"\r\n$-1"]),
        (b":0\r\n$-1\r\n", [0, None]),
        (b"$0\r\n\r\n", [b""]),
        (b":999999999999999999\r\n:-999999999999999999\r\n", [10**18 - 1, 1 - 10**18]),
        (b"$16000\r\n%b\r\n" % (b"x" * 16_000), [b"x" * 16_000]),
        (b":1\r\n" * 512, [1] * 512),
    ],
    ids=["a number and a string", "no string", "an empty string", "large numbers", "a long string", "many"],
)
def test_numbers_and_strings_are_replies_already(pair: Pair, answer: bytes, replies: list[Any]) -> None:
    """As the reader of RESP2 gives them."""
    read = Reader()
    read.feed(answer)
    assert asked(pair, answer, len(replies)) == [read.gets() for _ in replies] == replies


@pytest.mark.parametrize(
    "answer",
    [
        NUMBER_AND_STRING + b":", NUMBER_AND_STRING + b":1\r\n", b":1\r\n+OK\r\n", b"-ERR no\r\n:1\r\n",
        b"*2\r\n:1\r\n:2\r\n", b":1\r\n:x\r\n", b":1\r\n:\r\n", b":1\r\n:-\r\n", b":1\r\n:1000000000000000000\r\n",
        b":1\r\n$-2\r\n", b":1\r\n$3\r\nabcd\r\n", b":1\r\n$4\r\nabc\r\n", b":1\r\n$999999999999999999\r\nabc\r\n",
        b":1\r\n:1\r:", b":1\n:1\r\n", b"\x00\r\n",
        *[NUMBER_AND_STRING[:n] for n in range(1, len(NUMBER_AND_STRING))],
    ],
)  # fmt: skip
def test_any_other_answer_is_left_to_the_reader(pair: Pair, answer: bytes) -> None:
    """One that is not whole or has too much, other kinds of replies, and what is no RESP2."""
    assert asked(pair, answer, 2) == answer


def test_nothing_is_sent_where_something_is_to_be_read(pair: Pair) -> None:
    """It would be taken for the answer."""
    ours, theirs = pair
    theirs.sendall(b"unasked")
    assert trip(ours.fileno(), b"question", 1, 30) is None
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(100)
    assert ours.recv(100) == b"unasked"


def test_nothing_is_sent_on_a_connection_that_ended(pair: Pair) -> None:
    """Whether the other side closed it or this one."""
    ours, theirs = pair
    theirs.close()
    assert trip(ours.fileno(), b"question", 1, 30) is None
    fd = ours.fileno()
    ours.close()
    assert trip(fd, b"question", 1, 30) is None


@pytest.mark.parametrize("seconds", [0.0, -1.0, 0.01])
def test_an_answer_that_does_not_come_in_time_is_the_number_of_what_was_sent(pair: Pair, seconds: float) -> None:
    """The question is under way."""
    ours, theirs = pair
    assert trip(ours.fileno(), b"question", 1, seconds) == len(b"question")
    assert theirs.recv(100) == b"question"


def test_a_connection_that_ends_in_between_is_for_the_next_look_to_see(pair: Pair) -> None:
    """No answer is no bytes."""
    ours, theirs = pair

    def run() -> None:
        theirs.recv(100)
        theirs.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert trip(ours.fileno(), b"question", 1, 30) == len(b"question")
    thread.join()
    assert ours.recv(100) == b""


def test_what_does_not_fit_is_not_sent(pair: Pair) -> None:
    """Nobody waits for the answer to half a question."""
    ours, theirs = pair
    question = b"x" * 10_000_000
    sent = trip(ours.fileno(), question, 1, 30)
    assert isinstance(sent, int)
    assert 0 < sent < len(question)
    assert trip(ours.fileno(), b"more", 1, 30) == 0
    theirs.setblocking(False)
    assert theirs.recv(10) == b"x" * 10


def test_a_signal_ends_the_wait(pair: Pair) -> None:
    """Its handler runs at once: whoever presses Ctrl-C does not wait for an answer."""
    ours, _ = pair
    heard: list[Any] = []
    before = signal.signal(signal.SIGALRM, lambda *given: heard.append(given))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert trip(ours.fileno(), b"question", 1, 30) == len(b"question")
        assert len(heard) == 1
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    "given",
    [("x", b"q", 1, 1), (1, None, 1, 1), (1, "q", 1, 1), (1, b"q", "x", 1), (1, b"q", 1, "x"), (1, b"q", 1, None)],
)
def test_what_is_no_question_is_a_type_error(given: Any) -> None:
    """Before anything is sent."""
    with pytest.raises(TypeError):
        trip(*given)


def test_a_time_without_end_is_a_long_one(pair: Pair) -> None:
    """It is no number that the system would take for another."""
    ours, theirs = pair
    thread = answering(theirs, b"answer")
    assert trip(ours.fileno(), b"question", 1, float("inf")) == b"answer"
    thread.join()
