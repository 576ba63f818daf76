cimport cython
from rimstone.iomodel._entry cimport SocketEntry as CSocketEntry
from rimstone.iomodel.base cimport IOModel, Scheduler


cdef class ReadinessModel(IOModel):
    cdef public list _entries
    cdef public dict _readers, _writers

    cpdef _watch(self, int fd)
    cpdef _arm(self, CSocketEntry entry)
    cpdef _disarm(self, CSocketEntry entry)
    cpdef _entry_at(self, Py_ssize_t fd)
    @cython.locals(entry=CSocketEntry)
    cpdef _ready(self, Py_ssize_t fd, int events)
    cdef _wake(self, waiting)
    cdef _wake_by_number(self, dict waiting, Py_ssize_t fd)
    @cython.locals(scheduler=Scheduler, fd=int, reason=int)
    cdef bint _wait_entry(self, CSocketEntry entry, int direction, deadline) except -1
    @cython.locals(fd=int)
    cdef bint _woken(self, CSocketEntry entry, int reason) except -1
    @cython.locals(scheduler=Scheduler, entries=list, fd=int, entry=CSocketEntry)
    cdef CSocketEntry _entry_of(self, sock)
    @cython.locals(entry=CSocketEntry)
    cpdef recv(self, sock, Py_ssize_t size_bytes, int flags, timeout)
    @cython.locals(entry=CSocketEntry, count=Py_ssize_t)
    cpdef recv_into(self, sock, buffer, Py_ssize_t size_bytes, int flags, timeout)
    @cython.locals(entry=CSocketEntry, sent=Py_ssize_t)
    cpdef send(self, sock, data, int flags, timeout)
    @cython.locals(sent=Py_ssize_t)
    cdef Py_ssize_t _send_some(self, CSocketEntry entry, data, int flags, deadline) except -1
    @cython.locals(entry=CSocketEntry, sent=Py_ssize_t)
    cpdef sendall(self, sock, data, int flags, timeout)
    cpdef accept(self, sock, timeout)
    cpdef connect(self, sock, address, timeout)
    cdef _wait_or_raise(self, CSocketEntry entry, int direction, deadline)


cdef _take_out(CSocketEntry entry, task)
