from cpython.ref cimport PyObject

from tiercache.local.flight cimport Flight
from tiercache.local.lru cimport LRU, Slot, count_hit, seek, touch
from tiercache.local.store cimport Ends, Entry, Store
from tiercache.local.warmth cimport Warmth

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
    AHEAD = 5     # refresh what is there, without a coin; only ever HIT (there is nothing to do) or DUE


cdef class Raises:
    cdef readonly object error


cdef class Table:
    # All guarded by the table's lock: the critical section of the table (on a GIL build, the GIL), and around it
    # `guard`, which is a lock where the store runs Python code.
    cdef Store store
    cdef LRU lru                      # where a hit looks: the store, or nothing if its look-ups run Python code
    cdef readonly object guard
    cdef dict flights                 # key -> the flight that may be joined
    cdef dict counts
    cdef readonly unsigned int epoch
    cdef unsigned int epochs
    cdef public bint closed
    cdef long long hits
    cdef Warmth warmth                # None until somebody asks which keys are hot

    cdef int bump(self, str name, long long n=*) except -1
    cdef tuple _probe(
        self, str key, double now, double draw, double swr, double beta, int mode, Flight spare, list dropped
    )
    cdef tuple _serve(
        self, str key, object value, Ends* ends, double now, double draw, double beta, int mode, Flight spare
    )
    cdef bint _is_quiet(self, Ends* ends, double now) noexcept
    cdef int _store(self, Flight flight, Entry entry, list dropped) except -1
    cdef int _cut_flights(self, list dropped) except -1


cdef inline PyObject* hit_at(Table table, unsigned int at, double latest) noexcept:
    # The borrowed value in a slot that the key was found in, or NULL for whatever needs a second look.
    cdef PyObject* lru = <PyObject*>table.lru
    cdef Slot* slot = &(<LRU>lru).slots[at]
    if latest >= slot.ends.early or slot.ends.epoch != table.epoch:
        return NULL
    touch(<LRU>lru, at)
    count_hit(<LRU>lru, at)
    table.hits += 1
    return slot.value


cdef inline PyObject* hit(Table table, PyObject* key, double latest) noexcept:
    # The same for a key. `latest` is now, or a little later; the caller has the table's lock.
    cdef PyObject* lru = <PyObject*>table.lru
    cdef unsigned int at = seek(<LRU>lru, key)
    return hit_at(table, at, latest) if at else NULL
