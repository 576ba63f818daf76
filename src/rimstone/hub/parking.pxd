cimport cython
from rimstone.hub.scheduler cimport Hub
from rimstone.hub.taskcore cimport TaskCore


cdef class TaskWaiter:
    cdef Hub _hub
    cdef TaskCore _task
    cdef public bint granted

    @cython.locals(reason=int, task=TaskCore)
    cpdef park(self, deadline=*)
    @cython.locals(hub=Hub)
    cpdef unpark(self)
    cpdef wake_task(self)
    cpdef cancel(self)
