cimport cython
from rimstone.hub._native cimport Greenlets, PerThread
from rimstone.hub.taskcore cimport TaskCore
from rimstone.hub.timers cimport Timers
from rimstone.iomodel.base cimport Scheduler

cdef PerThread _here
cdef int IO, KILLED, UNPARKED


cdef class Hub(Scheduler):
    cdef public object thread_id, on_idle, after_poll
    cdef public TaskCore root
    cdef public set tasks
    cdef public Py_ssize_t switches, polls
    cdef public bint polling, forked, closed
    cdef list _ready, _round
    cdef object _new, _runner, _unparked, _soon, _struck, _closing, _launcher
    cdef Py_ssize_t _turn, _new_ready
    cdef Timers _timers
    cdef readonly bint _scheduling
    cdef bint _blocked
    cdef TaskCore _starting, _nobody
    cdef list _idle
    cdef object _barred
    cdef Greenlets _greenlets
    cdef object __weakref__

    @cython.locals(task=TaskCore, reason=int)
    cpdef int park(self, deadline=*) except -1
    @cython.locals(task=TaskCore, reason=int, before=int, following=TaskCore, idle=list)
    cpdef int wait(self, waiting, double until, bint ready=*) except -1
    @cython.locals(task=TaskCore)
    cpdef reschedule(self)
    cpdef give_way(self)
    @cython.locals(task=TaskCore)
    cpdef check_wait(self)
    @cython.locals(task=TaskCore)
    cpdef bint may_wait(self) except -1
    @cython.locals(parked=TaskCore)
    cpdef make_ready(self, task, int reason)
    @cython.locals(parked=TaskCore)
    cpdef happened(self, task, waiting)
    cpdef unpark_soon(self, waiting)
    cpdef start(self, task)
    cpdef forget(self, task)
    cpdef wake_if_blocked(self)
    cpdef bint is_running(self, TaskCore task) except -1
    @cython.locals(ended=TaskCore)
    cdef TaskCore _begin(self, bint has_run)
    @cython.locals(task=TaskCore, idle=list)
    cdef TaskCore _find_work(self)
    @cython.locals(task=TaskCore)
    cdef _settle(self, error)
    cdef int _may_not_wait(self, TaskCore task, waiting, double until, bint ready) except -1
    cdef _turn_back(self, TaskCore task)
    cdef _refuse_wait(self, TaskCore task)
    cdef int _wait_as_host(self, TaskCore task, waiting, double until, bint ready) except -1
    cdef TaskCore _following(self, TaskCore task, bint ready)
    @cython.locals(task=TaskCore, ready=list, spent=list, turn=Py_ssize_t)
    cdef TaskCore _next(self)
    @cython.locals(deadline=double, task=TaskCore, ready=list)
    cdef _poll(self)
    cdef _refuse_deadlock(self)
    @cython.locals(count=Py_ssize_t)
    cdef _take_news(self)
    cpdef _take_last_news(self)
    cpdef throw_later(self, list thrown)
    @cython.locals(timers=Timers, now=double, task=TaskCore)
    cdef _look(self, timeout)
    @cython.locals(root=TaskCore)
    cpdef _give_to_root(self, error)


cpdef current_hub()
cpdef get_hub(model=*)
