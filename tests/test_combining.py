"""Threads share a few connections: who gets one sends for all who wait, and whatever happens nobody is forgotten."""

import contextlib
import gc
import random
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from tiercache.local.combining import CombiningPool
from tiercache.remote.links import Unanswered

FEW, MOST, LONG = 2, 8, 10.0


class Connection:
    """Answers each word of what it is sent with the same word, when it is let."""

    def __init__(self, pool: "Pool") -> None:
        self.pool = pool
        self.demoted = self.closed = False

    def exchange(self, packed: bytes, replies: int, seconds: float, limit: int) -> list[Any] | None:
        words = packed.split()
        assert len(words) == replies
        self.pool.sent.append(words)
        return self.pool.answer(self, words, seconds)

    def close(self) -> None:
        self.closed = True
        self.pool.living.remove(self)


class Pool(CombiningPool):
    """Connections whose answers a test gives; `gate` keeps them from answering."""

    def __init__(self, most: int = MOST) -> None:
        super().__init__(Unanswered, 1000, most)
        self.sent: list[list[bytes]] = []
        self.living: list[Connection] = []
        self.made = 0
        self.gate = threading.Semaphore(0)
        self.failures: list[BaseException | None] = []  # of the writes, in turn

    def _make(self) -> Connection:
        self.made += 1
        self.living.append(Connection(self))
        return self.living[-1]

    def answer(self, connection: Connection, words: list[bytes], seconds: float) -> list[Any] | None:
        assert self.gate.acquire(timeout=LONG)
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        return list(words)


