"""What threads wait for that go on one after the other: each lets the next one through.

It does so before it asks for the interpreter's lock, so they need not hand that around to let each other through; and
who lets many through wakes one of them.
"""
cimport cython
from cpython.exc cimport PyErr_CheckSignals

import threading
from time import monotonic

cdef extern from "pythread.h" nogil:
    ctypedef enum PyLockStatus:
        PY_LOCK_FAILURE
        PY_LOCK_ACQUIRED
        PY_LOCK_INTR
    PyThread_type_lock PyThread_allocate_lock()
    void PyThread_free_lock(PyThread_type_lock lock)
    int PyThread_acquire_lock(PyThread_type_lock lock, int waits)
    PyLockStatus PyThread_acquire_lock_timed(PyThread_type_lock lock, long long microseconds, int interruptible)
    void PyThread_release_lock(PyThread_type_lock lock)

cdef double LONGEST = threading.TIMEOUT_MAX / 2


cdef class Turn:
    """What one thread waits for; once it is taken, the next one comes."""

    def __cinit__(self):
        self.lock = PyThread_allocate_lock()
        if self.lock == NULL:
            raise MemoryError
        PyThread_acquire_lock(self.lock, 0)  # until it comes

    def __dealloc__(self):
        if self.lock != NULL:
            PyThread_free_lock(self.lock)

    cdef void come(self) noexcept:
        PyThread_release_lock(self.lock)

    cdef void lead_to(self, Turn next) noexcept:
        # Before this one comes.
        self.next, self.next_lock = next, next.lock

    cdef bint take(self, double seconds) except -1:
        # Wait for it. False: it did not come in time. Whoever is interrupted has not taken it.
        cdef double left = min(max(0.0, seconds), LONGEST)
        cdef double until = <double>monotonic() + left
        cdef PyLockStatus status
        while True:
            with nogil:
                status = PyThread_acquire_lock_timed(self.lock, <long long>(left * 1e6), 1)
                if status == PY_LOCK_ACQUIRED and self.next_lock != NULL:
                    PyThread_release_lock(self.next_lock)
            if status != PY_LOCK_INTR:
                self.taken = status == PY_LOCK_ACQUIRED
                return self.taken
            PyErr_CheckSignals()
            left = max(0.0, until - <double>monotonic())

    cdef void pass_on(self) noexcept:
        # It will come soon, and nobody waits for it any more.
        with nogil:
            PyThread_acquire_lock(self.lock, 1)
            if self.next_lock != NULL:
                PyThread_release_lock(self.next_lock)


@cython.final
cdef class Turnstile(Turn):
    """Lets every waiting thread of a flight through once it is called, and who comes later."""

    def __cinit__(self):
        self.next_lock = self.lock

    def __call__(self):
        self.come()

    def wait(self, double seconds):
        """False if the flight took longer."""
        return self.take(seconds)
