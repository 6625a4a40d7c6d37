"""A cachetools.Cache in place of the LRU."""
cimport cython

from threading import RLock

from cachetools import Cache

from tiercache.local.store cimport Ends, Entry, Store


@cython.final
cdef class Foreign(Store):
    """Entries in a cache of the user's, which runs Python code and so needs a lock of its own.

    The garbage collector does not see into it: a value that refers back to its own cache stays for ever.
    """

    def __cinit__(self, cache):
        self.guard = RLock()
        self.cache = cache

    cdef Ends* find(self, str key, void** value) except? NULL:
        self.found = self.cache.get(key)
        if self.found is None:
            return NULL
        value[0] = <void*>self.found.value
        return &self.found.ends

    cdef bint take(self, str key, list dropped) except -1:
        self.found = None
        taken = self.cache.pop(key, None)
        dropped.append(taken)
        return taken is not None

    cdef Py_ssize_t put(self, Entry entry, list dropped) except -1:
        # It replaces rather than takes and stores, so that an LFU goes on counting.
        cdef Py_ssize_t size = len(self.cache)
        self.found = None
        if entry.key in self.cache:
            dropped.append(unmoved(self.cache, entry.key))
        else:
            size += 1
        try:
            self.cache[entry.key] = entry
        except Exception as error:
            self.take(entry.key, dropped)
            if not isinstance(error, ValueError):  # "value too large": cachetools' word for what can never fit
                raise
        return max(0, size - <Py_ssize_t>len(self.cache))

    cdef int clear(self, list dropped) except -1:
        self.found = None
        dropped.append([unmoved(self.cache, key) for key in self.cache])
        self.cache.clear()
        return 0

    cdef Py_ssize_t count(self) except -1:
        return len(self.cache)

    cdef long long weight(self) except -1:
        return sum([unmoved(self.cache, key).weight for key in self.cache])


cdef Entry unmoved(cache, key):
    # The entry, without the mark of its use that the subclasses' own look-up leaves.
    return Cache.__getitem__(cache, key)
