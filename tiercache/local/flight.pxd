from tiercache.local.store cimport Entry


cdef class Flight:
    cdef readonly str key
    # Guarded by the table's lock.
    cdef readonly int mode
    cdef readonly bint early          # a refresh behind a value that was already served
    cdef readonly Entry seen          # the tier-1 entry it started from, or None
    cdef readonly bint cut            # fills nothing, and nobody joins it
    cdef unsigned long long writes    # id of the record that a write flight is writing, else 0
    # Guarded by the flight's own lock.
    cdef readonly bint settled
    cdef readonly object outcome
    cdef int waiters
    cdef dict wakers                  # who waits (None: threads, else an event loop) -> its waker; None once settled
    # Set by the port that runs the flight, before anybody can see the flight leave its hands.
    cdef public bint on_loop          # it runs on an event loop
    cdef public object cancel         # called when the last caller has left, or None

    cdef dict finish(self, object outcome, list dropped)


cdef Py_ssize_t wake(dict wakers) except -1
