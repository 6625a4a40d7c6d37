"""A cachetools.Cache in place of the LRU."""
cimport cython

from threading import RLock

from cachetools import Cache

from tiercache.local.store cimport Entry, Store


@cython.final
cdef class Foreign(Store):
    """Entries in a cache of the user's, which runs Python code and so needs a lock of its own.

    The garbage collector does not see into it: a value that refers back to its own cache stays for ever.
    """

    def __cinit__(self, cache):
        self.entries = {}
        self.guard = RLock()
        self.cache = cache

    cdef Entry find(self, str key):
        return self.cache.get(key)

    cdef Entry take(self, str key):
        return self.cache.pop(key, None)

    cdef Py_ssize_t put(self, Entry entry, list dropped) except -1:
        # It replaces rather than takes and stores, so that an LFU goes on counting.
        cdef Py_ssize_t size = len(self.cache)
        if entry.key in self.cache:
            dropped.append(unmoved(self.cache, entry.key))
        else:
            size += 1
        try:
            self.cache[entry.key] = entry
        except Exception as error:
            dropped.append(self.take(entry.key))
            if not isinstance(error, ValueError):  # "value too large": cachetools' word for what can never fit
                raise
        return max(0, size - <Py_ssize_t>len(self.cache))

    cdef int clear(self, list dropped) except -1:
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
