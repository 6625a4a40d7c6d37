"""What tier 1 holds, and what it asks of the place that holds it."""
cimport cython
from libc.math cimport INFINITY

from tiercache.local.xfetch cimport WINDOW


cdef int read_fill(tuple fill, Ends* ends) except -1:
    # `fill` is that of `Table.settle`.
    cdef double fresh, hard, verify, delta, beta
    _, fresh, hard, verify, delta, beta, ends.epoch, id, weight = fill
    ends.fresh = fresh
    ends.id = int.from_bytes(id, "big")
    ends.early = min(verify, hard, fresh - WINDOW * beta * delta)
    ends.verify = before(verify - fresh)
    ends.hard = before(hard - fresh)
    ends.quiet = -INFINITY
    ends.delta = <float>delta
    ends.weight = max(0, min(weight, 0xFFFFFFFF))
    return 0


@cython.final
@cython.no_gc
cdef class Entry:
    """A value as tier 1 holds, or held, it, with its three ends (monotonic seconds): verify, fresh, hard."""

    @property
    def fresh(self):
        return self.ends.fresh

    @property
    def hard(self):
        return self.ends.fresh + self.ends.hard

    @property
    def verify(self):
        return self.ends.fresh + self.ends.verify

    @property
    def delta(self):
        return self.ends.delta

    @property
    def id(self):
        return self.ends.id.to_bytes(8, "big") if self.ends.id else b""

    @property
    def weight(self):
        return self.ends.weight

    def __eq__(self, other):
        # Is it the same, perhaps at another moment?
        if not isinstance(other, Entry):
            return NotImplemented
        return (
            self.key == (<Entry>other).key and self.value is (<Entry>other).value
            and self.ends.fresh == (<Entry>other).ends.fresh and self.ends.id == (<Entry>other).ends.id
        )

    def __hash__(self):
        return hash((self.key, self.ends.fresh, self.ends.id))

    def __repr__(self):
        return f"<Entry {self.key!r}>"


cdef Entry entry_of(str key, object value, Ends* ends):
    cdef Entry entry = Entry.__new__(Entry)
    entry.key, entry.value, entry.ends = key, value, ends[0]
    return entry


cdef class Store:
    """Where the entries are: the LRU, or what the user gave. The table's lock guards all of it."""

    cdef Ends* find(self, str key, void** value) except? NULL:
        # The entry's ends and its borrowed value, which is from now on the last one used; NULL if there is none.
        # Both hold until the next call.
        raise NotImplementedError

    cdef void count_found(self) noexcept:
        # The entry that was found last was served.
        pass

    cdef bint take(self, str key, list dropped) except -1:
        # Remove the entry, if there is one.
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
