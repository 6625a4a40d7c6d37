from cpython.ref cimport PyObject
from libc.math cimport INFINITY, nextafterf


cdef inline float before(double seconds) noexcept nogil:
    # Rounded down, because an end may come early but never late.
    cdef float near = <float>seconds
    return nextafterf(near, -INFINITY) if near > seconds else near


cdef class Entry:
    # 96 bytes, and no method of its own: a table of methods would cost 8 more, rounded up to 16.
    # Guarded by the table's lock; key, value, fresh, delta, epoch, weight and id never change.
    cdef readonly str key
    cdef readonly object value
    cdef PyObject* newer              # raw links of the recency list: the store's dict owns the entries
    cdef PyObject* older
    cdef double early                 # the one compare of a hit; 0 sends every read to the slow path
    cdef readonly double fresh        # monotonic end of freshness
    # The other ends are kept relative to `fresh`, in four bytes each: early by at most 2**-23 of the distance.
    cdef float verify_
    cdef float hard_
    cdef float quiet_
    cdef readonly float delta         # smoothed load time, seconds
    cdef unsigned int epoch           # epoch of the request that produced it, 0: none
    cdef readonly unsigned int weight
    cdef unsigned long long id_


cdef class Store:
    # Guarded by the table's lock.
    cdef dict entries                 # where a hit looks; empty if look-ups run Python code
    cdef readonly object guard        # entered around every call below

    cdef Entry find(self, str key)
    cdef Entry take(self, str key)
    cdef Py_ssize_t put(self, Entry entry, list dropped) except -1
    cdef int clear(self, list dropped) except -1
    cdef Py_ssize_t count(self) except -1
    cdef long long weight(self) except -1
    cdef void touch(self, PyObject* entry) noexcept
