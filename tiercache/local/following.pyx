"""What is left of most calls of a herd: to wait for somebody's flight.

A task that goes on runs through every coroutine between its own and the future that it waited for. So the flow does
not wait in such a call: it returns a `Following`, which ends its coroutines, and what waits is the one below.
"""
cimport cython

from tiercache.local.flight cimport Flight
from tiercache.local.outcome cimport Outcome

from tiercache.local.outcome import AGAIN as _AGAIN
from tiercache.local.run import run

cdef Outcome AGAIN = _AGAIN


@cython.final
cdef class Following:
    """A call that has nothing more to do than to wait for a flight at a port, up to some seconds.

    `rest(port, flight, *more)` makes the coroutine that finds what the call gets, if that is not plainly the value of
    the flight's end.
    """

    cdef Flight flight
    cdef object port, rest, more
    cdef double seconds

    def __init__(self, Flight flight not None, port, double seconds, rest, *more):
        self.flight, self.port, self.seconds, self.rest, self.more = flight, port, seconds, rest, more

    cdef Outcome plain(self):
        # What nobody needs to think about any more.
        cdef Outcome outcome = self.flight.outcome
        return outcome if outcome is not None and outcome is not AGAIN and outcome.error is None else None

    cdef remains(self):
        return self.rest(self.port, self.flight, *self.more)


async def value_of(call, *words):
    """The value of the outcome that a call of the flow comes to, also as a `Following`; or its error, raised."""
    cdef Following following
    cdef Outcome outcome
    found = await call(*words)
    call = words = None  # to be freed now, and not while the others wait for their turn
    while type(found) is Following:
        following = found
        waiting = following.port.follow(following.flight, following.seconds)
        if waiting is not None:
            try:
                await waiting
            finally:
                following.flight.leave()
        outcome = following.plain()
        if outcome is not None:
            return outcome.value
        found = await following.remains()
    outcome = found
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


async def outcome_of(call, *words):
    """The outcome itself, that a call of the flow comes to."""
    found = await call(*words)
    while type(found) is Following:
        found = await (<Following>found).remains()
    return found


def outcome_in_thread(found):
    """The outcome that a call of the flow comes to in a thread, which waits here."""
    cdef Following following
    cdef Outcome outcome
    while type(found) is Following:
        following = found
        waiting = following.port.follow(following.flight, following.seconds)
        if waiting is not None:
            try:
                waiting.wait(following.seconds)
            finally:
                following.flight.leave()
        outcome = following.plain()
        if outcome is not None:
            return outcome.shared().followed()
        found = run(following.remains())
    return found
