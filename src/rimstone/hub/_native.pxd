cimport cython


@cython.final
cdef class Greenlets:
    cpdef object switch(self, object target)
    cpdef object current(self)


@cython.final
cdef class PerThread:
    cpdef object get(self)
    cpdef object set(self, object value)
