cimport cython
from rimstone.iomodel._entry cimport SocketEntry, Sockets
from rimstone.iomodel.base cimport IOModel, Scheduler, Waiting

cdef int READ, WRITE, CLOSED, IO, KILLED, TIMEOUT, UNPARKED, MSG_DONTWAIT, MSG_WAITALL


cdef class ReadinessModel(IOModel):
    cdef Sockets _sockets
    cdef public list _entries
    cdef public dict _readers, _writers
    cdef SocketEntry _waiting

    cpdef _watch(self, int fd)
    cpdef _arm(self, SocketEntry entry)
    cpdef _disarm(self, SocketEntry entry)
    cpdef SocketEntry _entry_at(self, Py_ssize_t fd)
    @cython.locals(entry=SocketEntry)
    cpdef waits(self)
    @cython.locals(entry=SocketEntry)
    cpdef int _wanted(self, Py_ssize_t fd) except -1
    @cython.locals(entry=SocketEntry)
    cpdef _ready(self, Py_ssize_t fd, int events)
    @cython.locals(scheduler=Scheduler)
    cdef _wake(self, SocketEntry entry, waiting)
    cdef _wake_by_number(self, dict waiting, Py_ssize_t fd)
    cpdef _delist(self, int fd, task)
    @cython.locals(scheduler=Scheduler)
    cpdef int _wait_entry(self, SocketEntry entry, sock, int direction, deadline) except -1
    cdef int _waited(self, SocketEntry entry, sock, int reason) except -1
    cdef _in_vain(self, SocketEntry entry, sock, int direction, double until)
    @cython.locals(reason=int)
    cpdef int _pause_in_vain(self, SocketEntry entry, sock, int direction, double until) except -1
    @cython.locals(reason=int)
    cpdef _until_ready(self, SocketEntry entry, sock, int direction, deadline, bint again=*)
    cdef _end_wait(self, SocketEntry entry, sock, int reason)
    @cython.locals(task=Waiting)
    cdef _enlist_at(self, SocketEntry entry, int direction)
    cdef _arm_or_leave(self, SocketEntry entry, task)
    cdef bint _is_displaced(self, SocketEntry entry) except -1
    cdef _leave(self, SocketEntry entry, task)
    @cython.locals(fd=int)
    cdef _come_back(self, SocketEntry entry, sock)
    @cython.locals(scheduler=Scheduler, entries=list, fd=int, entry=SocketEntry)
    cpdef SocketEntry _entry_of(self, sock)
    @cython.locals(entry=SocketEntry)
    cpdef begin_recv(self, sock, Py_ssize_t size_bytes, int flags, timeout)
    @cython.locals(entry=SocketEntry)
    cpdef end_recv(self, sock, Py_ssize_t size_bytes, int flags, waiting, double until, int reason)
    @cython.locals(data=bytes)
    cdef _try_recv(self, SocketEntry entry, Py_ssize_t size_bytes, int flags)
    @cython.locals(until=double)
    cpdef recv(self, sock, Py_ssize_t size_bytes, int flags, timeout)
    @cython.locals(until=double, reason=int)
    cpdef recv_into(self, sock, buffer, Py_ssize_t size_bytes, int flags, timeout)
    @cython.locals(entry=SocketEntry, count=Py_ssize_t)
    cpdef begin_recv_into(self, sock, buffer, Py_ssize_t size_bytes, int flags, timeout)
    @cython.locals(entry=SocketEntry, count=Py_ssize_t)
    cpdef end_recv_into(self, sock, buffer, Py_ssize_t size_bytes, int flags, waiting, double until, int reason)
    @cython.locals(entry=SocketEntry, sent=Py_ssize_t)
    cpdef send(self, sock, data, int flags, timeout)
    cpdef Py_ssize_t _size(self, data) except -1
    @cython.locals(sent=Py_ssize_t)
    cdef Py_ssize_t _send_some(self, SocketEntry entry, sock, data, int flags, deadline) except -1
    @cython.locals(entry=SocketEntry, sent=Py_ssize_t)
    cpdef sendall(self, sock, data, int flags, timeout)
    cpdef accept(self, sock, timeout)
    cpdef connect(self, sock, address, timeout)


cdef _would_wait()
cdef _timed_out()
cdef _take_out(SocketEntry entry, task)
