"""What the scheduler needs of greenlet and of the thread, in C. `_native.py` is its twin: keep the two alike."""

from rimstone.iomodel.base cimport Scheduler

from greenlet import GreenletExit

cdef extern from "Python.h":
    ctypedef struct PyObject:
        pass
    void Py_DECREF(PyObject *)

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


cdef class PerThread:
    """One object for each thread, kept alive by whoever sets it. There is only one such table in a process."""

    cpdef Scheduler get(self):
        if rimstone_value is NULL:
            return None
        return <Scheduler>rimstone_value

    cpdef object set(self, object value):
        global rimstone_value
        rimstone_value = NULL if value is None else <PyObject *>value
