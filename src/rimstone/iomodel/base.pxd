cdef class IOModel


cdef class Scheduler:
    cdef public object current
    cdef public IOModel io
    cdef public Py_ssize_t budget

    cpdef int park(self, deadline=*) except -1
    cpdef reschedule(self)
    cpdef give_way(self)
    cpdef make_ready(self, task, int reason)


cdef class IOModel:
    cdef public Scheduler scheduler

    cpdef recv(self, sock, Py_ssize_t size_bytes, int flags, timeout)
    cpdef recv_into(self, sock, buffer, Py_ssize_t size_bytes, int flags, timeout)
    cpdef send(self, sock, data, int flags, timeout)
    cpdef sendall(self, sock, data, int flags, timeout)
    cpdef accept(self, sock, timeout)
    cpdef connect(self, sock, address, timeout)
    cpdef poll(self, timeout)
    cpdef waits(self)
    cpdef wake(self)
