"""One load of one key inside one process."""
cimport cython
from cpython.dict cimport PyDict_SetDefault

from tiercache.local.store cimport Entry


@cython.final
cdef class Flight:
    """One load (or read) of one key in this process; its callers share the outcome."""

    def __cinit__(self, str key not None, int mode=0, bint early=False, Entry seen=None):
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
            registered = <object>PyDict_SetDefault(self.wakers, who, waker)
            self.waiters += 1
            return registered

    def leave(self):
        """One caller stops waiting; the last one to leave a running flight cancels it."""
        cdef object cancel = None
        with cython.critical_section(self):
            self.waiters -= 1
            if self.waiters == 0 and not self.settled:
                cancel = self.cancel
        if cancel is not None:
            try:
                cancel()
            except Exception:  # a closed loop: nothing runs there any more
                pass

    cdef dict finish(self, object outcome, list dropped):
        # None if it was settled before; else the wakers, to be called outside every lock.
        with cython.critical_section(self):
            if self.settled:
                return None
            self.outcome = outcome
            self.settled = True
            dropped.append(self.cancel)
            self.cancel = None
            wakers, self.wakers = self.wakers, None
            return wakers


cdef Py_ssize_t wake(dict wakers) except -1:
    # Call every waker; how many could not be called.
    cdef list left = list(wakers.values())
    cdef Py_ssize_t dead = 0
    interrupt = None
    while left:
        waker = left.pop()
        try:
            waker()
        except Exception:  # a closed loop: nobody is left to wake there
            dead += 1
        except BaseException as error:  # Ctrl-C, perhaps before the waker had done anything: once more
            if interrupt is None:
                left.append(waker)
            interrupt = error
    if interrupt is not None:
        raise interrupt
    return dead
