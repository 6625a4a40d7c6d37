from cpython.ref cimport PyObject


cdef class Ready:
    cdef object value


cdef object ready(PyObject* value)
