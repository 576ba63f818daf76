from rimstone.iomodel.base cimport Waiting


cdef class TaskCore(Waiting):
    # What a switch looks at comes first, so that it lies in as few cache lines as possible.
    cdef public char reason, started, parked, _done
    cdef public int _getters
    cdef public object greenlet, pending, guest
    cdef public double deadline, timer
    cdef public object hub, context, locals
    cdef public object _function, _args, _name, _value, _error, _waiters
    cdef public Py_ssize_t number

    cpdef end(self)
    cpdef end_with(self, error)
    cpdef abandon(self)
    cpdef _finish(self)
    cpdef _tell_waiters(self)
    cpdef raise_pending(self)
    cpdef throw_in(self, error)
    cpdef fire(self)
    cpdef ready(self)
    cpdef add_waiter(self, waiting)
    cpdef remove_waiter(self, waiting)
