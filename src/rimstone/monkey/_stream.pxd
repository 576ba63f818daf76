from rimstone.hub._native cimport PerThread
from rimstone.hub.scheduler cimport Hub
from rimstone.iomodel._entry cimport Sockets

cdef PerThread _here
cdef Sockets _sockets

cdef _begin_recv(Hub hub, sock, Py_ssize_t bufsize, int flags)
cdef double _until(sock) except? -1
cdef _begin_recv_into(Hub hub, sock, buffer, Py_ssize_t nbytes, int flags)
cdef _begin_send(Hub hub, sock, data, int flags)
