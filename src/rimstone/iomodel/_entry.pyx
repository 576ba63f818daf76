"""What a hub knows of one socket, and the tries at it that never wait, in C. `_entry.py` is its twin: keep them alike.

The interpreter lock is kept: a call that never waits is shorter than giving the lock up and fighting for it.
"""

import _socket
import errno
import os
import socket
import weakref

from rimstone.iomodel._view import view_of

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from libc.errno cimport EAGAIN, EINTR, errno as c_errno

cdef extern from "Python.h":
    int _PyBytes_Resize(PyObject **string, Py_ssize_t size) except -1
    ctypedef struct PyObject:
        pass
    void Py_DECREF(object)
    void Py_INCREF(object)

cdef extern from "sys/socket.h" nogil:
    ssize_t c_recv "recv"(int fd, void *buffer, size_t size, int flags)
    ssize_t c_send "send"(int fd, const void *buffer, size_t size, int flags)
    int MSG_DONTWAIT

cdef object _INTERNET = (_socket.AF_INET, _socket.AF_INET6)
cdef enum:
    SCRATCH_BYTES = 65536
cdef char _scratch[SCRATCH_BYTES]  # one for all threads: the lock is held while it is in use


cdef struct PySocketSockObject:
    # The beginning of what Modules/socketmodule.h of CPython has; `_has_this_layout` looks whether it is so.
    Py_ssize_t ob_refcnt
    void *ob_type
    int sock_fd
    int sock_family
    int sock_type
    int sock_proto
    void *errorhandler
    long long sock_timeout  # in nanoseconds; negative: none


cdef bint _has_this_layout() except -1:
    cdef PySocketSockObject *c_sock
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        c_sock = <PySocketSockObject *><void *>sock
        for timeout, nanoseconds in ((7.25, 7_250_000_000), (0.0, 0), (None, None)):
            sock.settimeout(timeout)
            if c_sock.sock_timeout != nanoseconds if nanoseconds is not None else c_sock.sock_timeout >= 0:
                return False
        told = (c_sock.sock_fd, c_sock.sock_family, c_sock.sock_type, c_sock.sock_proto)
        return told == (sock.fileno(), sock.family, sock.type, sock.proto)


cdef object _plain = None  # the class of which `_has_this_layout` is known, () if of none
cdef object _socket_class = socket.socket
cdef object _like_plain = None  # a class that is known to be no different


def trust(cls):
    """See `_entry.py`."""
    global _like_plain
    _like_plain = cls


cdef inline bint _is_plain(Sockets sockets, sock):
    return type(sock) is sockets._plain or (type(sock) is _like_plain and sockets._plain is _socket_class)


cdef class Sockets:
    """See `_entry.py`. Of a plain socket.socket both are read from its C structure."""

    def __init__(self):
        global _plain
        if _plain is None:
            try:
                _plain = socket.socket if _has_this_layout() else ()
            except Exception:  # no socket to be had: the next hub tries again
                self._plain = None
                return
        self._plain = _plain

    cpdef int fd(self, sock) except? -2:
        if _is_plain(self, sock):
            return (<PySocketSockObject *><void *>sock).sock_fd
        return sock.fileno()

    cpdef timeout(self, sock):
        cdef long long nanoseconds
        if _is_plain(self, sock):
            nanoseconds = (<PySocketSockObject *><void *>sock).sock_timeout
            return None if nanoseconds < 0 else nanoseconds * 1e-9
        return sock.gettimeout()


cdef bint _again(ssize_t result) except -1:
    """After a failed call: False if it would wait, True if it is to be tried again; raises what else it failed with."""
    if c_errno == EAGAIN:
        return False
    if c_errno == EINTR:
        PyErr_CheckSignals()
        return True
    PyErr_SetFromErrno(OSError)
    return False


cdef class SocketEntry:
    """See `_entry.py`."""

    def __init__(self, sock, int fd, collected):
        self.fd = fd
        self.owner = weakref.ref(sock, collected)
        self._address = <void *>sock
        self._view = None
        self.stream = sock.type == _socket.SOCK_STREAM
        self.plain_tcp = (
            self.stream and sock.family in _INTERNET and sock.proto in (0, _socket.IPPROTO_TCP)
        )

    @property
    def view(self):
        """A second socket object over the same descriptor, made when it is first asked for."""
        if self._view is None:
            owner = self.owner()
            if self.closed or owner is None:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            self._view = view_of(owner, self.fd)
        return self._view

    cpdef bint is_of(self, sock):
        # The weak reference's callback takes the entry out of the table before the address can be used again.
        return self._address == <void *>sock

    cpdef try_recv(self, Py_ssize_t size_bytes, int flags):
        cdef ssize_t count
        cdef object data
        cdef PyObject *resized
        if self.closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if size_bytes < 0:
            raise ValueError("negative buffersize in recv")
        if size_bytes == 0:
            return b""
        if size_bytes <= SCRATCH_BYTES:
            while True:
                count = c_recv(self.fd, _scratch, size_bytes, flags | MSG_DONTWAIT)
                if count >= 0:
                    return PyBytes_FromStringAndSize(_scratch, count)
                if not _again(count):
                    return None
        data = PyBytes_FromStringAndSize(NULL, size_bytes)
        while True:
            count = c_recv(self.fd, PyBytes_AS_STRING(data), size_bytes, flags | MSG_DONTWAIT)
            if count >= 0:
                break
            if not _again(count):
                return None
        if count == size_bytes:
            return data
        resized = <PyObject *>data
        Py_INCREF(data)
        data = None  # only `resized` is left, as _PyBytes_Resize demands
        _PyBytes_Resize(&resized, count)
        data = <object>resized
        Py_DECREF(data)
        return data

    cpdef Py_ssize_t try_recv_into(self, buffer, Py_ssize_t size_bytes, int flags) except -2:
        cdef Py_buffer view
        cdef ssize_t count
        if self.closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if size_bytes < 0:
            raise ValueError("negative buffersize in recv_into")
        try:
            PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        except (BufferError, TypeError):  # what `_socket` says, whatever is wrong with it
            raise TypeError(
                f"recv_into() argument 1 must be read-write bytes-like object, not {type(buffer).__name__}"
            ) from None
        try:
            if size_bytes == 0:
                size_bytes = view.len
            if view.len < size_bytes:
                raise ValueError("buffer too small for requested bytes")
            if size_bytes == 0:
                return 0
            while True:
                count = c_recv(self.fd, view.buf, size_bytes, flags | MSG_DONTWAIT)
                if count >= 0:
                    return count
                if not _again(count):
                    return -1
        finally:
            PyBuffer_Release(&view)

    cpdef Py_ssize_t try_send(self, data, int flags) except -2:
        cdef Py_buffer view
        cdef ssize_t count
        if self.closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if PyBytes_CheckExact(data):
            while True:
                count = c_send(self.fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), flags | MSG_DONTWAIT)
                if count >= 0:
                    return count
                if not _again(count):
                    return -1
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            while True:
                count = c_send(self.fd, view.buf, view.len, flags | MSG_DONTWAIT)
                if count >= 0:
                    return count
                if not _again(count):
                    return -1
        finally:
            PyBuffer_Release(&view)

    cpdef detach(self):
        self.closed = True
        if self._view is not None:
            self._view.detach()
