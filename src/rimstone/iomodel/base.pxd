cdef class IOModel


cdef class Waiting:
    cdef public object waiting
    cdef public bint enlisted


cdef class Scheduler:
    cdef public object current
    cdef public IOModel io
    cdef public Py_ssize_t budget

    cpdef int park(self, deadline=*) except -1
    cpdef int wait(self, waiting, double until, bint ready=*) except -1
    cpdef reschedule(self)
    cpdef give_way(self)
    cpdef throw_later(self, list thrown)
    cpdef wake_if_blocked(self)
    cpdef check_wait(self)
    cpdef bint may_wait(self) except -1
    cpdef make_ready(self, task, int reason)
    cpdef happened(self, task, waiting)


cdef class IOModel:
    cdef public Scheduler scheduler

    cpdef recv(self, sock, Py_ssize_t size_bytes, int flags, timeout)
    cpdef begin_recv(self, sock, Py_ssize_t size_bytes, int flags, timeout)
    cpdef end_recv(self, sock, Py_ssize_t size_bytes, int flags, waiting, double until, int reason)
    cpdef recv_into(self, sock, buffer, Py_ssize_t size_bytes, int flags, timeout)
    cpdef begin_recv_into(self, sock, buffer, Py_ssize_t size_bytes, int flags, timeout)
    cpdef end_recv_into(self, sock, buffer, Py_ssize_t size_bytes, int flags, waiting, double until, int reason)
    cpdef send(self, sock, data, int flags, timeout)
    cpdef begin_send(self, sock, data, int flags, timeout)
    cpdef end_send(self, sock, data, int flags, waiting, double until, int reason)
    cpdef sendall(self, sock, data, int flags, timeout)
    cpdef accept(self, sock, timeout)
    cpdef connect(self, sock, address, timeout)
    cpdef poll(self, timeout)
    cpdef waits(self)
    cpdef cancel(self, task)
    cpdef wake(self)
