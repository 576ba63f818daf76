cimport cython
from rimstone.iomodel.base cimport Scheduler


@cython.final
cdef class Greenlets:
    cpdef object switch(self, object target)
    cpdef object current(self)
    cpdef object outermost(self, object method)


@cython.final
cdef class PerThread:
    cpdef Scheduler get(self)
    cpdef object set(self, object value)
