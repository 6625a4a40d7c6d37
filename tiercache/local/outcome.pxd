cdef class Outcome:
    cdef public object value, error, source, born, failure
    cdef public bint stale
