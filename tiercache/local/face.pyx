"""The compiled face of a cache: it answers hits, and hands everything else, unread, to a Python method."""
cimport cython
from cpython.ref cimport PyObject
from cpython.unicode cimport PyUnicode_READ_CHAR
from cpython.version cimport PY_VERSION_HEX

from tiercache.local.alias cimport (
    MOST, Aliases, PyTuple_GET_ITEM, PyTuple_GET_SIZE, PyUnicode_CheckExact, call_hash, slot_of,
)
from tiercache.local.clock cimport latest as read_latest, monotonic as read_clock
from tiercache.local.lru cimport LRU, seek, text_hash
from tiercache.local.ready cimport Ready, ready
from tiercache.local.references cimport Py_CLEAR, Py_INCREF, Py_XINCREF, owned
from tiercache.local.table cimport Table, hit, hit_at


def monotonic():
    """Seconds of the monotonic clock that tier 1 reads."""
    return read_clock()


cdef extern from "Python.h":
    PyObject** _PyObject_GetDictPtr(object) noexcept


cdef class Face:
    """`get` and `get_or_load`, in both colours, on a table; `Cache` adds the rest."""

    cdef readonly Table table
    cdef object clock                 # None: the C clock
    cdef public bint _detour          # no value leaves by the short way: it is to be copied, or told of
    cdef dict __dict__                # for what a user adds
    cdef object __weakref__

    def __cinit__(self):
        if PY_VERSION_HEX >= 0x030C0000:  # where methods are found faster without it; it comes when it is needed
            Py_CLEAR(_PyObject_GetDictPtr(self)[0])

    def __init__(self, Table table not None, clock=None, bint detour=False):
        self.table = table
        self.clock = clock
        self._detour = detour

    cdef double told(self) except? -1.0:  # apart, so that a hit has the C clock inline
        return self.clock()

    cdef inline double latest(self) except? -1.0:
        # Now, or a little later.
        return read_latest() if self.clock is None else self.told()

    cdef inline PyObject* look(self, PyObject* key) except? NULL:
        # A reference to the value of a plain hit; NULL: it is none.
        # Keys with a # are not what the table has: there it stands before a digest.
        cdef PyObject* value
        cdef double latest
        if not PyUnicode_CheckExact(key) or PyUnicode_READ_CHAR(<object>key, 0) == c"#":
            return NULL
        if self.table is None or self._detour:
            return NULL
        latest = self.latest()
        with cython.critical_section(self.table):
            value = hit(self.table, key, latest)
            Py_XINCREF(value)
        return value

    def get(self, key, default=None):
        """The cached value of `key`, else `default`; runs no loader and waits for none."""
        cdef PyObject* value = self.look(<PyObject*>key)
        return self._get(key, default) if value == NULL else owned(value)

    def get_or_load(self, key, loader, *, ttl=None, **policy):
        """The value of `key`: cached, or from `loader()`, which runs once in the whole fleet.

        Any field of `Policy` can be given for this call; seconds.
        """
        cdef PyObject* value = NULL if policy and "copy" in policy else self.look(<PyObject*>key)
        return self._get_or_load(key, loader, ttl, policy) if value == NULL else owned(value)

    def aget(self, key, default=None):
        """Awaitable `get`."""
        cdef PyObject* value = self.look(<PyObject*>key)
        return self._aget(key, default) if value == NULL else ready(value)

    def aget_or_load(self, key, loader, *, ttl=None, **policy):
        """Awaitable `get_or_load`; `loader` may be a coroutine function or any other callable."""
        cdef PyObject* value = NULL if policy and "copy" in policy else self.look(<PyObject*>key)
        return self._aget_or_load(key, loader, ttl, policy) if value == NULL else ready(value)


cdef extern from "fastcall.h":
    ctypedef object (*vectorcallfunc)(PyObject*, PyObject* const*, size_t, PyObject*)
    void support_vectorcall "tiercache_vectorcall"(cls, Py_ssize_t offset)
    vectorcallfunc put_in_front "tiercache_put_in_front"(method, vectorcallfunc entry)
    Py_ssize_t PyVectorcall_NARGS(size_t) noexcept


# Faster entries of the methods above: they answer hits, and hand everything else to the entries they replace.


cdef object quick_get(PyObject* method, PyObject* const* args, size_t flags, PyObject* names):
    cdef PyObject* value = quick(args, flags, names, 2)
    return slow_get(method, args, flags, names) if value == NULL else owned(value)


cdef object quick_aget(PyObject* method, PyObject* const* args, size_t flags, PyObject* names):
    cdef PyObject* value = quick(args, flags, names, 2)
    return slow_aget(method, args, flags, names) if value == NULL else ready(value)


cdef object quick_get_or_load(PyObject* method, PyObject* const* args, size_t flags, PyObject* names):
    cdef PyObject* value = quick(args, flags, names, 3)
    return slow_get_or_load(method, args, flags, names) if value == NULL else owned(value)


cdef object quick_aget_or_load(PyObject* method, PyObject* const* args, size_t flags, PyObject* names):
    cdef PyObject* value = quick(args, flags, names, 3)
    return slow_aget_or_load(method, args, flags, names) if value == NULL else ready(value)


