"""The recency list of tier 1: a dict that owns the entries and raw links between them.

Rules. The table's lock guards everything here, and on a GIL build that is the GIL: nothing here runs Python code
or allocates what the garbage collector tracks (on 3.11 an allocation may collect, and finalizers run anybody's
code). So references are not dropped but handed out in `dropped`, because a value's `__del__` may do anything.
Entries are not tracked by the collector (16 bytes and a visit each); `LRU` visits their values itself, so a value
that refers back to its cache is still collected.
"""
cimport cython
from cpython.dict cimport PyDict_GetItemWithError
from cpython.ref cimport PyObject

from tiercache.local.store cimport Entry, Store


@cython.final
cdef class Unguarded:
    """The guard of a store that runs no Python code."""

    def __enter__(self):
        pass

    def __exit__(self, *exc):
        pass


@cython.final
cdef class LRU(Store):
    """Least-recently-used entries, bounded by number and, if `max_bytes` is given, by weight."""

    def __cinit__(self, Py_ssize_t max_entries, max_bytes=None):
        if max_entries < 1 or (max_bytes is not None and max_bytes < 0):
            raise ValueError(f"an LRU of {max_entries} entries and {max_bytes} bytes can't hold anything")
        self.entries = {}
        self.guard = Unguarded()
        self.max_entries = max_entries
        self.max_bytes = -1 if max_bytes is None else max_bytes

    cdef Entry find(self, str key):
        cdef PyObject* p = PyDict_GetItemWithError(self.entries, key)
        if p == NULL:
            return None
        self.touch(p)
        return <Entry>p

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
        cdef PyObject* p = PyDict_GetItemWithError(self.entries, key)
        if p == NULL:
            return None
        cdef Entry entry = <Entry>p
        self.unlink(p)
        self.bytes_ -= entry.weight
        del self.entries[key]
        return entry

    cdef Py_ssize_t put(self, Entry entry, list dropped) except -1:
        cdef Py_ssize_t evicted = 0
        dropped.append(self.take(entry.key))
        if self.max_bytes >= 0 and entry.weight > self.max_bytes:
            return 1
        self.entries[entry.key] = entry
        self.link(<PyObject*>entry)
        self.bytes_ += entry.weight
        while len(self.entries) > self.max_entries or (self.max_bytes >= 0 and self.bytes_ > self.max_bytes):
            dropped.append(self.take((<Entry>self.oldest).key))
            evicted += 1
        return evicted

    cdef int clear(self, list dropped) except -1:
        none = {}
        dropped.append(self.entries)
        self.entries = none
        self.newest = self.oldest = NULL
        self.bytes_ = 0
        return 0

    cdef Py_ssize_t count(self) except -1:
        return len(self.entries)

    cdef long long weight(self) except -1:
        return self.bytes_


ctypedef int (*Visit)(PyObject*, void*) noexcept
ctypedef int (*Traverse)(PyObject*, Visit, void*) noexcept
ctypedef int (*Clear)(PyObject*) noexcept

cdef extern from "Python.h":
    ctypedef struct Slots "PyTypeObject":
        void* tp_traverse
        void* tp_clear
    Py_ssize_t Py_REFCNT(PyObject*)

# LRU adds no references of its own to those of Store.
cdef Traverse inherited_traverse = <Traverse>(<Slots*>Store).tp_traverse
cdef Clear inherited_clear = <Clear>(<Slots*>Store).tp_clear


cdef int traverse(PyObject* self, Visit visit, void* arg) noexcept:
    cdef PyObject* p = (<LRU>self).oldest
    cdef int stop
    while p != NULL:
        # An entry that somebody else holds too keeps its value alive: for the collector, it is not ours.
        if Py_REFCNT(p) == 1:
            stop = visit(<PyObject*>(<Entry>p).value, arg)
            if stop:
                return stop
        p = (<Entry>p).newer
    return inherited_traverse(self, visit, arg)


cdef int clear(PyObject* self) noexcept:
    (<LRU>self).newest = (<LRU>self).oldest = NULL
    return inherited_clear(self)


(<Slots*>LRU).tp_traverse = <void*>traverse
(<Slots*>LRU).tp_clear = <void*>clear
