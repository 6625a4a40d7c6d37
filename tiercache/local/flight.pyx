"""One load of one key inside one process."""
cimport cython
from cpython.dict cimport PyDict_SetDefault


@cython.final
cdef class Flight:
    """One load (or read) of one key in this process; its callers share the outcome."""

    def __cinit__(self, str key, int mode=0, bint early=False, Entry seen=None):
        self.key = key
        self.mode = mode
        self.early = early
        self.seen = seen
        self.wakers = {}

    def __repr__(self):
        state = "settled" if self.settled else "cut" if self.cut else "running"
        return f"<Flight {self.key!r} {state}>"

    def follow(self, who, waker):
        """Wait for the outcome: the waker registered for `who`, `waker` if there was none, None if settled.

        A waker is a callable that the settling thread calls once. Each successful call is undone by `leave`.
        """
        with cython.critical_section(self):
            if self.settled:
                return None
            self.waiters += 1
            return <object>PyDict_SetDefault(self.wakers, who, waker)

    def leave(self):
        """One caller stops waiting; the last one to leave a running flight cancels it."""
        cdef object cancel = None
        with cython.critical_section(self):
            self.waiters -= 1
            if self.waiters == 0 and not self.settled:
                cancel = self.cancel
        if cancel is not None:
            cancel()

    cdef list finish(self, object outcome):
        # None if it was settled before; else the wakers, to be called outside every lock.
        with cython.critical_section(self):
            if self.settled:
                return None
            self.outcome = outcome
            self.settled = True
            wakers = list(self.wakers.values())
            self.wakers = {}
            self.cancel = None
            return wakers
