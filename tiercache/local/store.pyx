"""What tier 1 holds, and what it asks of the place that holds it."""
cimport cython
from cpython.ref cimport PyObject
from libc.math cimport INFINITY

from tiercache.local.xfetch cimport WINDOW


@cython.final
@cython.no_gc
cdef class Entry:
    """A value in tier 1 with its three ends (monotonic seconds): verify, fresh, hard."""

    def __cinit__(self, str key, tuple fill):
        # `fill` is that of `Table.settle`.
        cdef double fresh, hard, verify, delta, beta
        self.key = key
        self.value, fresh, hard, verify, delta, beta, self.epoch, id, weight = fill
        self.early = min(verify, hard, fresh - WINDOW * beta * delta)
        self.fresh = fresh
        self.hard_ = before(hard - fresh)
        self.verify_ = before(verify - fresh)
        self.quiet_ = -INFINITY
        self.delta = <float>delta
        self.id_ = int.from_bytes(id, "big")
        self.weight = max(0, min(weight, 0xFFFFFFFF))

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


cdef class Store:
    """Where the entries are: the LRU, or what the user gave. The table's lock guards all of it."""

    cdef Entry find(self, str key):
        # The entry, from now on the last one used, or None.
        raise NotImplementedError

    cdef Entry take(self, str key):
        # Remove and return the entry, or None.
        raise NotImplementedError

    cdef Py_ssize_t put(self, Entry entry, list dropped) except -1:
        # Store the entry; returns how many, itself included, found no room. What goes, goes to `dropped`.
        raise NotImplementedError

    cdef int clear(self, list dropped) except -1:
        raise NotImplementedError

    cdef Py_ssize_t count(self) except -1:
        raise NotImplementedError

    cdef long long weight(self) except -1:
        raise NotImplementedError

    cdef void touch(self, PyObject* entry) noexcept:
        # Make it the last one used.
        pass
