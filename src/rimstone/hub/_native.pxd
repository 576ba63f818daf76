cimport cython
from rimstone.iomodel.base cimport Scheduler


@cython.final
cdef class Greenlets:
    cdef public object raised

    cpdef object switch(self, object target)
    cdef _keep_raised(self)
    cpdef object current(self)
    cpdef object outermost(self, object method)


@cython.final
cdef class PerThread:
    cpdef Scheduler get(self)
    cpdef object set(self, object value)