class Threads:
    """A thread for each call; one that waits for ever keeps nobody from ending."""

    def submit(self, call: Callable[..., Any], *args: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(call(*args))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return future


@pytest.fixture
def threads() -> Threads:
    return Threads()


def ask(pool: Pool, word: bytes, timeout: float = LONG) -> list[Any]:
    """Two words, so that nobody's answer passes for another's."""
    return pool.exchange(b"%b %b/2 " % (word, word), 2, timeout)


def busy(pool: Pool, threads: Threads, many: int = FEW) -> list[Future[list[Any]]]:
    """As many calls as connections are in use without a wait, each sent alone and not answered yet."""
    first = []
    for number in range(many):
        first.append(threads.submit(ask, pool, b"first%d" % number))
        until(lambda: len(pool.sent) == len(first))
    return first


def in_line(pool: Pool, threads: Threads, many: int, timeout: float = LONG) -> list[Future[list[Any]]]:
    """Calls that wait, in their order."""
    calls = []
    for number in range(many):
        calls.append(threads.submit(ask, pool, b"call%d" % number, timeout))
        until(lambda: pool.waiting == len(calls))
    return calls


def until(done: Callable[[], Any]) -> None:
    end = time.monotonic() + LONG
    while not done():
        assert time.monotonic() < end
        time.sleep(0.0005)


def words(number: int) -> list[bytes]:
    return [b"call%d" % number, b"call%d/2" % number]


def test_who_gets_a_connection_sends_for_all_who_wait(threads: Threads) -> None:
    """In one write, in their order, and each gets its own answer."""
    pool = Pool(most=FEW)
    first, calls = busy(pool, threads), in_line(pool, threads, 5)
    pool.gate.release()
    until(lambda: len(pool.sent) == 3)
    pool.gate.release(2)
    assert [call.result(LONG) for call in calls] == [words(number) for number in range(5)]
    assert [call.result(LONG)[0] for call in first] == [b"first0", b"first1"]
    assert pool.sent[2:] == [[word for number in range(5) for word in words(number)]]
    assert (pool.used, pool.made, pool.waiting) == (0, 2, 0)


def test_a_write_has_its_bounds(threads: Threads) -> None:
    """32 calls, and 64 kB where it is more than one call's: a large one keeps few waiting."""
    pool = Pool(most=1)
    first, calls = busy(pool, threads, 1), in_line(pool, threads, 35)
    pool.gate.release(40)
    assert [call.result(LONG) for call in [*calls, *first]][:35] == [words(number) for number in range(35)]
    assert [len(sent) // 2 for sent in pool.sent] == [1, 32, 3]

    pool = Pool(most=1)
    first = busy(pool, threads, 1)
    large = [threads.submit(pool.exchange, b"x" * 40_000, 1, LONG) for _ in range(2)]
    until(lambda: pool.waiting == 2)
    pool.gate.release(3)
    assert [len(call.result(LONG)[0]) for call in large] == [40_000, 40_000]
    assert [len(sent) for sent in pool.sent] == [2, 1, 1]


def test_who_waited_long_takes_a_connection_of_its_own(threads: Threads) -> None:
    """So neither a slow network nor large values keep all waiting for two; but there are never more than may be."""
    pool = Pool(most=4)
    first, calls = busy(pool, threads, 4), in_line(pool, threads, 2)
    assert (pool.used, pool.made) == (4, 4)
    pool.gate.release(6)
    assert [call.result(LONG) for call in calls] == [words(0), words(1)]
    assert [len(call.result(LONG)) for call in first] == [2] * 4
    assert (pool.used, pool.made) == (0, 4)


def after_a_short_trip() -> Pool:
    """A pool whose one connection has just answered within half a millisecond."""
    for _ in range(200):  # the machine may be busy
        pool = Pool()
        pool.gate.release()
        ask(pool, b"short")
        if pool.few == 1:
            return pool
    raise AssertionError("no trip is short")


def test_while_trips_are_short_one_connection_serves_all(threads: Threads) -> None:
    """Whoever finds it in use waits for it, and is sent with the others."""
    for _ in range(200):  # who waits does so for two milliseconds, in which all have to come
        pool = after_a_short_trip()
        first, calls = threads.submit(ask, pool, b"first"), []
        until(lambda: len(pool.sent) == 2)  # noqa: B023
        calls = [threads.submit(ask, pool, b"call%d" % number) for number in range(2)]
        until(lambda: pool.waiting == 2 or pool.made > 1)  # noqa: B023
        pool.gate.release(3)
        assert [sorted(call.result(LONG)) for call in calls] == [words(0), words(1)]
        assert len(first.result(LONG)) == 2
        if pool.made == 1 and len(pool.sent) == 3:
            return
    raise AssertionError("they were never sent together")


def test_once_a_trip_is_long_two_connections_are_in_use(threads: Threads) -> None:
    """Who waited long takes the second one, and from then on nobody waits for it."""
    pool = after_a_short_trip()
    first = threads.submit(ask, pool, b"first")
    until(lambda: len(pool.sent) == 2)
    second = threads.submit(ask, pool, b"second")
    until(lambda: len(pool.sent) == 3)
    time.sleep(0.001)
    pool.gate.release(2)
    assert [len(call.result(LONG)) for call in (first, second)] == [2, 2]
    assert (pool.few, pool.made) == (FEW, 2)


def test_nobody_waits_for_a_trip_that_is_longer_than_others(threads: Threads) -> None:
    """Say of a large value: small ones beside it take another connection at once, one after another."""
    pool, patience, many = after_a_short_trip(), 0.002, 200
    ended = threading.Event()

    def answer(connection: Connection, said: list[bytes], seconds: float) -> list[Any]:
        assert said[0] != b"large" or ended.wait(LONG)
        return list(said)

    pool.answer = answer  # type: ignore[method-assign]
    first = threads.submit(ask, pool, b"large")
    until(lambda: len(pool.sent) == 2)
    time.sleep(0.001)
    began = time.monotonic()
    for number in range(many):
        assert ask(pool, b"call%d" % number) == words(number)
    assert time.monotonic() - began < many * patience, "each waited in line"
    ended.set()
    assert first.result(LONG)[0] == b"large"
    assert pool.made == 2


def test_the_longest_patience_counts(threads: Threads) -> None:
    """A call whose budget is nearly spent does not end those that it is sent with."""
    pool, seen = Pool(most=1), []

    def answer(connection: Connection, said: list[bytes], seconds: float) -> list[Any]:
        seen.append(seconds)
        assert pool.gate.acquire(timeout=LONG)
        return list(said)

    pool.answer = answer  # type: ignore[method-assign]
    first = busy(pool, threads, 1)
    short = in_line(pool, threads, 1, 8.0)
    long = threads.submit(ask, pool, b"long", 9.0)
    until(lambda: pool.waiting == 2)
    pool.gate.release(2)
    assert [len(call.result(LONG)) for call in [*first, *short, long]] == [2, 2, 2]
    assert seen == [LONG, 9.0]


def test_who_finds_no_place_in_time_is_told_and_leaves_the_line(threads: Threads) -> None:
    """Which is no fault of Redis."""
    pool = Pool(most=1)
    first = busy(pool, threads, 1)
    for seconds in (0.0, -1.0, 0.0005, 0.01):
        with pytest.raises(Unanswered, match="busy") as told:
            ask(pool, b"late", seconds)
        assert told.value.ours
    assert pool.waiting == 0
    pool.gate.release()
    assert first[0].result(LONG)
    assert len(pool.sent) == 1


@pytest.mark.parametrize("came", range(7))
@pytest.mark.parametrize("oversized", [False, True])
def test_a_failure_is_the_first_ones_whom_it_kept_waiting(threads: Threads, came: int, oversized: bool) -> None:
    """Answers that came before it are kept; to the others it says nothing of Redis that another does not say."""
    pool = Pool(most=1)
    first, calls = busy(pool, threads, 1), in_line(pool, threads, 3)
    whole = [word for number in range(3) for word in words(number)]
    pool.failures = [None, Unanswered("lost", oversized=oversized, came=whole[:came])]
    pool.gate.release(2)
    told: list[tuple[bool, bool]] = []
    for number, call in enumerate(calls):
        if number < came // 2:
            assert call.result(LONG) == words(number)
        else:
            with pytest.raises(Unanswered, match="lost") as error:
                call.result(LONG)
            told.append((error.value.oversized, error.value.ours))
    assert told == [(oversized, False), (False, True), (False, True)][: len(told)]
    assert first[0].result(LONG)
    assert (pool.used, pool.living) == (0, [])  # a connection with a half-read reply is never used again
    pool.gate.release()
    assert ask(pool, b"next") == [b"next", b"next/2"]


def test_one_dead_connection_takes_the_idle_ones_with_it(threads: Threads) -> None:
    """Connections through a dead host die together and in silence; a demoted server's are as useless."""
    pool = Pool()
    calls = busy(pool, threads)
    pool.gate.release(2)
    assert [len(call.result(LONG)) for call in calls] == [2, 2]
    assert len(pool.living) == 2
    pool.failures = [Unanswered("lost")]
    pool.gate.release(2)
    with pytest.raises(Unanswered, match="lost"):
        ask(pool, b"k")
    assert pool.living == []
    assert ask(pool, b"k")
    pool.living[0].demoted = True
    pool.gate.release()
    assert ask(pool, b"k")
    assert (pool.living, pool.used) == ([], 0)


def test_a_connection_that_ended_unused_is_made_again_for_the_same_calls(threads: Threads) -> None:
    """Nothing was sent, so nothing is told."""
    pool = Pool(most=1)
    first, calls = busy(pool, threads, 1), in_line(pool, threads, 2)
    answers = iter([None, [b"1", b"2", b"3", b"4"]])
    pool.answer = lambda *_: next(answers)  # type: ignore[method-assign]
    pool.gate.release()
    assert [call.result(LONG) for call in [*first, *calls]][1:] == [[b"1", b"2"], [b"3", b"4"]]
    assert pool.made == 2
    assert pool.sent[1] == pool.sent[2]


def test_who_can_not_connect_leaves_its_place_to_the_next(threads: Threads) -> None:
    pool = Pool(most=1)
    first, calls = busy(pool, threads, 1), in_line(pool, threads, 2)
    make, refused = pool._make, [Unanswered("can't connect")]

    def fail() -> Connection:
        if refused:
            raise refused.pop()
        return make()

    pool._make = fail  # type: ignore[method-assign]
    pool.failures = [Unanswered("lost")]
    pool.gate.release(2)
    for call, why in zip([*first, calls[0]], ["lost", "connect"], strict=True):
        with pytest.raises(Unanswered, match=why) as told:
            call.result(LONG)
        assert not told.value.ours
    assert calls[1].result(LONG) == words(1)
    assert (pool.used, len(pool.living)) == (0, 1)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, ValueError])
