"""A flight: who follows it is woken once, and its last caller cancels it."""

import asyncio
import gc
import sys
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tiercache.local.flight import Flight
from tiercache.local.table import Table


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def flight(table: Table) -> Flight:
    return table.probe("k", 0.0)[1]  # type: ignore[no-any-return]


class Gate:
    """A waker that a thread can wait at."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lock.acquire()

    def __call__(self) -> None:
        self.lock.release()

    def passed(self) -> bool:
        return self.lock.acquire(timeout=20)


def raiser(error: BaseException) -> Callable[[], object]:
    def wake() -> None:
        raise error

    return wake


def test_followers_of_one_kind_share_a_waker(table: Table, flight: Flight) -> None:
    """The first waker of the threads, or of a loop, serves all who come after; each is called once."""
    calls: list[str] = []
    loop = object()
    first, second, third = (partial(calls.append, name) for name in ("first", "second", "third"))
    assert flight.follow(None, first) is first
    assert flight.follow(None, second) is first
    assert flight.follow(loop, third) is third
    assert table.settle(flight, "outcome")
    assert sorted(calls) == ["first", "third"]


def test_who_comes_too_late_gets_the_outcome(table: Table, flight: Flight) -> None:
    """A settled flight gives no waker: its outcome is there."""
    table.settle(flight, "outcome")
    assert flight.follow(None, lambda: None) is None
    assert (flight.settled, flight.outcome) == (True, "outcome")


def test_a_flight_is_settled_once(table: Table, flight: Flight) -> None:
    """The first outcome stays, and wakers are not called again."""
    calls: list[int] = []
    flight.follow(None, lambda: calls.append(1))
    assert table.settle(flight, None)
    assert not table.settle(flight, "late")
    assert (calls, flight.outcome) == ([1], None)


def test_a_cut_flight_wakes_its_followers(table: Table, flight: Flight) -> None:
    """Cutting a flight loose takes nothing from those who follow it already."""
    calls: list[int] = []
    flight.follow(None, lambda: calls.append(1))
    table.cut("k")
    assert flight.cut
    assert calls == []
    assert table.settle(flight, "outcome")
    assert calls == [1]


def test_the_last_one_to_leave_cancels(table: Table, flight: Flight) -> None:
    """Leaving cancels only when nobody is left and nothing is settled."""
    calls: list[int] = []
    flight.cancel = lambda: calls.append(1)
    flight.follow(None, lambda: None)
    flight.follow(None, lambda: None)
    flight.leave()
    assert calls == []
    flight.leave()
    assert calls == [1]
    flight.follow(None, lambda: None)
    table.settle(flight, None)
    flight.leave()
    assert calls == [1]


def test_a_load_without_cancel_survives_its_callers(flight: Flight) -> None:
    """Where nothing can be cancelled, leaving does nothing."""
    flight.follow(None, lambda: None)
    flight.leave()
    assert not flight.settled


def test_cancelling_on_a_closed_loop_is_silent(flight: Flight) -> None:
    """A caller that leaves does not hear that the loop of the load is closed."""
    loop = asyncio.new_event_loop()
    loop.close()
    flight.cancel = lambda: loop.call_soon_threadsafe(print)
    flight.follow(None, lambda: None)
    flight.leave()


def test_a_follower_that_can_not_be_registered_is_not_counted(flight: Flight) -> None:
    """An unhashable follower raises, and the next one to leave is still the last."""
    calls: list[int] = []
    flight.cancel = lambda: calls.append(1)
    with pytest.raises(TypeError):
        flight.follow([], lambda: None)
    flight.follow(None, lambda: None)
    flight.leave()
    assert calls == [1]


def test_a_waker_that_raises_is_dropped_and_the_rest_are_woken(table: Table, flight: Flight) -> None:
    """A closed loop takes nothing from the others; it is counted."""
    calls: list[int] = []
    for number in range(3):
        flight.follow(number, lambda number=number: calls.append(number))
        flight.follow(str(number), raiser(RuntimeError("Event loop is closed")))
    assert table.settle(flight, None)
    assert sorted(calls) == [0, 1, 2]
    assert table.stats()["dead_wakers"] == 3


def test_an_interrupted_waker_is_called_again(table: Table, flight: Flight) -> None:
    """Ctrl-C in the middle of waking is raised, after everybody was woken, the interrupted one included."""
    calls: list[Any] = []

    def interrupted() -> None:
        if "interrupted" not in calls:
            calls.append("interrupted")
            raise KeyboardInterrupt
        calls.append("again")

    flight.follow(1, lambda: calls.append(1))
    flight.follow(2, interrupted)
    flight.follow(3, lambda: calls.append(3))
    with pytest.raises(KeyboardInterrupt):
        table.settle(flight, "outcome")
    assert flight.outcome == "outcome"
    assert sorted(map(str, calls)) == ["1", "3", "again", "interrupted"]


def test_waking_ends_even_if_every_waker_is_interrupted(table: Table, flight: Flight) -> None:
    """A waker that can't be called at all is tried twice at most."""
    for number in range(3):
        flight.follow(number, raiser(SystemExit()))
    with pytest.raises(SystemExit):
        table.settle(flight, None)
    assert flight.settled


