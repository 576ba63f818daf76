cimport cython
from rimstone.iomodel._entry cimport SocketEntry
from rimstone.iomodel._readiness cimport ReadinessModel
from rimstone.iomodel._ring cimport Operation, Ring
from rimstone.iomodel.base cimport Scheduler, Waiting

cdef int READ, WRITE, CLOSED, IO, KILLED, TIMEOUT, UNPARKED, MSG_DONTWAIT, MSG_WAITALL
cdef Py_ssize_t _BUDGET_BYTES, _CROWD, _PIECE_BYTES


cdef class UringModel(ReadinessModel):
    cdef Ring _ring
    cdef public object _wakeup

    cdef _begin(self, Operation operation, SocketEntry entry, int direction)
    @cython.locals(task=Waiting)
    cdef _prepare(self, Operation operation)
    @cython.locals(entry=SocketEntry)
    cdef int _left(self, Operation operation, int reason) except -1
    @cython.locals(entry=SocketEntry)
    cdef int _result(self, Operation operation, sock, int direction) except? -1
    cdef int _ended(self, Operation operation, sock, int direction, int reason) except? -1
    cdef int _await(self, Operation operation, SocketEntry entry, sock, int direction, double until) except? -1
    @cython.locals(operation=Operation, reason=int)
    cpdef int _wait_entry(self, SocketEntry entry, sock, int direction, deadline) except -1
    @cython.locals(operation=Operation, reason=int)
    cpdef wait(self, int fd, int events, deadline=*)
    cpdef _disarm(self, SocketEntry entry)
    cdef _wake(self, SocketEntry entry, waiting)
    cdef _wake_by_number(self, dict waiting, Py_ssize_t fd)
    cpdef cancel(self, task)
    @cython.locals(waits=Waiting)
    cdef _withdraw(self, task, int fd)
    cpdef waits(self)
    @cython.locals(ring=Ring)
    cpdef poll(self, timeout)
    cpdef wake(self)
    cdef bint _shares(self) except -1
    @cython.locals(entry=SocketEntry)
    cpdef begin_recv(self, sock, Py_ssize_t size_bytes, int flags, timeout)
    @cython.locals(operation=Operation, entry=SocketEntry)
    cpdef end_recv(self, sock, Py_ssize_t size_bytes, int flags, waiting, double until, int reason)
    @cython.locals(by_ring=bint, data=bytes)
    cdef _next_recv(
        self, SocketEntry entry, sock, Py_ssize_t size_bytes, int flags, double until, bint shares, bint again
    )
    @cython.locals(entry=SocketEntry)
    cpdef begin_recv_into(self, sock, buffer, Py_ssize_t size_bytes, int flags, timeout)
    @cython.locals(operation=Operation, entry=SocketEntry, count=int)
    cpdef end_recv_into(self, sock, buffer, Py_ssize_t size_bytes, int flags, waiting, double until, int reason)
    @cython.locals(operation=Operation)
    cdef _begin_waiting(self, SocketEntry entry, sock, Py_ssize_t size_bytes, double until, bint again)
    @cython.locals(by_ring=bint, count=Py_ssize_t, room=Py_ssize_t)
    cdef _next_recv_into(
        self, SocketEntry entry, sock, buffer, Py_ssize_t size_bytes, int flags, double until, bint shares, bint again
    )
    @cython.locals(until=double)
    cpdef send(self, sock, data, int flags, timeout)
    @cython.locals(entry=SocketEntry, sent=Py_ssize_t)
    cpdef begin_send(self, sock, data, int flags, timeout)
    @cython.locals(operation=Operation, sent=Py_ssize_t)
    cpdef end_send(self, sock, data, int flags, waiting, double until, int reason)
    @cython.locals(operation=Operation)
    cdef _next_send(self, SocketEntry entry, sock, data, Py_ssize_t start, int flags, bint whole)
    @cython.locals(entry=SocketEntry, operation=Operation, sent=Py_ssize_t, size=Py_ssize_t, until=double)
    cpdef sendall(self, sock, data, int flags, timeout)
    @cython.locals(entry=SocketEntry, operation=Operation, until=double)
    cpdef accept(self, sock, timeout)
    @cython.locals(operation=Operation)
    cdef Py_ssize_t _use_file(self, int fd, buffer, long long offset, bint writes) except -1
    @cython.locals(scheduler=Scheduler)
    cdef int _finish_file(self, Operation operation) except? -1


cdef Py_ssize_t _room(buffer, Py_ssize_t size_bytes) except -1
