cdef class Ready:
    cdef object value


cdef inline Ready ready(object value):
    # What Ready(value) makes, without packing arguments.
    cdef Ready made = Ready.__new__(Ready)
    made.value = value
    return made
