from tiercache.local.store cimport Store


cdef class Foreign(Store):
    cdef object cache
