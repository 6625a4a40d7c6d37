"""What the threads that wait for one flight go through."""

import _thread
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from tiercache.local.turnstile import Turnstile

LONG = 30.0


@contextmanager
def handling(number: signal.Signals, handler: Any) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def test_all_who_wait_go_through_once_it_is_called() -> None:
    """Also who comes later."""
    turnstile = Turnstile()
    with ThreadPoolExecutor(50) as pool:
        waits = [pool.submit(turnstile.wait, LONG) for _ in range(50)]
        assert turnstile.wait(0.01) is False
        assert not any(each.done() for each in waits)
        turnstile()
        assert [each.result(LONG) for each in waits] == [True] * 50
    assert turnstile.wait(0) is True


@pytest.mark.parametrize("seconds", [0.0, -1.0, -math.inf, 1e-9])
def test_no_time_is_a_look(seconds: float) -> None:
    turnstile = Turnstile()
    assert turnstile.wait(seconds) is False
    turnstile()
    assert turnstile.wait(seconds) is True


def test_for_ever_is_a_long_time() -> None:
    turnstile = Turnstile()
    threading.Timer(0.05, turnstile).start()
    assert turnstile.wait(math.inf) is True


def test_to_be_called_twice_is_to_be_called_once() -> None:
    turnstile = Turnstile()
    turnstile()
    turnstile()
    assert [turnstile.wait(0) for _ in range(5)] == [True] * 5


def test_an_interrupt_ends_the_wait_of_one() -> None:
    """The others go on waiting, and go through when their time comes."""
    turnstile = Turnstile()

    def interrupt(*_: object) -> None:
        raise InterruptedError("now")

    with ThreadPoolExecutor(5) as pool, handling(signal.SIGUSR1, interrupt):
        waits = [pool.submit(turnstile.wait, LONG) for _ in range(5)]
        threading.Timer(0.05, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1)).start()
        with pytest.raises(InterruptedError, match="now"):
            turnstile.wait(LONG)
        assert not any(each.done() for each in waits)
        turnstile()
        assert [each.result(LONG) for each in waits] == [True] * 5


def test_a_signal_that_ends_nothing_does_not_prolong_the_wait() -> None:
    """It goes on for what is left."""
    turnstile, came = Turnstile(), []
    with handling(signal.SIGALRM, lambda *_: came.append(1)):
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        began = time.monotonic()
        try:
            assert turnstile.wait(0.2) is False
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    assert 0.19 < time.monotonic() - began < LONG
    assert len(came) > 1


def test_whoever_waits_holds_nobody_up() -> None:
    """Neither the interpreter's lock, nor itself alive."""
    turnstile = Turnstile()
    before = sys.getrefcount(turnstile)
    passed = _thread.allocate_lock()
    passed.acquire()

    def wait() -> None:
        assert turnstile.wait(LONG)
        passed.release()

    _thread.start_new_thread(wait, ())
    turnstile()
    assert passed.acquire(timeout=LONG)
    end = time.monotonic() + LONG
    while sys.getrefcount(turnstile) > before and time.monotonic() < end:
        time.sleep(0.001)
    # One more is the closure's, which the thread may still hold at its very end.
    assert sys.getrefcount(turnstile) <= before + 1
