# References counted by hand. A value on its way to a caller is counted once and handed on: CPython 3.12 and 3.13 count
# up in 32 bits and down in 64, and who counts an object down just after up waits for the memory, a fifth of a hit.
from cpython.ref cimport PyObject


cdef extern from *:
    """
    #define tiercache_owned(reference) (reference)
    """
    object owned "tiercache_owned"(PyObject* reference)  # the reference becomes Cython's own
    PyObject* Py_None
    void Py_INCREF(PyObject*) noexcept
    void Py_XINCREF(PyObject*) noexcept
    void Py_DECREF(PyObject*) noexcept
    void Py_CLEAR(PyObject*) noexcept
    Py_ssize_t Py_REFCNT(PyObject*) noexcept
    void Py_SET_REFCNT(PyObject*, Py_ssize_t) noexcept
