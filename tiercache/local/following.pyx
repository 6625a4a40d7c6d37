"""What is left of most calls of a herd: to wait for somebody's flight.

A task that goes on runs through every coroutine between its own and the future that it waited for. So the flow does
not wait in such a call: it returns a `Following`, which ends its coroutines, and what waits is the one below.
"""
cimport cython

from tiercache.local.flight cimport Flight
from tiercache.local.outcome cimport Outcome

from tiercache.local.outcome import AGAIN as _AGAIN

cdef Outcome AGAIN = _AGAIN


@cython.final
cdef class Following:
    """A call that has nothing more to do than to wait for a flight at a port, up to some seconds.

    `rest()` makes the coroutine that finds what the call gets if that is not plainly the value of the flight's end.
    """

    cdef Flight flight
    cdef object port, seconds, rest

    def __init__(self, Flight flight not None, port, seconds, rest):
        self.flight, self.port, self.seconds, self.rest = flight, port, seconds, rest


async def value_of(call):
    """The value of the outcome that a call of the flow comes to, also as a `Following`; or its error, raised."""
    cdef Following following
    cdef Outcome outcome
    found = await call()
    while type(found) is Following:
        following = found
        waiting = following.port.follow(following.flight, following.seconds)
        if waiting is not None:
            try:
                await waiting
            finally:
                following.flight.leave()
        outcome = following.flight.outcome
        if outcome is not None and outcome is not AGAIN and outcome.error is None:
            return outcome.value
        found = await following.rest()
    outcome = found
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


async def outcome_of(call):
    """The outcome itself, that a call of the flow comes to."""
    found = await call()
    while type(found) is Following:
        found = await (<Following>found).rest()
    return found
