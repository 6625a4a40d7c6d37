"""The awaitable of a hit."""
cimport cython
from cpython.ref cimport PyObject

from tiercache.local.references cimport Py_DECREF, Py_INCREF, Py_None, Py_REFCNT, Py_SET_REFCNT, owned

from collections.abc import Coroutine


cdef extern from "ended.h":
    void end_with "tiercache_end"(PyObject* value) noexcept
    void let_go "tiercache_ended"(PyObject* value) noexcept

cdef extern from *:
    """
    #ifdef Py_GIL_DISABLED
    #define TIERCACHE_GIL 0
    #else
    #define TIERCACHE_GIL 1
    #endif
    """
    bint GIL "TIERCACHE_GIL"


@cython.final
@cython.no_gc_clear  # like a tuple, it was there after its value: a cycle can be cut where it was closed
cdef class Ready:
    """An awaitable that already has its value; it can be awaited, gathered and made a task of."""

    def __init__(self, value):
        self.value = value

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        raise StopIteration(self.value)

    def send(self, value):
        raise StopIteration(self.value)

    def throw(self, kind, value=None, traceback=None):
        raise kind, value, traceback

    def close(self):
        pass


Coroutine.register(Ready)


# Who is gone serves again: making an object, having the collector track it, and freeing it would add a fourth to an
# awaited hit. A spare one stays tracked, and the reference that keeps it alive is ours; if somebody else found it
# there, it is theirs. One that died in the middle of a collection may serve before that has ended: so the collector
# clears none.
cdef enum:
    SPARES = 64

cdef PyObject* spares[SPARES]
cdef Py_ssize_t spare = 0


cdef inline PyObject** value_of(PyObject* self) noexcept:
    # The place of its value, the first after the header: what is there can be moved without counting.
    return <PyObject**>(self + 1)


cdef object ready(PyObject* value):
    # What Ready(value) makes; the reference to the value becomes its own.
    global spare
    cdef PyObject* made
    cdef Ready another
    while spare > 0:
        spare -= 1
        made = spares[spare]
        if Py_REFCNT(made) == 1:
            Py_DECREF(Py_None)
            value_of(made)[0] = value
            return owned(made)
        Py_DECREF(made)
    another = Ready.__new__(Ready)
    another.value = owned(value)
    return another


# `await` reaches a coroutine's value through one of two C slots: am_send (3.11, and asyncio's Task) and
# tp_iternext. Python-level methods would build a traceback for each hit, so both are filled in by hand.
cdef extern from "Python.h":
    ctypedef enum SendResult "PySendResult":
        PYGEN_RETURN
    ctypedef struct AsyncSlots "PyAsyncMethods":
        void* am_send
    ctypedef void (*destructor)(PyObject*)
    ctypedef struct Slots "PyTypeObject":
        AsyncSlots* tp_as_async
        void* tp_iternext
        destructor tp_dealloc


cdef SendResult ready_send(PyObject* self, PyObject* sent, PyObject** result) noexcept:
    result[0] = value_of(self)[0]
    Py_INCREF(result[0])
    return PYGEN_RETURN


cdef PyObject* ready_next(PyObject* self) noexcept:
    end_with(value_of(self)[0])
    return NULL


cdef void ready_dealloc(PyObject* self) noexcept:
    # Not __dealloc__, around which Cython puts the present exception aside, and back.
    global spare
    cdef PyObject* value = value_of(self)[0]
    let_go(value)
    if spare == SPARES or not GIL:
        dealloc(self)
        return
    Py_INCREF(Py_None)
    value_of(self)[0] = Py_None
    Py_SET_REFCNT(self, 1)
    spares[spare] = self
    spare += 1
    Py_DECREF(value)  # last, for it may run code


cdef destructor dealloc = (<Slots*>Ready).tp_dealloc
(<Slots*>Ready).tp_dealloc = ready_dealloc
(<Slots*>Ready).tp_as_async.am_send = <void*>ready_send
(<Slots*>Ready).tp_iternext = <void*>ready_next
