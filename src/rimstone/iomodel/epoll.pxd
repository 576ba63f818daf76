cimport cython
from rimstone.iomodel._entry cimport SocketEntry
from rimstone.iomodel._readiness cimport ReadinessModel

cdef unsigned int _READABLE, _WRITABLE, _MARKS
cdef int IO, READ, WRITE


cdef class EpollModel(ReadinessModel):
    cdef public object _poller, _wakeup
    cdef public int _wakeup_fd
    cdef public dict _watched

    cpdef _watch(self, int fd)
    cpdef _arm(self, SocketEntry entry)
    cpdef int _pause_in_vain(self, SocketEntry entry, sock, int direction, double until) except -1
    cpdef _disarm(self, SocketEntry entry)
    cpdef happened(self, int fd, unsigned int mask)
    cpdef poll(self, timeout)
    cpdef wake(self)
