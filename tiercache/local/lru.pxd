from cpython.ref cimport PyObject

from tiercache.local.store cimport Store


cdef class LRU(Store):
    # Guarded by the table's lock.
    cdef PyObject* newest
    cdef PyObject* oldest
    cdef Py_ssize_t max_entries
    cdef long long max_bytes          # -1: no bound
    cdef long long bytes_

    cdef void link(self, PyObject* entry) noexcept
    cdef void unlink(self, PyObject* entry) noexcept
