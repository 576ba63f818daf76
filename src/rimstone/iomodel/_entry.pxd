cimport cython


@cython.final
cdef class Sockets:
    cdef object _plain

    cpdef int fd(self, sock) except? -2
    cpdef timeout(self, sock)


@cython.final
cdef class SocketEntry:
    cdef readonly int fd
    cdef readonly bint stream
    cdef readonly object owner
    cdef void *_address
    cdef object _view
    cdef public bint closed, armed, plain_tcp, dry
    cdef public object reader, writer

    cpdef bint is_of(self, sock)
    cpdef try_recv(self, Py_ssize_t size_bytes, int flags)
    cpdef Py_ssize_t try_recv_into(self, buffer, Py_ssize_t size_bytes, int flags) except -2
    cpdef Py_ssize_t try_send(self, data, int flags) except -2
    cpdef detach(self)
