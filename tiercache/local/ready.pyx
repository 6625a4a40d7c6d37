"""The awaitable of a hit."""
cimport cython
from cpython.ref cimport Py_INCREF, PyObject

from collections.abc import Coroutine


cdef extern from "ended.h":
    void end_with "tiercache_end"(value)
    void let_go "tiercache_ended"(value)


@cython.final
@cython.freelist(64)
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
    result[0] = <PyObject*>(<Ready>self).value
    Py_INCREF((<Ready>self).value)
    return PYGEN_RETURN


cdef PyObject* ready_next(PyObject* self) noexcept:
    end_with((<Ready>self).value)
    return NULL


cdef void ready_dealloc(PyObject* self) noexcept:
    # Not __dealloc__, around which Cython puts the present exception aside, and back.
    let_go((<Ready>self).value)
    dealloc(self)


cdef destructor dealloc = (<Slots*>Ready).tp_dealloc
(<Slots*>Ready).tp_dealloc = ready_dealloc
(<Slots*>Ready).tp_as_async.am_send = <void*>ready_send
(<Slots*>Ready).tp_iternext = <void*>ready_next
