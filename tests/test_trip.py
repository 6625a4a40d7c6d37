"""One question and its answer on a socket."""

import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tiercache.local.trip import trip

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
    came = trip(ours.fileno(), b"question", 30)
    thread.join()
    assert isinstance(came, bytes)
    assert 0 < len(came) <= 16_384
    ours.setblocking(True)
    while len(came) < size:
        came += ours.recv(65_536)
    assert came == answer[:size]


def test_nothing_is_sent_where_something_is_to_be_read(pair: Pair) -> None:
    """It would be taken for the answer."""
    ours, theirs = pair
    theirs.sendall(b"unasked")
    assert trip(ours.fileno(), b"question", 30) is None
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(100)
    assert ours.recv(100) == b"unasked"


def test_nothing_is_sent_on_a_connection_that_ended(pair: Pair) -> None:
    """Whether the other side closed it or this one."""
    ours, theirs = pair
    theirs.close()
    assert trip(ours.fileno(), b"question", 30) is None
    fd = ours.fileno()
    ours.close()
    assert trip(fd, b"question", 30) is None


@pytest.mark.parametrize("seconds", [0.0, -1.0, 0.01])
def test_an_answer_that_does_not_come_in_time_is_the_number_of_what_was_sent(pair: Pair, seconds: float) -> None:
    """The question is under way."""
    ours, theirs = pair
    assert trip(ours.fileno(), b"question", seconds) == len(b"question")
    assert theirs.recv(100) == b"question"


def test_a_connection_that_ends_in_between_is_for_the_next_look_to_see(pair: Pair) -> None:
    """No answer is no bytes."""
    ours, theirs = pair

    def run() -> None:
        theirs.recv(100)
        theirs.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert trip(ours.fileno(), b"question", 30) == len(b"question")
    thread.join()
    assert ours.recv(100) == b""


def test_what_does_not_fit_is_not_sent(pair: Pair) -> None:
    """Nobody waits for the answer to half a question."""
    ours, theirs = pair
    question = b"x" * 10_000_000
    sent = trip(ours.fileno(), question, 30)
    assert isinstance(sent, int)
    assert 0 < sent < len(question)
    assert trip(ours.fileno(), b"more", 30) == 0
    theirs.setblocking(False)
    assert theirs.recv(10) == b"x" * 10


def test_a_signal_ends_the_wait(pair: Pair) -> None:
    """Its handler runs at once: whoever presses Ctrl-C does not wait for an answer."""
    ours, _ = pair
    heard: list[Any] = []
    before = signal.signal(signal.SIGALRM, lambda *given: heard.append(given))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert trip(ours.fileno(), b"question", 30) == len(b"question")
        assert len(heard) == 1
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("given", [("x", b"q", 1), (1, None, 1), (1, "q", 1), (1, b"q", "x"), (1, b"q", None)])
def test_what_is_no_question_is_a_type_error(given: Any) -> None:
    """Before anything is sent."""
    with pytest.raises(TypeError):
        trip(*given)


def test_a_time_without_end_is_a_long_one(pair: Pair) -> None:
    """It is no number that the system would take for another."""
    ours, theirs = pair
    thread = answering(theirs, b"answer")
    assert trip(ours.fileno(), b"question", float("inf")) == b"answer"
    thread.join()
