from tiercache.local.store cimport Entry, Store


cdef class Foreign(Store):
    cdef object cache
    cdef Entry found                  # by the last `find`: what it returned points into it
