from cpython.ref cimport PyObject


cdef class Entry:
    cdef readonly str key
    cdef readonly object value
    cdef PyObject* newer              # raw links of the recency list: the table's dict owns the entries
    cdef PyObject* older
    cdef double early                 # the one compare of a hit; 0 sends every read to the slow path
    cdef readonly double fresh        # monotonic end of freshness
    # The other ends are kept relative to `fresh`, in four bytes each: off by at most 2**-24 of the distance.
    cdef float verify_
    cdef float hard_
    cdef float quiet_
    cdef readonly float delta         # smoothed load time, seconds
    cdef unsigned int epoch           # epoch of the request that produced it, 0: none
    cdef readonly unsigned int weight
    cdef unsigned long long id_


cdef class LRU:
    cdef dict entries
    cdef PyObject* newest
    cdef PyObject* oldest
    cdef readonly Py_ssize_t max_entries
    cdef readonly object max_bytes
    cdef long long byte_limit
    cdef long long bytes_

    cdef PyObject* find(self, str key)
    cdef void link(self, PyObject* entry) noexcept
    cdef void unlink(self, PyObject* entry) noexcept
    cdef void touch(self, PyObject* entry) noexcept
    cdef Entry take(self, str key)
    cdef list put(self, Entry entry)
    cdef dict clear(self)
