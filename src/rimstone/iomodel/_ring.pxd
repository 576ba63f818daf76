cimport cython
from rimstone.iomodel._entry cimport Sockets
from rimstone.iomodel.base cimport Scheduler

cdef extern from *:
    struct rimstone_ring  # see _ring.pyx
    struct rimstone_sqe


@cython.final
cdef class Operation:
    cdef readonly object task
    cdef public object entry
    cdef readonly int fd, result
    cdef readonly Py_ssize_t start
    cdef readonly bint done, more, shielded, whole
    cdef bint _exported
    cdef unsigned char _opcode
    cdef unsigned int _position  # of its request in the ring
    cdef object _value, _sock
    cdef Py_buffer _view

    cpdef release(self)
    cpdef bint has_taken(self)
    cpdef bint is_recv(self)
    cpdef bytes data(self)
    cpdef tuple connection(self)


@cython.final
cdef class Ring:
    cdef Scheduler _scheduler
    cdef rimstone_ring *_ring
    cdef unsigned int _tail, _head
    cdef unsigned short _given
    cdef unsigned long long _thread
    cdef int _pid
    cdef Py_ssize_t _done
    cdef Py_ssize_t _prompt  # requests to be submitted that the kernel may answer at once
    cdef list _withdrawn
    cdef Sockets _sockets
    cdef readonly Py_ssize_t waiting, crowd
    cdef readonly bint woken

    cpdef Operation recv(self, task, sock, int fd, Py_ssize_t size_bytes, bint is_dry)
    cpdef Operation send(self, task, sock, int fd, data, Py_ssize_t start, int flags, bint whole)
    cpdef Operation use_file(
        self, task, int fd, buffer, Py_ssize_t start, Py_ssize_t size, long long offset, bint writes
    )
    cpdef Operation sync_file(self, task, int fd, bint data_only)
    cpdef Operation accept(self, task, sock, int fd)
    cpdef Operation poll_add(self, task, sock, int fd, int events)
    cpdef watch_wakeup(self, int fd)
    cdef rimstone_sqe *_request(self, int opcode, int fd) except NULL
    cdef int _check_open(self) except -1
    cdef int _make_room(self) except -1
    cdef Operation _added(self, rimstone_sqe *sqe, Operation operation, task, sock)
    cpdef poll(self, timeout)
    cpdef submit(self)
    cdef unsigned int _pending(self) except? 0
    cdef int _enter(self) except -1
    cdef int _reap(self) except -1
    cdef int _answer(self, Operation operation, int result, unsigned int flags) except -1
    cdef int _finish(self, Operation operation) except -1
    cpdef withdraw(self, Operation operation)
    cpdef withdraw_soon(self, Operation operation)
    cpdef settle(self)
    cdef list _ask_to_cancel(self)
    cdef bint _take_back(self, Operation operation) except -1
    cdef int _cancel(self, Operation operation) except -1
    cdef int _settle(self, Operation operation) except -1
    cpdef close(self)


cpdef bytes blank(Py_ssize_t size)
cpdef why_unavailable()
