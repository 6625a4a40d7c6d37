"""The least-recently-used entries of tier 1: slots in one block, a list through them, and an index.

Theory. A slot is 72 bytes of plain memory, where an object of its own in a dict takes 127. The index is a table of
cells with linear probing: a key's cell lies between the place that its hash names and the next empty cell, so a cell
that is emptied is filled again from behind (Knuth, TAOCP 6.4, algorithm R). Four fifths of the cells are in use at
most. A cell keeps half of the hash, so that only slots that (almost certainly) match are looked at.

Rules. The table's lock guards everything here, and on a GIL build that is the GIL: nothing here runs Python code
or allocates what the garbage collector tracks (on 3.11 an allocation may collect, and finalizers run anybody's
code). So references to values are not dropped but handed out in `dropped`, because a value's `__del__` may do
anything. A pointer into the slots holds until the next `put` or `clear`. `LRU` visits the values for the collector
itself, so a value that refers back to its cache is still collected.

This file is longer than others because slots, list and index are one structure.
"""
cimport cython
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Realloc
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF, PyObject

from tiercache.local.store cimport Ends, Entry, Store

cdef Cell nowhere  # the index of an empty table: one empty cell


@cython.final
cdef class Unguarded:
    """The guard of a store that runs no Python code."""

    def __enter__(self):
        pass

    def __exit__(self, *exc):
        pass


@cython.final
@cython.no_gc
cdef class Emptied:
    """What a store held before it was cleared; goes with its last reference."""

    cdef Slot* slots
    cdef unsigned int used

    def __dealloc__(self):
        cdef unsigned int at
        for at in range(1, self.used + 1):
            if self.slots[at].key != NULL:
                Py_DECREF(<object>self.slots[at].key)
                Py_DECREF(<object>self.slots[at].value)
        PyMem_Free(self.slots)


