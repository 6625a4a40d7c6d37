"""What the threads that wait for one flight go through: a lock that each takes and gives back at once.

Each does both before it asks for the interpreter's lock, so they need not hand that around to let each other through.
"""
cimport cython
from cpython.exc cimport PyErr_CheckSignals

import threading
from time import monotonic

cdef extern from "pythread.h" nogil:
    ctypedef void* PyThread_type_lock
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


@cython.final
cdef class Turnstile:
    """Lets every waiting thread of a flight through once it is called."""

    cdef PyThread_type_lock lock

    def __cinit__(self):
        self.lock = PyThread_allocate_lock()
        if self.lock == NULL:
            raise MemoryError
        PyThread_acquire_lock(self.lock, 0)  # until it is called

    def __dealloc__(self):
        if self.lock != NULL:
            PyThread_free_lock(self.lock)

    def __call__(self):
        PyThread_release_lock(self.lock)

    def wait(self, double seconds):
        """False if the flight took longer."""
        cdef double left = min(max(0.0, seconds), LONGEST)
        cdef double until = <double>monotonic() + left
        cdef PyLockStatus status
        while True:
            with nogil:
                status = PyThread_acquire_lock_timed(self.lock, <long long>(left * 1e6), 1)
                if status == PY_LOCK_ACQUIRED:
                    PyThread_release_lock(self.lock)
            if status != PY_LOCK_INTR:
                return status == PY_LOCK_ACQUIRED
            PyErr_CheckSignals()
            left = max(0.0, until - <double>monotonic())
