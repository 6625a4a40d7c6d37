cdef class Record:
    cdef readonly unsigned char kind, codec, compression
    cdef readonly unsigned long long fresh_ms, hard_ms
    cdef readonly unsigned int delta_ms
    cdef readonly bytes id, payload
    cdef readonly bint soft_invalid, signed

    cpdef tuple ends(self, double sent, double left)


cdef class Found:
    cdef readonly Record record
    cdef readonly double remaining