def test_a_waker_may_use_the_table(table: Table, flight: Flight) -> None:
    """Wakers run outside every lock: one may probe, and lead the next flight."""
    seen: list[Any] = []
    flight.follow(None, lambda: seen.append(table.probe("k", 0.0)))
    table.settle(flight, None)
    assert seen[0][1] is not flight
    assert table.settle(seen[0][1], None)


def test_a_settled_flight_holds_only_its_outcome(table: Table, flight: Flight) -> None:
    """Wakers and cancel are dropped with the settlement: they refer to loops and tasks."""

    class Waker:
        def __call__(self) -> None:
            pass

    waker, cancel, outcome = Waker(), Waker(), Waker()
    watches = [weakref.ref(each) for each in (waker, cancel, outcome)]
    flight.follow(None, waker)
    flight.cancel = cancel
    table.settle(flight, outcome)
    del waker, cancel, outcome
    assert [watch() is not None for watch in watches] == [False, False, True]


def test_an_abandoned_flight_is_collected() -> None:
    """A cycle of flight, waker and task, whose owner forgot it, is garbage with its table."""
    mark = Gate()
    watch = weakref.ref(mark)
    table = Table()
    flight = table.probe("k", 0.0)[1]
    flight.cancel = partial(print, table, flight, mark)
    flight.follow(None, partial(print, table, flight))
    del table, flight, mark
    gc.collect()
    assert watch() is None


def test_a_flight_shows_its_state(table: Table) -> None:
    """The repr tells the key and whether it runs, was cut or is settled."""
    flight = table.probe("k", 0.0)[1]
    assert repr(flight) == "<Flight 'k' running>"
    table.cut("k")
    assert repr(flight) == "<Flight 'k' cut>"
    table.settle(flight, None)
    assert repr(flight) == "<Flight 'k' settled>"


def test_what_a_flight_is_can_not_be_changed(flight: Flight) -> None:
    """Only where it runs and how it is cancelled is for the ports to set."""
    for name in ("key", "mode", "early", "seen", "cut", "settled", "outcome"):
        with pytest.raises(AttributeError):
            setattr(flight, name, None)
    flight.on_loop = True
    assert flight.on_loop is True


@pytest.mark.parametrize("kinds", [1, 5])
def test_nobody_who_follows_while_it_is_settled_waits_for_ever(kinds: int) -> None:
    """Followers race the settlement, many times: each gets a waker that is called, or the outcome."""
    rounds, followers = 400, 5
    table = Table()
    flights: list[Flight] = []
    start = [threading.Barrier(followers + 1, timeout=30) for _ in range(rounds)]
    failures: list[BaseException] = []

    def follow(number: int) -> None:
        try:
            for turn in range(rounds):
                start[turn].wait()
                flight = flights[turn]
                gate = flight.follow(number % kinds, Gate())
                if gate is not None:
                    assert gate.passed(), "nobody woke a follower"
                    gate()
                    flight.leave()
                assert flight.outcome == turn
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=follow, args=(number,)) for number in range(followers)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for turn in range(rounds):
            flights.append(table.probe("k", 0.0)[1])
            start[turn].wait()
            table.settle(flights[turn], turn)
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert failures == []
