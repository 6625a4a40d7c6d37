"""What a task waits for beside many others: as much of a future as a task asks for, and all of them go on in one call.

An event loop makes a handle for each future that is done, puts it in its queue and takes it out again, which is a good
part of what it costs to let a task go on. Here the loop has one handle for all tasks that wait for one flight.
"""
cimport cython

from cpython.ref cimport PyObject
from libc.math cimport INFINITY

cdef extern from "Python.h":
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1
    void PyErr_SetObject(object kind, object value)
    ctypedef PyObject* (*iternextfunc)(PyObject*) noexcept
    ctypedef struct Slots "PyTypeObject":
        iternextfunc tp_iternext


@cython.freelist(64)
cdef class Waiter:
    """For one task of a loop, which waits until its end, at the latest at `until` of the loop's clock, for `value`.

    `cancelled_error` is raised in a task that is cancelled. To be used on the loop's thread.
    """

    cdef object loop, cancelled_error, callback, context, error
    cdef public object value
    cdef public double until
    cdef bint ended, asked
    cdef public bint _asyncio_future_blocking

    def __init__(self, loop, double until, cancelled_error):
        self.loop, self.until, self.cancelled_error = loop, until, cancelled_error

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        if self.asked or self.ended:
            self.result()
            if self.value is None:
                raise StopIteration  # which makes no exception
            raise StopIteration(self.value)
        self.asked = self._asyncio_future_blocking = True
        return self

    # What a task calls.

    def get_loop(self):
        return self.loop

    def add_done_callback(self, callback, *, context=None):
        self.callback, self.context = callback, context

    def result(self):
        error, self.error = self.error, None
        if error is not None:
            raise error

    def done(self):
        return self.ended

    def cancel(self, msg=None):
        if self.ended:
            return False
        self.fail(self.cancelled_error() if msg is None else self.cancelled_error(msg))
        return True

    # What who wakes it calls.

    def end(self):
        """Let the task go on, in the next turn of its loop."""
        callback, context = self.callback, self.context
        self.over()
        if callback is not None:
            self.loop.call_soon(callback, self, context=context)

    def fail(self, error):
        """Raise an error in the task, in the next turn of its loop."""
        if not self.ended:
            self.error = error
            self.end()

    cdef void over(self) noexcept:
        # It holds nobody any more: a task and what it waits for would keep each other.
        self.ended = True
        self.callback = self.context = None


@cython.final
@cython.freelist(64)
cdef class Waiting(Waiter):
    """One caller's place in the queue of a connection's answers; awaited, it gives the list of them.

    `left`: how many are to come. `size`: bytes that were sent. `moved_before`: bytes that had been received by then.
    It has no end until somebody says how long Redis may take.
    """

    cdef public Py_ssize_t left, size, moved_before

    def __init__(self, loop, cancelled_error, Py_ssize_t left, Py_ssize_t size, Py_ssize_t moved_before):
        self.loop, self.until, self.cancelled_error, self.value = loop, INFINITY, cancelled_error, []
        self.left, self.size, self.moved_before = left, size, moved_before


cdef PyObject* quick_next(PyObject* self) noexcept:
    # Its end with a list, for which nobody needs an exception with a traceback: the interpreter takes the list.
    cdef Waiting waiting = <Waiting>self
    if waiting.ended and waiting.error is None and type(waiting.value) is list:
        PyErr_SetObject(StopIteration, waiting.value)
        return NULL
    return slow_next(self)


cdef iternextfunc slow_next = (<Slots*>Waiting).tp_iternext
(<Slots*>Waiting).tp_iternext = quick_next


def end_all(loop, list waiters not None):
    """Let the tasks of a loop go on now, in a call that the loop makes.

    What a task lets through, which is KeyboardInterrupt or SystemExit, comes out of here; then the loop calls again.
    """
    cdef Waiter waiter
    waiters.reverse()
    try:
        while waiters:
            waiter = waiters.pop()
            callback, context = waiter.callback, waiter.context
            waiter.over()
            if callback is not None:
                PyContext_Enter(context)
                try:
                    callback(waiter)
                finally:
                    PyContext_Exit(context)
    finally:
        if waiters:
            waiters.reverse()
            loop.call_soon(end_all, loop, waiters)
