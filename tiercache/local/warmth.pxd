from cpython.ref cimport PyObject

from tiercache.local.lru cimport LRU


cdef class Hottest:
    cdef PyObject** keys              # owned, hottest first
    cdef double* warmths
    cdef Py_ssize_t most
    cdef Py_ssize_t held
    cdef double rate                  # hits per second of a warmth of 1
    cdef double all_                  # the warmth of everything

    cdef int offer(self, PyObject* key, double warmth) noexcept
    cdef double least(self) noexcept  # what has to be exceeded


cdef class Warmth:
    # Guarded by the table's lock.
    cdef double started
    cdef double looked_at
    cdef long long counted            # hits of the table when it was looked at last
    cdef double all_                  # warmth of all hits, those of entries that are gone included
    cdef double unsent                # the part of it that the fleet was not told

    cdef double per_warmth(self, double now, double half_life) noexcept
    cdef double rate(self, LRU lru, unsigned int at, double now, double half_life) noexcept
    cdef int look(self, LRU lru, long long hits, double now, double half_life, Hottest hottest, bint unsent=*) except -1
    cdef int sent(self, LRU lru, Hottest hottest) noexcept
    cdef int disown(self, LRU lru) noexcept
