cimport cython
from rimstone.hub.taskcore cimport TaskCore as CTaskCore


cdef class Timers:
    cdef public list _heap
    cdef public object _order
    cdef public Py_ssize_t _compact_at

    cpdef add(self, CTaskCore task)
    @cython.locals(deadline=double, task=CTaskCore)
    cpdef double next_deadline(self) except? -1
    @cython.locals(deadline=double, task=CTaskCore)
    cpdef due(self, double now)
    @cython.locals(deadline=double, task=CTaskCore)
    cpdef _settle_first(self)
    @cython.locals(task=CTaskCore)
    cpdef _compact(self)
