from libc.math cimport INFINITY, nextafterf


cdef inline float before(double seconds) noexcept nogil:
    # Rounded down, because an end may come early but never late.
    cdef float near = <float>seconds
    return nextafterf(near, -INFINITY) if near > seconds else near


# What an entry is besides its key and value: when it ends, by the monotonic clock, and where it comes from.
# Guarded by the table's lock; only `early` and `quiet` ever change.
cdef struct Ends:
    double early                      # the one compare of a hit; 0 sends every read to the slow path
    double fresh                      # end of freshness
    unsigned long long id             # of the record in Redis, 0: none
    # The other ends are kept relative to `fresh`, in four bytes each: early by at most 2**-23 of the distance.
    float verify
    float hard
    float quiet
    float delta                       # smoothed load time, seconds
    unsigned int epoch                # epoch of the request that produced it, 0: none
    unsigned int weight


cdef int read_fill(tuple fill, Ends* ends) except -1


cdef class Entry:
    cdef readonly str key
    cdef readonly object value
    cdef Ends ends


cdef Entry entry_of(str key, object value, Ends* ends)


cdef class Store:
    # Guarded by the table's lock.
    cdef readonly object guard        # entered around every call below

    cdef Ends* find(self, str key, void** value) except? NULL
    cdef void count_found(self) noexcept
    cdef bint take(self, str key, list dropped) except -1
    cdef Py_ssize_t put(self, Entry entry, list dropped) except -1
    cdef int clear(self, list dropped) except -1
    cdef Py_ssize_t count(self) except -1
    cdef long long weight(self) except -1
