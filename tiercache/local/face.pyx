"""The compiled face of a cache: it answers hits, and hands everything else, unread, to a Python method."""
cimport cython
from cpython.exc cimport PyErr_SetObject
from cpython.ref cimport Py_INCREF, PyObject

from collections.abc import Coroutine

from tiercache.local cimport clock
from tiercache.local.table cimport Table


def monotonic():
    """Seconds of the monotonic clock that tier 1 reads."""
    return clock.monotonic()


cdef class Face:
    """`get` and `get_or_load`, in both colours, on a table; `Cache` adds the rest."""

    cdef readonly Table table
    cdef object clock                 # None: the C clock
    cdef bint copies                  # every caller gets a copy: no value leaves by the short way

    def __init__(self, Table table, clock=None, bint copies=False):
        self.table = table
        self.clock = clock
        self.copies = copies

    cdef inline double now(self) except? -1.0:
        return clock.monotonic() if self.clock is None else self.clock()

    cdef inline object hit(self, key, default):
        # The value of a plain hit, else `default`.
        cdef Table table = self.table
        cdef PyObject* value
        if type(key) is not str or self.copies:
            return default
        with cython.critical_section(table):
            value = table.hit(<str>key, self.now())
            return default if value == NULL else <object>value

    def get(self, key, default=None):
        """The cached value of `key`, else `default`; runs no loader and waits for none."""
        value = self.hit(key, MISSING)
        return self._get(key, default) if value is MISSING else value

    def get_or_load(self, key, loader, *, ttl=None, **policy):
        """The value of `key`: cached, or from `loader()`, which runs once in the whole fleet.

        Any field of `Policy` can be given for this call; seconds.
        """
        if not (policy and "copy" in policy):
            value = self.hit(key, MISSING)
            if value is not MISSING:
                return value
        return self._get_or_load(key, loader, ttl, policy)

    def aget(self, key, default=None):
        """Awaitable `get`."""
        value = self.hit(key, MISSING)
        return self._aget(key, default) if value is MISSING else Ready(value)

    def aget_or_load(self, key, loader, *, ttl=None, **policy):
        """Awaitable `get_or_load`; `loader` may be a coroutine function or any other callable."""
        if not (policy and "copy" in policy):
            value = self.hit(key, MISSING)
            if value is not MISSING:
                return Ready(value)
        return self._aget_or_load(key, loader, ttl, policy)


cdef class Call:
    """A cached function's call: answers hits of short plain arguments without formatting their key.

    `aliases` maps exact ints and strings (a tuple of them for several arguments) to the key that
    formatting gave; 1, True and 1.0 can't meet there, because only exact types are looked up.
    """

    cdef Face face
    cdef dict aliases
    cdef Py_ssize_t bound
    cdef bint awaited
    cdef dict __dict__

    def __init__(self, Face face, bint awaited, Py_ssize_t bound):
        self.face = face
        self.awaited = awaited
        self.bound = bound
        self.aliases = {}

    @staticmethod
    cdef inline object alias(tuple args):
        # What stands for these arguments in `aliases`, or None where only their key can.
        if len(args) == 1:
            only = args[0]
            return only if type(only) is int or type(only) is str else None
        for arg in args:
            if type(arg) is not int and type(arg) is not str:
                return None
        return args

    def __call__(self, *args, **kwargs):
        if not kwargs and not self.face.copies:
            alias = Call.alias(args)
            if alias is not None:
                key = self.aliases.get(alias)
                if key is not None:
                    value = self.face.hit(key, MISSING)
                    if value is not MISSING:
                        return Ready(value) if self.awaited else value
        return self._call(args, kwargs)

    def _remember(self, tuple args, dict kwargs, str key):
        # Let these arguments lead to `key` from now on, if they can.
        if not kwargs:
            alias = Call.alias(args)
            if alias is not None:
                if len(self.aliases) >= self.bound:
                    self.aliases = {}
                self.aliases[alias] = key


cdef object MISSING = object()


@cython.final
@cython.freelist(64)
cdef class Ready:
    """An awaitable that already has its value; it can be awaited, gathered and made a task of."""

    cdef object value

    def __cinit__(self, value):
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
        raise kind if value is None else value

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
    ctypedef struct Slots "PyTypeObject":
        AsyncSlots* tp_as_async
        void* tp_iternext


cdef SendResult ready_send(PyObject* self, PyObject* sent, PyObject** result) noexcept:
    result[0] = <PyObject*>(<Ready>self).value
    Py_INCREF((<Ready>self).value)
    return PYGEN_RETURN


cdef PyObject* ready_next(PyObject* self) noexcept:
    value = (<Ready>self).value
    if isinstance(value, (tuple, BaseException)):
        value = StopIteration(value)  # SetObject alone would take these for the exception's own arguments
    PyErr_SetObject(StopIteration, value)
    return NULL


(<Slots*>Ready).tp_as_async.am_send = <void*>ready_send
(<Slots*>Ready).tp_iternext = <void*>ready_next
