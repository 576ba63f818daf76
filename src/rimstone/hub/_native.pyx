"""What the scheduler needs of greenlet and of the thread, in C. `_native.py` is its twin: keep the two alike."""

from rimstone.iomodel.base cimport Scheduler

cdef extern from "greenlet/greenlet.h":
    ctypedef class greenlet.greenlet [object PyGreenlet, check_size ignore]:
        pass
    void PyGreenlet_Import() except *
    object PyGreenlet_Switch(greenlet target, object args, object kwargs)
    greenlet PyGreenlet_GetCurrent()

cdef extern from *:
    """
    static __thread PyObject *rimstone_value = NULL;  /* borrowed: whoever sets it keeps it alive */
    """
    PyObject *rimstone_value

cdef extern from "Python.h":
    ctypedef struct PyObject:
        pass

PyGreenlet_Import()

cdef tuple _NOTHING = ()


cdef class Greenlets:
    """Switching between greenlets."""

    cpdef object switch(self, object target):
        return PyGreenlet_Switch(<greenlet?>target, _NOTHING, None)

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
