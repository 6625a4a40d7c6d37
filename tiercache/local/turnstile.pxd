cdef extern from "pythread.h" nogil:
    ctypedef void* PyThread_type_lock


cdef class Turn:
    cdef PyThread_type_lock lock, next_lock
    cdef Turn next  # whose lock `next_lock` is
    cdef bint taken

    cdef void come(self) noexcept
    cdef void lead_to(self, Turn next) noexcept
    cdef bint take(self, double seconds) except -1
    cdef void pass_on(self) noexcept
