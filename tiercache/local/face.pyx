"""The compiled face of a cache: it answers hits, and hands everything else, unread, to a Python method."""
cimport cython
from cpython.ref cimport PyObject
from cpython.unicode cimport PyUnicode_READ_CHAR

from tiercache.local.clock cimport monotonic as read_clock
from tiercache.local.ready cimport ready
from tiercache.local.table cimport Table


def monotonic():
    """Seconds of the monotonic clock that tier 1 reads."""
    return read_clock()


cdef object MISSING = object()


cdef class Face:
    """`get` and `get_or_load`, in both colours, on a table; `Cache` adds the rest."""

    cdef readonly Table table
    cdef object clock                 # None: the C clock
    cdef bint copies                  # every caller gets a copy: no value leaves by the short way

    def __init__(self, Table table not None, clock=None, bint copies=False):
        self.table = table
        self.clock = clock
        self.copies = copies

    cdef inline double now(self) except? -1.0:
        return read_clock() if self.clock is None else self.clock()

    cdef inline object look(self, str key, default):
        # The value of a plain hit on a key of the table, else `default`.
        cdef Table table = self.table
        cdef PyObject* value
        cdef double now
        if table is None or self.copies:
            return default
        now = self.now()
        with cython.critical_section(table):
            value = table.hit(key, now)
            return default if value == NULL else <object>value

    cdef inline object hit(self, key, default):
        # The same for a user's key. Those with a # are not what the table has: there it stands before a digest.
        if type(key) is not str or PyUnicode_READ_CHAR(key, 0) == c"#":
            return default
        return self.look(<str>key, default)

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
        return self._aget(key, default) if value is MISSING else ready(value)

    def aget_or_load(self, key, loader, *, ttl=None, **policy):
        """Awaitable `get_or_load`; `loader` may be a coroutine function or any other callable."""
        if not (policy and "copy" in policy):
            value = self.hit(key, MISSING)
            if value is not MISSING:
                return ready(value)
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

    def __init__(self, Face face not None, bint awaited, Py_ssize_t bound):
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
        if not kwargs:
            alias = Call.alias(args)
            if alias is not None:
                key = self.aliases.get(alias)
                if key is not None:
                    value = self.face.look(key, MISSING)
                    if value is not MISSING:
                        return ready(value) if self.awaited else value
        return self._call(args, kwargs)

    def _remember(self, tuple args not None, dict kwargs, str key):
        # Let these arguments lead to `key` from now on, if they can.
        if not kwargs:
            alias = Call.alias(args)
            if alias is not None:
                if len(self.aliases) >= self.bound:
                    self.aliases = {}
                self.aliases[alias] = key
