"""The recency list of tier 1: a dict that owns the entries and raw links between them.

Rules. The table's lock guards everything here. A reference is dropped only after the list is whole again,
because a value's `__del__` may run any code: `take`, `put` and `clear` hand what they removed to the caller.
Entries are not tracked by the garbage collector (16 bytes and a visit each); `LRU` visits their values itself,
so a value that refers back to its cache is still collected.
"""
cimport cython
from cpython.dict cimport PyDict_GetItemWithError
from cpython.ref cimport PyObject


@cython.final
@cython.no_gc
cdef class Entry:
    """A value in tier 1 with its three ends (monotonic seconds): verify, fresh, hard."""

    def __cinit__(
        self, str key, object value, double early, double fresh, double hard, double verify,
        double delta, unsigned int epoch, bytes id, unsigned int weight
    ):
        self.key = key
        self.value = value
        self.early = early
        self.fresh = fresh
        self.hard_ = <float>(hard - fresh)
        self.verify_ = <float>(verify - fresh)
        self.quiet_ = -float("inf")
        self.delta = <float>delta
        self.epoch = epoch
        self.id_ = int.from_bytes(id, "big")
        self.weight = weight

    @property
    def hard(self):
        return self.fresh + self.hard_

    @property
    def verify(self):
        return self.fresh + self.verify_

    @property
    def id(self):
        return self.id_.to_bytes(8, "big") if self.id_ else b""

    def __repr__(self):
        return f"<Entry {self.key!r}>"


@cython.final
cdef class LRU:
    """Least-recently-used entries, bounded by number and, if `max_bytes` is given, by weight."""

    def __cinit__(self, Py_ssize_t max_entries, max_bytes=None):
        self.entries = {}
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        self.byte_limit = -1 if max_bytes is None else max_bytes

    cdef PyObject* find(self, str key):
        return PyDict_GetItemWithError(self.entries, key)

    cdef void touch(self, PyObject* p) noexcept:
        if p != self.newest:
            self.unlink(p)
            self.link(p)

    cdef void link(self, PyObject* p) noexcept:
        (<Entry>p).older = self.newest
        (<Entry>p).newer = NULL
        if self.newest != NULL:
            (<Entry>self.newest).newer = p
        else:
            self.oldest = p
        self.newest = p

    cdef void unlink(self, PyObject* p) noexcept:
        cdef PyObject* newer = (<Entry>p).newer
        cdef PyObject* older = (<Entry>p).older
        if newer != NULL:
            (<Entry>newer).older = older
        else:
            self.newest = older
        if older != NULL:
            (<Entry>older).newer = newer
        else:
            self.oldest = newer

    cdef Entry take(self, str key):
        cdef PyObject* p = self.find(key)
        if p == NULL:
            return None
        cdef Entry entry = <Entry>p
        self.unlink(p)
        self.bytes_ -= entry.weight
        del self.entries[key]
        return entry

    cdef list put(self, Entry entry):
        cdef list evicted = []
        if self.byte_limit >= 0 and entry.weight > self.byte_limit:
            return [entry]
        self.entries[entry.key] = entry
        self.link(<PyObject*>entry)
        self.bytes_ += entry.weight
        while len(self.entries) > self.max_entries or (self.byte_limit >= 0 and self.bytes_ > self.byte_limit):
            evicted.append(self.take((<Entry>self.oldest).key))
        return evicted

    cdef dict clear(self):
        gone = self.entries
        self.newest = self.oldest = NULL
        self.bytes_ = 0
        self.entries = {}
        return gone


ctypedef int (*Visit)(PyObject*, void*) noexcept
ctypedef int (*Traverse)(PyObject*, Visit, void*) noexcept
ctypedef int (*Clear)(PyObject*) noexcept

cdef extern from "Python.h":
    ctypedef struct Slots "PyTypeObject":
        void* tp_traverse
        void* tp_clear

cdef Traverse inherited_traverse
cdef Clear inherited_clear


cdef int traverse(PyObject* self, Visit visit, void* arg) noexcept:
    cdef PyObject* p = (<LRU>self).oldest
    cdef int stop
    while p != NULL:
        stop = visit(<PyObject*>(<Entry>p).value, arg)
        if stop:
            return stop
        p = (<Entry>p).newer
    return inherited_traverse(self, visit, arg)


cdef int clear(PyObject* self) noexcept:
    (<LRU>self).newest = (<LRU>self).oldest = NULL
    return inherited_clear(self)


inherited_traverse = <Traverse>(<Slots*>LRU).tp_traverse
inherited_clear = <Clear>(<Slots*>LRU).tp_clear
(<Slots*>LRU).tp_traverse = <void*>traverse
(<Slots*>LRU).tp_clear = <void*>clear
