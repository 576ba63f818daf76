cimport cython
from rimstone.hub.scheduler cimport Hub as CHub
from rimstone.hub.taskcore cimport TaskCore as CTaskCore


cdef class TaskWaiter:
    cdef CHub _hub
    cdef CTaskCore _task
    cdef public bint granted

    @cython.locals(reason=int)
    cpdef park(self, deadline=*)
    @cython.locals(hub=CHub)
    cpdef unpark(self)
    cpdef wake_task(self)
    cpdef cancel(self)
