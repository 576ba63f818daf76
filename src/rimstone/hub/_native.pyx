"""What the hub needs of greenlet, of the thread and of write(2), in C. `_native.py` is its twin: keep the two alike."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EINTR, errno as c_errno
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.types cimport off_t
from rimstone.iomodel.base cimport Scheduler

import os

from greenlet import GreenletExit

cdef extern from "Python.h":
    ctypedef struct PyObject:
        pass
    void Py_DECREF(PyObject *)

cdef extern from "<unistd.h>" nogil:
    ssize_t c_write "write"(int fd, const void *data, size_t size)
    ssize_t c_pwrite "pwrite"(int fd, const void *data, size_t size, off_t offset)

cdef extern from "greenlet/greenlet.h":
    ctypedef class greenlet.greenlet [object PyGreenlet, check_size ignore]:
        pass
    void PyGreenlet_Import() except *
    PyObject *PyGreenlet_Switch(greenlet target, object args, object kwargs)  # NULL: an exception is set
    greenlet PyGreenlet_GetCurrent()

cdef extern from *:
    """
    static __thread PyObject *rimstone_value = NULL;  /* borrowed: whoever sets it keeps it alive */
    """
    PyObject *rimstone_value

# Why threads must be stopped when the interpreter ends stands in `at_exit.py`. Here nothing is done before they are
# unwound. The outermost frame of each greenlet, but for those of greenlet itself, has something to clean up, which does
# not end: the thread hangs there, without the interpreter lock, until the process is gone. CPython 3.14 does the same.
# A thread that comes back from C at the last moment is held as well, and it costs a frame for each greenlet.
cdef extern from *:
    """
    #include <unistd.h>

    #ifndef __EXCEPTIONS
    #error "compile this with -fexceptions, else nothing is cleaned up when a thread is unwound"
    #endif

    static int rimstone_ends(void) {
    #if PY_VERSION_HEX >= 0x030D0000
        return Py_IsFinalizing();
    #else
        return _Py_IsFinalizing();
    #endif
    }

    static void rimstone_leave(int *unwound) {
        if (*unwound && rimstone_ends())
            for (;;)
                pause();
    }

    static PyObject *rimstone_call(PyObject *function, PyObject *self) {
        __attribute__((cleanup(rimstone_leave))) int unwound = 1;
        /* Not PyObject_CallOneArg: its frame would be copied at every switch. */
        PyObject *result = PyVectorcall_Function(function)(function, &self, 1, NULL);
        unwound = 0;
        return result;
    }
    """
    object rimstone_call(object function, object self)

PyGreenlet_Import()

cdef tuple _NOTHING = ()


cdef int _raise() except -1:
    """Raise the exception that is set."""
    return -1


cdef class Greenlets:
    """See `_native.py`."""

    cpdef object switch(self, object target):
        cdef PyObject *result = PyGreenlet_Switch(<greenlet?>target, _NOTHING, None)
        if result is NULL:
            self._keep_raised()
        else:
            Py_DECREF(result)

    cdef _keep_raised(self):
        try:
            _raise()
        except GreenletExit:
            raise
        except BaseException as error:
            self.raised = error

    cpdef object current(self):
        return PyGreenlet_GetCurrent()

    cpdef object outermost(self, object method):
        return _Outermost(method).run


@cython.final
cdef class _Outermost:
    cdef object _function, _self

    def __cinit__(self, method):
        # Apart, and `run` without a Python function around it: each call between would be copied at every switch.
        self._function = method.__func__
        self._self = method.__self__

    @cython.binding(False)
    def run(self):
        return rimstone_call(self._function, self._self)


cdef class PerThread:
    """One object for each thread, kept alive by whoever sets it. There is only one such table in a process."""

    cpdef Scheduler get(self):
        if rimstone_value is NULL:
            return None
        return <Scheduler>rimstone_value

    cpdef object set(self, object value):
        global rimstone_value
        rimstone_value = NULL if value is None else <PyObject *>value


def timed_write(int fd, data, off_t offset):
    """See `_native.py`. Here the time is taken without the interpreter lock."""
    cdef Py_buffer view
    cdef timespec begun, ended
    cdef ssize_t count
    cdef int error
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        while True:
            with nogil:
                clock_gettime(CLOCK_MONOTONIC, &begun)
                if offset < 0:
                    count = c_write(fd, view.buf, view.len)
                else:
                    count = c_pwrite(fd, view.buf, view.len, offset)
                error = c_errno
                clock_gettime(CLOCK_MONOTONIC, &ended)
            if count >= 0:
                return count, <double>(ended.tv_sec - begun.tv_sec) + 1e-9 * (ended.tv_nsec - begun.tv_nsec)
            if error != EINTR:
                raise OSError(error, os.strerror(error))
            PyErr_CheckSignals()
    finally:
        PyBuffer_Release(&view)
