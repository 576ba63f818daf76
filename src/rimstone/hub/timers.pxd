cimport cython
from rimstone.hub.taskcore cimport TaskCore


cdef class Timers:
    cdef public list _heap
    cdef public object _order
    cdef public Py_ssize_t _compact_at, _pushes

    cpdef add(self, TaskCore task)
    cpdef add_kept(self, TaskCore task)
    cdef _push(self, TaskCore task, who)
    cpdef double next_look(self) except? -1
    @cython.locals(deadline=double, task=TaskCore)
    cpdef bint is_first_live(self) except -1
    @cython.locals(deadline=double, task=TaskCore)
    cpdef double next_deadline(self) except? -1
    @cython.locals(deadline=double, task=TaskCore)
    cpdef due(self, double now)
    @cython.locals(deadline=double, task=TaskCore)
    cpdef _settle_first(self)
    @cython.locals(task=TaskCore, pushes=Py_ssize_t)
    cpdef _compact(self)


cdef TaskCore _task_of(who)
