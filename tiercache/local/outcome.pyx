"""How a call or a flight ended."""
cimport cython

import copy

from tiercache.local.table cimport Raises


@cython.final
@cython.freelist(8)
cdef class Outcome:
    """With a value, or with an error to raise.

    `born` is when the value was stored, None if nobody knows; `failure` is why a stale one serves, if a load failed.
    """

    def __init__(self, value=None, error=None, *, str source="loaded", born=None):
        self.value, self.error, self.source, self.born = value, error, source, born

    def shared(self):
        """For another caller: the same value, or its own copy of the error, caused by the original."""
        if self.error is None:
            return self
        try:
            twin = copy.copy(self.error)
        except Exception:  # an exception whose constructor wants what its args do not hold
            return self
        if type(twin) is not type(self.error):
            return self
        twin.__cause__ = self.error
        return Outcome(error=twin)

    def followed(self):
        """For who joined the flight: what was loaded, was waited for."""
        if self.source != "loaded" or self.error is not None or self is AGAIN:
            return self
        return Outcome(self.value, source="waited", born=self.born)


AGAIN = Outcome()  # the flight ended without an answer: ask the table again


def answer(value, str source="local", born=None):
    """The outcome that a cached value stands for."""
    cdef Outcome outcome = Outcome.__new__(Outcome)
    if isinstance(value, Raises):
        outcome.error, outcome.source = (<Raises>value).error, "loaded"
    else:
        outcome.value, outcome.source, outcome.born = value, source, born
    return outcome