def test_an_interrupt_of_who_sends_is_its_own(threads: Threads, interrupt: type[BaseException]) -> None:
    """Those whose calls it sent are told, and may ask again; the next in line goes on."""
    pool = Pool(most=1)
    first, calls = busy(pool, threads, 1), in_line(pool, threads, 3)
    pool.failures = [None, interrupt("here")]
    pool.gate.release(2)
    with pytest.raises(interrupt, match="here"):
        calls[0].result(LONG)
    for call in calls[1:]:
        with pytest.raises(Unanswered, match="interrupted") as told:
            call.result(LONG)
        assert told.value.ours
    assert first[0].result(LONG)
    assert (pool.used, pool.living) == (0, [])
    pool.gate.release()
    assert ask(pool, b"next")


def test_closing_tells_who_waits_and_lets_who_is_answered_end(threads: Threads) -> None:
    pool = Pool(most=1)
    first, calls = busy(pool, threads, 1), in_line(pool, threads, 2)
    pool.close()
    for call in [*calls, threads.submit(ask, pool, b"later")]:
        with pytest.raises(Unanswered, match="closed") as told:
            call.result(LONG)
        assert told.value.ours
    pool.gate.release()
    assert first[0].result(LONG) == [b"first0", b"first0/2"]
    assert (pool.used, pool.living) == (0, [])