@cython.final
cdef class LRU(Store):
    """Least-recently-used entries, bounded by number and, if `max_bytes` is given, by weight."""

    def __cinit__(self, Py_ssize_t max_entries, max_bytes=None):
        self.cells = &nowhere
        if not 1 <= max_entries < 2**31 or (max_bytes is not None and max_bytes < 0):
            raise ValueError(f"an LRU of {max_entries} entries and {max_bytes} bytes can't hold anything")
        self.guard = Unguarded()
        self.max_entries = max_entries
        self.max_bytes = -1 if max_bytes is None else max_bytes

    cdef void count_found(self) noexcept:
        count_hit(self, self.newest)

    def __dealloc__(self):
        empty(self)

    cdef Ends* find(self, str key, void** value) except? NULL:
        cdef unsigned int at = seek(self, <PyObject*>key)
        if at == 0:
            return NULL
        touch(self, at)
        value[0] = <void*>self.slots[at].value
        return &self.slots[at].ends

    cdef bint take(self, str key, list dropped) except -1:
        cdef unsigned int at = seek(self, <PyObject*>key)
        if at:
            remember(self, at)
            self.drop(at, dropped)
        return at != 0

    cdef int drop(self, unsigned int at, list dropped) except -1:
        cdef Slot* slot = &self.slots[at]
        dropped.append(<object>slot.value)
        unlink(self, at)
        vacate(self, at)
        self.bytes_ -= slot.ends.weight
        self.held -= 1
        Py_DECREF(<object>slot.value)  # `dropped` has it
        Py_DECREF(<object>slot.key)
        slot.key = NULL
        slot.newer, self.free = self.free, at
        return 0

    cdef Py_ssize_t put(self, Entry entry, list dropped) except -1:
        cdef unsigned int at = seek(self, <PyObject*>entry.key)
        cdef Py_ssize_t evicted = 0
        if self.max_bytes >= 0 and entry.ends.weight > self.max_bytes:
            self.take(entry.key, dropped)
            return 1
        if at:  # the key object stays, so that what leads to it by identity still does
            dropped.append(<object>self.slots[at].value)
            Py_DECREF(<object>self.slots[at].value)
            self.bytes_ -= self.slots[at].ends.weight
            touch(self, at)
        else:
            if self.held >= self.max_entries:
                self.drop(self.oldest, dropped)
                evicted += 1
            self.make_room()
            at = self.free
            self.free = self.slots[at].newer
            self.slots[at].key = <PyObject*>entry.key
            Py_INCREF(entry.key)
            self.hits[at] = 0
            if self.warmth != NULL:
                recall(self, at)
            place(self.cells, self.mask, at, <unsigned int>text_hash(<PyObject*>entry.key))
            link(self, at)
            self.held += 1
        self.slots[at].value = <PyObject*>entry.value
        Py_INCREF(entry.value)
        self.slots[at].ends = entry.ends
        self.bytes_ += entry.ends.weight
        while self.max_bytes >= 0 and self.bytes_ > self.max_bytes:
            self.drop(self.oldest, dropped)
            evicted += 1
        return evicted

    cdef int keep_warmth(self) except -1:
        # From now on.
        cdef size_t places = <size_t>self.room + 1
        cdef float* warmth = <float*>PyMem_Calloc(places, sizeof(float))
        cdef float* unsent = <float*>PyMem_Calloc(places, sizeof(float))
        cdef Ghost* ghosts = <Ghost*>PyMem_Calloc(GHOSTS, sizeof(Ghost))
        if warmth == NULL or unsent == NULL or ghosts == NULL:
            PyMem_Free(warmth)
            PyMem_Free(unsent)
            PyMem_Free(ghosts)
            raise MemoryError
        self.warmth, self.unsent, self.ghosts = warmth, unsent, ghosts
        return 0

    cdef int make_room(self) except -1:
        # For one more: a free slot, and a cell.
        cdef unsigned int room
        cdef unsigned int* hits
        cdef float* warmth
        cdef float* unsent
        cdef Slot* slots
        if 5 * (<size_t>self.held + 1) > 4 * (self.mask + 1):
            self.spread(2 * (self.mask + 1) if self.mask else 16)
        if self.free:
            return 0
        if self.used == self.room:
            room = min(self.room + self.room // 8 + 16, self.max_entries)
            slots = <Slot*>PyMem_Realloc(self.slots, (<size_t>room + 1) * sizeof(Slot))
            if slots == NULL:
                raise MemoryError
            self.slots = slots
            hits = <unsigned int*>PyMem_Realloc(self.hits, (<size_t>room + 1) * sizeof(unsigned int))
            if hits == NULL:
                raise MemoryError
            self.hits = hits
            if self.warmth != NULL:
                warmth = <float*>PyMem_Realloc(self.warmth, (<size_t>room + 1) * sizeof(float))
                if warmth == NULL:
                    raise MemoryError
                self.warmth = warmth
                unsent = <float*>PyMem_Realloc(self.unsent, (<size_t>room + 1) * sizeof(float))
                if unsent == NULL:
                    raise MemoryError
                self.unsent = unsent
            self.room = room
        self.used += 1
        self.slots[self.used].newer = 0
        self.free = self.used
        return 0

    cdef int spread(self, size_t size) except -1:
        # Move the index to a larger table.
        cdef Cell* cells = <Cell*>PyMem_Calloc(size, sizeof(Cell))
        cdef size_t each
        if cells == NULL:
            raise MemoryError
        for each in range(self.mask + 1):
            if self.cells[each].at:
                place(cells, size - 1, self.cells[each].at, self.cells[each].hash)
        if self.cells != &nowhere:
            PyMem_Free(self.cells)
        self.cells, self.mask = cells, size - 1
        return 0

    cdef int clear(self, list dropped) except -1:
        dropped.append(empty(self))
        return 0

    cdef Py_ssize_t count(self) except -1:
        return self.held

    cdef long long weight(self) except -1:
        return self.bytes_


cdef int remember(LRU lru, unsigned int at) noexcept:
    # What is removed, and not for want of room, comes back as warm as it was; of two in one place the warmer. A key
    # without bounds is not kept.
    cdef Ghost* ghost
    if lru.warmth == NULL or lru.warmth[at] + lru.hits[at] == 0 or PyUnicode_GET_LENGTH(lru.slots[at].key) > 1000:
        return 0
    ghost = &lru.ghosts[<unsigned int>text_hash(lru.slots[at].key) & (GHOSTS - 1)]
    if ghost.key != NULL:
        if ghost.warmth + ghost.hits > lru.warmth[at] + lru.hits[at]:
            return 0
        Py_DECREF(<object>ghost.key)
    ghost.key, ghost.warmth, ghost.unsent, ghost.hits = lru.slots[at].key, lru.warmth[at], lru.unsent[at], lru.hits[at]
    Py_INCREF(<object>ghost.key)
    return 0


cdef int recall(LRU lru, unsigned int at) noexcept:
    cdef PyObject* key = lru.slots[at].key
    cdef Ghost* ghost = &lru.ghosts[<unsigned int>text_hash(key) & (GHOSTS - 1)]
    lru.warmth[at] = lru.unsent[at] = 0
    if ghost.key != NULL and same_text(ghost.key, key):
        lru.warmth[at], lru.unsent[at], lru.hits[at] = ghost.warmth, ghost.unsent, ghost.hits
        Py_DECREF(<object>ghost.key)
        ghost.key = NULL
    return 0


cdef Emptied empty(LRU lru):
    cdef Emptied emptied = Emptied.__new__(Emptied)
    cdef Py_ssize_t each
    emptied.slots, emptied.used = lru.slots, lru.used
    if lru.cells != &nowhere:
        PyMem_Free(lru.cells)
    PyMem_Free(lru.hits)
    PyMem_Free(lru.warmth)
    PyMem_Free(lru.unsent)
    if lru.ghosts != NULL:
        for each in range(GHOSTS):
            Py_XDECREF(lru.ghosts[each].key)
        PyMem_Free(lru.ghosts)
    lru.slots, lru.cells, lru.mask, lru.hits = NULL, &nowhere, 0, NULL
    lru.warmth, lru.unsent, lru.ghosts = NULL, NULL, NULL
    lru.room = lru.used = lru.free = lru.held = lru.newest = lru.oldest = 0
    lru.bytes_ = 0
    return emptied


cdef int place(Cell* cells, size_t mask, unsigned int at, unsigned int hash) noexcept:
    cdef size_t where = hash & mask
    while cells[where].at:
        where = (where + 1) & mask
    cells[where].at, cells[where].hash = at, hash
    return 0


cdef int vacate(LRU lru, unsigned int at) noexcept:
    # Empty the cell of a slot, and move into the gap what would no longer be found behind it.
    cdef Cell* cells = lru.cells
    cdef size_t mask = lru.mask
    cdef size_t gap = <unsigned int>text_hash(lru.slots[at].key) & mask
    cdef size_t next
    while cells[gap].at != at:
        gap = (gap + 1) & mask
    next = (gap + 1) & mask
    while cells[next].at:
        if ((next - (cells[next].hash & mask)) & mask) >= ((next - gap) & mask):
            cells[gap] = cells[next]
            gap = next
        next = (next + 1) & mask
    cells[gap].at = 0
    return 0


ctypedef int (*Visit)(PyObject*, void*) noexcept
ctypedef int (*Traverse)(PyObject*, Visit, void*) noexcept
ctypedef int (*Clear)(PyObject*) noexcept

cdef extern from "Python.h":
    ctypedef struct Slots "PyTypeObject":
        void* tp_traverse
        void* tp_clear

# LRU adds no references of its own to those of Store.
cdef Traverse inherited_traverse = <Traverse>(<Slots*>Store).tp_traverse
cdef Clear inherited_clear = <Clear>(<Slots*>Store).tp_clear


cdef int traverse(PyObject* self, Visit visit, void* arg) noexcept:
    cdef unsigned int at = (<LRU>self).oldest
    cdef int stop
    while at:
        stop = visit((<LRU>self).slots[at].value, arg)
        if stop:
            return stop
        at = (<LRU>self).slots[at].newer
    return inherited_traverse(self, visit, arg)


cdef int clear(PyObject* self) noexcept:
    empty(<LRU>self)
    return inherited_clear(self)


(<Slots*>LRU).tp_traverse = <void*>traverse
(<Slots*>LRU).tp_clear = <void*>clear
