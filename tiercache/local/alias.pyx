"""From a call's arguments to the entry that they lead to, without formatting a key.

Theory. A call's key is a function of its arguments, but making it costs more than the rest of a hit. So a cached
function remembers, for plain arguments, in which slot of the LRU their key stood, and which object that key was. An
alias holds as long as that very object is the key of that slot: a slot keeps its key for the whole life of an entry,
refreshes included, and the alias holds a reference, so that the object can't be another one's meanwhile. It holds no
value and no entry; what is evicted or invalidated is gone, and its alias leads nowhere.

Arguments are plain if they are exactly an int, str, bytes or None: these hash and compare without Python code, and
two of one type that are equal format alike (not so 0.0 and -0.0). Types are compared first, so 1, True, 1.0 and "1"
never meet. Keyword names are part of an alias, in the order in which they were given. An argument that has no say in
the key (`self`, in most templates) is passed over, whatever it is, but counted.

The table is open-addressed and bounded: when `bound` aliases are in it, it starts anew. An alias stands within 16
places of its own, where the last one is overwritten if all are taken, so that crafted arguments cost no time.
"""
cimport cython
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.ref cimport Py_INCREF, Py_XDECREF, PyObject

from tiercache.local.lru cimport LRU


@cython.final
cdef class Aliases:
    """The aliases of one cached function. `ignored`: the positions of arguments that have no say in the key."""

    def __cinit__(self, Py_ssize_t bound=1, ignored=()):
        self.bound = max(1, bound)
        for position in ignored:
            if position < MOST:  # a longer call has no alias
                self.ignored |= 1u << <unsigned int>position
        self.spread(16)

    def __dealloc__(self):
        self.forget()
        PyMem_Free(self.aliases)

    cdef int remember(
        self, size_t hash, PyObject* const* args, Py_ssize_t positional, Py_ssize_t given, PyObject* names,
        LRU lru, unsigned int at
    ) except -1:
        cdef Alias* alias = seek_alias(self, hash, args, positional, given, names)
        cdef Py_ssize_t n
        cdef int _
        cdef size_t where
        if alias == NULL:
            told = tuple([<object>args[n] for n in range(given) if n >= positional or not self.ignored >> n & 1])
            if self.count >= self.bound:
                self.forget()
            elif 2 * (self.count + 1) > self.mask + 1:
                self.spread(2 * (self.mask + 1))
            where = hash & self.mask
            for _ in range(LOOKS - 1):
                if self.aliases[where].key == NULL:
                    break
                where = (where + 1) & self.mask
            alias = &self.aliases[where]
            if alias.key == NULL:
                self.count += 1
            drop(alias)
            alias.hash, alias.given, alias.told = hash, given, len(told)
            alias.args = <PyObject*>(told[0] if len(told) == 1 else told)
            alias.names = names
            Py_INCREF(<object>alias.args)
            if names != NULL:
                Py_INCREF(<object>names)
        else:
            Py_XDECREF(alias.key)
        alias.key, alias.at = lru.slots[at].key, at
        Py_INCREF(<object>alias.key)
        return 0

    cdef int spread(self, size_t size) except -1:
        # Move to a larger table; who finds no place there is forgotten.
        cdef Alias* old = self.aliases
        cdef size_t each, where, places = self.mask + 1 if old != NULL else 0
        cdef int _
        cdef Alias* aliases = <Alias*>PyMem_Calloc(size, sizeof(Alias))
        if aliases == NULL:
            raise MemoryError
        self.aliases, self.mask, self.count = aliases, size - 1, 0
        for each in range(places):
            if old[each].key == NULL:
                continue
            where = old[each].hash & self.mask
            for _ in range(LOOKS):
                if aliases[where].key == NULL:
                    aliases[where] = old[each]
                    self.count += 1
                    break
                where = (where + 1) & self.mask
            else:
                drop(&old[each])
        PyMem_Free(old)
        return 0

    cdef int forget(self) except -1:
        cdef size_t each
        for each in range(self.mask + 1):
            drop(&self.aliases[each])
        self.count = 0
        return 0


cdef int drop(Alias* alias) except -1:
    # Strings, numbers and tuples of them: their end runs no Python code.
    if alias.key != NULL:
        Py_XDECREF(alias.key)
        Py_XDECREF(alias.args)
        Py_XDECREF(alias.names)
        alias.key = NULL
    return 0
