cimport cython
from rimstone.hub._native cimport Greenlets as CGreenlets, PerThread as CPerThread
from rimstone.hub.taskcore cimport TaskCore as CTaskCore
from rimstone.hub.timers cimport Timers as CTimers
from rimstone.iomodel.base cimport IOModel as CIOModel, Scheduler

cdef CPerThread _here


cdef class Hub(Scheduler):
    cdef public object thread_id, on_idle
    cdef public CIOModel io
    cdef public CTaskCore root
    cdef public set tasks
    cdef public Py_ssize_t switches, polls
    cdef public bint polling, forked, closed
    cdef object _ready, _unparked, _soon, _struck, _closing, _launcher
    cdef Py_ssize_t _round
    cdef CTimers _timers
    cdef readonly bint _scheduling
    cdef bint _blocked
    cdef CTaskCore _starting
    cdef list _idle
    cdef CGreenlets _greenlets
    cdef object __weakref__

    @cython.locals(task=CTaskCore)
    cpdef int park(self, deadline=*, waiting=*) except -1
    @cython.locals(task=CTaskCore)
    cpdef reschedule(self)
    @cython.locals(parked=CTaskCore)
    cpdef make_ready(self, task, int reason)
    cpdef unpark_soon(self, waiting)
    cpdef start(self, task)
    cpdef forget(self, task)
    cpdef wake_if_blocked(self)
    cpdef bint is_running(self, CTaskCore task) except -1
    @cython.locals(task=CTaskCore, idle=list)
    cdef _run_task(self, me)
    @cython.locals(task=CTaskCore)
    cdef _settle(self, error)
    @cython.locals(following=CTaskCore, idle=list)
    cdef _switch_away(self, CTaskCore task, waiting, bint ready)
    cdef CTaskCore _following(self, CTaskCore task, bint ready)
    @cython.locals(task=CTaskCore)
    cdef CTaskCore _next(self)
    @cython.locals(deadline=double)
    cdef _poll(self)
    cdef _take_news(self)
    @cython.locals(timers=CTimers, now=double, task=CTaskCore)
    cdef _look(self, timeout)
    cdef _give_to_root(self, error)


cpdef current_hub()
cpdef get_hub()