def test_a_child_begins_with_none(threads: Threads) -> None:
    pool = Pool(most=1)
    first = busy(pool, threads, 1)
    pool.forget()
    pool.gate.release(2)
    assert ask(pool, b"k")
    assert pool.made == 2
    assert first[0].result(LONG)


def test_nothing_is_held_when_it_is_over(threads: Threads) -> None:
    """Neither answers nor errors outlive their calls."""

    class Answer(str):
        __slots__ = ("__weakref__",)

    pool = Pool()
    answers: list[weakref.ref[Answer]] = []

    def answer(connection: Connection, said: list[bytes], seconds: float) -> list[Any]:
        made = [Answer("x") for _ in said]
        answers.extend(map(weakref.ref, made))
        if len(answers) > 2:
            raise Unanswered("lost", came=made)
        return made

    pool.answer = answer  # type: ignore[method-assign]
    gc.disable()
    try:
        assert ask(pool, b"k") == ["x", "x"]
        with contextlib.suppress(Unanswered):
            pool.exchange(b"1 2 3", 3, LONG)
        assert [each() for each in answers] == [None] * 5
    finally:
        gc.enable()


def test_who_is_interrupted_keeps_nobody_that_was_sent_with_it(threads: Threads) -> None:
    """The main thread stands between two others, and leaves while Redis is asked for all three."""
    pool = Pool(most=1)
    first, before = busy(pool, threads, 1), in_line(pool, threads, 2)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def meanwhile() -> Any:
        until(lambda: pool.waiting == 3)
        after = threads.submit(ask, pool, b"call3")
        until(lambda: pool.waiting == 4)
        pool.gate.release()
        until(lambda: len(pool.sent) == 2)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        return after

    handler = signal.signal(signal.SIGUSR1, interrupt)
    try:
        others = threads.submit(meanwhile)
        with pytest.raises(KeyboardInterrupt):
            ask(pool, b"main")
    finally:
        signal.signal(signal.SIGUSR1, handler)
    pool.gate.release(2)
    assert [call.result(LONG) for call in before] == [words(0), words(1)]
    assert others.result(LONG).result(LONG) == words(3)
    assert len(first[0].result(LONG)) == 2
    assert (pool.used, pool.waiting, len(pool.sent)) == (0, 0, 2)


def test_interrupts_at_any_moment_lose_neither_a_connection_nor_a_turn() -> None:
    """The main thread is interrupted all the time while it waits, sends, or has just been given its turn."""
    pool, chance = Pool(most=FEW), random.Random(7)

    def answer(connection: Connection, said: list[bytes], seconds: float) -> list[Any]:
        time.sleep(chance.random() * 0.001)  # half of the trips are short
        return list(said)

    pool.answer = answer  # type: ignore[method-assign]
    ended, others, interrupts, answered = threading.Event(), [], 0, 0
    said: set[tuple[bool, str]] = set()

    def work(number: int) -> None:
        while not ended.is_set():
            word = b"%d" % number
            try:
                assert ask(pool, word) == [word, word + b"/2"]
            except Unanswered as told:
                said.add((told.ours, str(told)))

    def compute() -> None:  # who has been given its turn waits for the interpreter's lock, too
        while not ended.is_set():
            pass

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before, interval = signal.signal(signal.SIGALRM, interrupt), sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        others = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(6)]
        others.append(threading.Thread(target=compute, daemon=True))
        for thread in others:
            thread.start()
        end = time.monotonic() + LONG
        while (interrupts < 1000 or not answered) and time.monotonic() < end:
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.random() * 0.002 + 1e-5)
                while True:
                    assert ask(pool, b"main") == [b"main", b"main/2"]
                    answered += 1
            except KeyboardInterrupt:
                interrupts += 1
            except Unanswered as told:
                said.add((told.ours, str(told)))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        sys.setswitchinterval(interval)
        ended.set()
        for thread in others:
            thread.join(end + LONG - time.monotonic())
    assert interrupts >= 1000
    assert said <= {(True, "a call in whose write it was sent was interrupted")}
    assert not any(thread.is_alive() for thread in others), "somebody waits for ever"
    assert (pool.used, pool.waiting) == (0, 0)
    assert len(pool.living) <= FEW
    assert ask(pool, b"last") == [b"last", b"last/2"]