cdef inline PyObject* quick(PyObject* const* args, size_t flags, PyObject* names, Py_ssize_t least) except? NULL:
    # The value of a plain hit, if the call is of the usual form: a face, a key, not more than one other by position.
    cdef Py_ssize_t count = PyVectorcall_NARGS(flags)
    if least <= count <= 3 and is_silent(names) and isinstance(<object>args[0], Face):
        return (<Face>args[0]).look(args[1])
    return NULL


cdef str TTL = "ttl"  # the object that calls have too: names are interned
cdef Py_hash_t KEY = hash("key"), DEFAULT = hash("default"), LOADER = hash("loader"), COPY = hash("copy")


cdef inline bint is_silent(PyObject* names) noexcept:
    # Keywords that do not matter to a hit. (A name with the hash of one that does takes the long way, and is right.)
    cdef Py_ssize_t n
    cdef Py_hash_t name
    if names != NULL:
        for n in range(PyTuple_GET_SIZE(names)):
            if PyTuple_GET_ITEM(names, n) == <PyObject*>TTL:
                continue
            name = text_hash(PyTuple_GET_ITEM(names, n))
            if name == COPY or name == KEY or name == LOADER or name == DEFAULT:
                return False
    return True


cdef vectorcallfunc slow_get = put_in_front(Face.get, quick_get)
cdef vectorcallfunc slow_aget = put_in_front(Face.aget, quick_aget)
cdef vectorcallfunc slow_get_or_load = put_in_front(Face.get_or_load, quick_get_or_load)
cdef vectorcallfunc slow_aget_or_load = put_in_front(Face.aget_or_load, quick_aget_or_load)


cdef class Call:
    """A cached function's call: answers hits of plain arguments without formatting their key.

    `aliases`: where it remembers which arguments lead to which entry; None: every key is formatted.
    """

    cdef vectorcallfunc vectorcall
    cdef Face face
    cdef Aliases aliases
    cdef bint awaited
    cdef dict __dict__

    def __init__(self, Face face not None, bint awaited, Aliases aliases=None):
        self.face = face
        self.awaited = awaited
        self.aliases = aliases
        if aliases is not None:
            self.vectorcall = call

    def __call__(self, *args, **kwargs):
        return self._call(args, kwargs)

    def _hit(self, tuple args not None, dict kwargs not None, str key not None):
        """What a plain hit of `key` gives, which these arguments lead to from now on; else NotImplemented."""
        cdef list given = [*args, *kwargs.values()]
        cdef tuple words = tuple(kwargs)
        cdef PyObject* names = <PyObject*>words if words else NULL
        cdef Py_ssize_t positional = len(args)
        cdef PyObject* array[MOST]
        cdef size_t hash
        cdef unsigned int at
        cdef Table table
        cdef double latest
        if self.vectorcall == NULL or self.face._detour or len(given) > MOST:
            return NotImplemented
        for n, argument in enumerate(given):
            array[n] = <PyObject*>argument
        hash = call_hash(array, positional, len(given), names, self.aliases.ignored)
        table, latest = self.face.table, self.face.latest()
        with cython.critical_section(table):
            at = seek(table.lru, <PyObject*>key)
            if at == 0 or hit_at(table, at, latest) == NULL:
                return NotImplemented
            value = <object>table.lru.slots[at].value
            if hash:
                self.aliases.remember(hash, array, positional, len(given), names, table.lru, at)
        return Ready(value) if self.awaited else value


cdef object formatted(PyObject* self, PyObject* const* args, Py_ssize_t positional, Py_ssize_t given, PyObject* names):
    return (<Call>self)._call(
        tuple([<object>args[n] for n in range(positional)]),
        {<object>PyTuple_GET_ITEM(names, n): <object>args[positional + n] for n in range(given - positional)},
    )


cdef object call(PyObject* self, PyObject* const* args, size_t flags, PyObject* names):
    # What the type's vectorcall slot runs.
    cdef Py_ssize_t positional = PyVectorcall_NARGS(flags)
    cdef Py_ssize_t given = positional if names == NULL else positional + PyTuple_GET_SIZE(names)
    cdef PyObject* table = <PyObject*>(<Call>self).face.table  # borrowed, like the rest: counting would cost more
    cdef PyObject* lru = <PyObject*>(<Table>table).lru
    cdef PyObject* aliases = <PyObject*>(<Call>self).aliases
    cdef unsigned int at
    cdef double latest
    cdef PyObject* value
    if not (<Call>self).face._detour:
        latest = (<Call>self).face.latest()
        with cython.critical_section(<Table>table):
            at = slot_of(<Aliases>aliases, args, positional, given, names, <LRU>lru)
            value = hit_at(<Table>table, at, latest) if at else NULL
            if value != NULL:
                Py_INCREF(value)
                return ready(value) if (<Call>self).awaited else owned(value)
    return formatted(self, args, positional, given, names)


def by_vectorcall(cls):
    """A class decorator: makes the calls of a subclass of `Call` as quick as its own."""
    cdef Call any = Call.__new__(Call)
    support_vectorcall(cls, <char*>&any.vectorcall - <char*><void*>any)
    return cls


by_vectorcall(Call)
