cimport cython
from rimstone.iomodel._entry cimport SocketEntry as CSocketEntry
from rimstone.iomodel._readiness cimport ReadinessModel


cdef class EpollModel(ReadinessModel):
    cdef public object _poller, _wakeup, _events
    cdef public dict _watched

    cpdef _watch(self, int fd)
    cpdef _arm(self, CSocketEntry entry)
    cpdef _disarm(self, CSocketEntry entry)
    @cython.locals(fd=int, mask=cython.uint, wakeup=int)
    cpdef poll(self, timeout)
    cpdef wake(self)
