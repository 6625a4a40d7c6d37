from tiercache.local.store cimport Store


cdef class Foreign(Store):
    cdef object cache                 # guarded by the table's lock, and so by `guard`
