from rimstone.hub._native cimport PerThread
from rimstone.iomodel._entry cimport Sockets

cdef PerThread _here
cdef Sockets _sockets
