cimport cython
from rimstone.hub._native cimport PerThread
from rimstone.hub.scheduler cimport Hub

cdef PerThread _here


@cython.locals(hub=Hub)
cpdef recv(self, bufsize, flags=*)
@cython.locals(hub=Hub)
cpdef recv_into(self, buffer, nbytes=*, flags=*)
@cython.locals(hub=Hub)
cpdef send(self, data, flags=*)
@cython.locals(hub=Hub)
cpdef sendall(self, data, flags=*)
