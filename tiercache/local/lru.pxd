from cpython.ref cimport PyObject

from tiercache.local.store cimport Ends, Store


cdef struct Slot:
    PyObject* key                     # owned; NULL: the slot is free
    PyObject* value                   # owned
    unsigned int newer                # neighbours in the recency list, 0: none; `newer` also links the free slots
    unsigned int older
    Ends ends


cdef struct Cell:
    unsigned int at                   # the slot of a key, 0: none
    unsigned int hash                 # the low half of the key's hash


cdef struct Ghost:
    PyObject* key                     # owned; NULL: nothing is remembered here
    float warmth
    float unsent
    unsigned int hits


cdef enum:
    GHOSTS = 1024


cdef class LRU(Store):
    # Guarded by the table's lock.
    cdef Slot* slots                  # numbered from 1
    cdef Cell* cells                  # where a key's slot is: from its hash's place on, before the next empty cell
    cdef size_t mask                  # cells - 1
    cdef unsigned int* hits           # of each slot's entry since its warmth was looked at; they stop at the largest
    cdef float* warmth                # of each slot's entry, see warmth.pyx; NULL until somebody asks for it
    cdef float* unsent                # the part of it that the fleet was not told; NULL likewise
    cdef Ghost* ghosts                # how warm was what is removed; each key has one place. NULL likewise
    cdef unsigned int room            # slots there is memory for
    cdef unsigned int used            # slots that were ever used
    cdef unsigned int free            # the first free one of these, 0: none
    cdef unsigned int held            # entries
    cdef unsigned int newest
    cdef unsigned int oldest
    cdef unsigned int max_entries
    cdef long long max_bytes          # -1: no bound
    cdef long long bytes_

    cdef int drop(self, unsigned int at, list dropped) except -1
    cdef int keep_warmth(self) except -1
    cdef int make_room(self) except -1
    cdef int spread(self, size_t cells) except -1


cdef extern from *:
    """
    /* The hash that every str keeps once it is known. */
    static inline Py_hash_t tiercache_hash(PyObject *text) {
        Py_hash_t known = ((PyASCIIObject *)text)->hash;
        return known != -1 ? known : PyObject_Hash(text);
    }
    """
    Py_hash_t text_hash "tiercache_hash"(PyObject* text) noexcept
    bint PyUnicode_Compare(PyObject* one, PyObject* other) noexcept
    Py_ssize_t PyUnicode_GET_LENGTH(PyObject* text) noexcept


cdef inline bint same_text(PyObject* one, PyObject* other) noexcept:
    return one == other or not PyUnicode_Compare(one, other)


cdef inline unsigned int seek(LRU lru, PyObject* key) noexcept:
    # The slot of a key, 0 if it has none. No Python code runs: keys are exact strings.
    cdef unsigned int hash = <unsigned int>text_hash(key)
    cdef size_t place = hash & lru.mask
    cdef unsigned int at = lru.cells[place].at
    while at != 0:
        if lru.cells[place].hash == hash and same_text(lru.slots[at].key, key):
            return at
        place = (place + 1) & lru.mask
        at = lru.cells[place].at
    return 0


cdef inline void count_hit(LRU lru, unsigned int at) noexcept:
    lru.hits[at] += lru.hits[at] != 0xFFFFFFFFu


cdef inline void unlink(LRU lru, unsigned int at) noexcept:
    cdef unsigned int newer = lru.slots[at].newer
    cdef unsigned int older = lru.slots[at].older
    if newer:
        lru.slots[newer].older = older
    else:
        lru.newest = older
    if older:
        lru.slots[older].newer = newer
    else:
        lru.oldest = newer


cdef inline void link(LRU lru, unsigned int at) noexcept:
    lru.slots[at].older = lru.newest
    lru.slots[at].newer = 0
    if lru.newest:
        lru.slots[lru.newest].newer = at
    else:
        lru.oldest = at
    lru.newest = at


cdef inline void touch(LRU lru, unsigned int at) noexcept:
    # It becomes the last one used.
    if at != lru.newest:
        unlink(lru, at)
        link(lru, at)
