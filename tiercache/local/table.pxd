from cpython.ref cimport PyObject

from tiercache.local.flight cimport Flight
from tiercache.local.store cimport Entry, Store

# What `probe` answers (the plain number: a member is looked up by name), and for whom it asks.
cpdef enum Verdict:
    HIT = 0       # (HIT, value)
    DUE = 1       # (DUE, value, flight): serve the value, run the flight behind it
    LEAD = 2      # (LEAD, flight): run the flight
    JOIN = 3      # (JOIN, flight): somebody runs it, wait for its outcome
    ALONE = 4     # (ALONE, None): a load is running; read Redis yourself and fill nothing

cpdef enum Mode:
    LOAD = 0      # get_or_load
    READ = 1      # get: starts no load, tosses no coin
    FORCE = 2     # refresh: loads whatever is cached
    WRITE = 3     # set: replaces whatever runs
    VERIFY = 4    # serve a value that was just read; only ever HIT or DUE


cdef class Raises:
    cdef readonly object error


cdef class Table:
    # All guarded by the table's lock: the critical section of the table (on a GIL build, the GIL), and around it
    # `guard`, which is a lock where the store runs Python code.
    cdef Store store
    cdef readonly object guard
    cdef dict flights                 # key -> the flight that may be joined
    cdef dict counts
    cdef readonly unsigned int epoch
    cdef unsigned int epochs
    cdef public bint closed
    cdef long long hits

    cdef PyObject* hit(self, str key, double now) except? NULL
    cdef int bump(self, str name, long long n=*) except -1
    cdef tuple _probe(
        self, str key, double now, double draw, double swr, double beta, int mode, Flight spare, list dropped
    )
    cdef tuple _serve(self, Entry entry, double now, double draw, double beta, int mode, Flight spare)
    cdef bint _is_quiet(self, Entry entry, double now) noexcept
    cdef int _store(self, Flight flight, tuple fill, list dropped) except -1
    cdef int _cut_flights(self, list dropped) except -1
