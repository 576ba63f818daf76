"""The kernel's epoll object, in C: it keeps the interpreter lock unless it must wait. `_poller.py` is its twin."""

import select
import time

from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from libc.errno cimport EINTR, errno as c_errno
from libc.math cimport ceil

from rimstone.iomodel.epoll cimport EpollModel

cdef extern from "sys/epoll.h" nogil:
    ctypedef union epoll_data_t:
        int fd
    struct epoll_event:
        unsigned int events
        epoll_data_t data
    int epoll_wait(int epoll, epoll_event *events, int most, int timeout_ms)

cdef enum:
    MOST_EVENTS = 512
    MOST_UNASKED = 63


cdef class Poller:
    """As `select.epoll`, but for `poll`."""

    cdef object _epoll
    cdef int _fd, _count, _next
    cdef int _unasked  # so many waits are to come that do not ask first
    cdef int _vain  # how many there were to be when it last asked; 0 if it did not ask in vain
    cdef readonly object register, modify, unregister
    cdef epoll_event _events[MOST_EVENTS]

    def __init__(self):
        self._epoll = select.epoll()
        self._fd = self._epoll.fileno()
        self.register = self._epoll.register
        self.modify = self._epoll.modify
        self.unregister = self._epoll.unregister

    def close(self):
        self._fd = -1
        self._epoll.close()

    def poll(self, EpollModel model, timeout):
        """Pass all events there are to `model.happened`, waiting up to *timeout* seconds for one.

        Where many connections are busy there is an event already, as a rule, and it asks before it gives up the lock:
        another thread might keep that for its whole switch interval. Where one connection is, there is none, and to ask
        would be one system call in four of what a message costs. So each time that it has asked in vain twice as many
        waits follow that do not ask, until one brings several events or the next question something.
        """
        cdef int count, timeout_ms
        cdef double deadline = 0
        cdef bint waits
        cdef epoll_event *event
        if self._next == self._count:  # else something was raised while the last ones were passed on
            waits = timeout is None or timeout > 0
            if waits and self._unasked:
                self._unasked -= 1
                count = 0
            else:
                count = epoll_wait(self._fd, self._events, MOST_EVENTS, 0)
                if waits:
                    self._vain = 0 if count else min(2 * self._vain + 1, MOST_UNASKED)
                    self._unasked = self._vain
            if count == 0 and waits:
                timeout_ms = -1
                if timeout is not None:
                    deadline = time.monotonic() + timeout
                    timeout_ms = <int>ceil(timeout * 1000)
                PyErr_CheckSignals()  # a signal that came since Python code ran last would not end the wait
                while True:
                    with nogil:
                        count = epoll_wait(self._fd, self._events, MOST_EVENTS, timeout_ms)
                    if count >= 0 or c_errno != EINTR:
                        break
                    PyErr_CheckSignals()
                    if timeout is not None:
                        timeout_ms = <int>ceil(max(0.0, deadline - time.monotonic()) * 1000)
                if count > 1:
                    self._unasked = self._vain = 0
            if count < 0:
                if c_errno != EINTR:
                    PyErr_SetFromErrno(OSError)
                count = 0
            self._count = count
            self._next = 0
        while self._next < self._count:
            event = &self._events[self._next]
            model.happened(event.data.fd, event.events)
            self._next += 1
