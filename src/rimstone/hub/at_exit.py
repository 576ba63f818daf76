"""Stops the other threads that run tasks when the interpreter ends: the pure core's way. The compiled: `_native.pyx`.

Why
---
Once the interpreter takes itself apart, CPython before 3.14 ends a daemon thread with pthread_exit, where it wants the
interpreter lock back. glibc then unwinds the thread's stack, as an exception would. Stacks of greenlets cannot be
unwound: the frames of greenlet itself drop references, which needs the lock, and beneath the first of them lies what
some other greenlet has left there. Most of these processes died of SIGSEGV or SIGABRT, with all their work done.

How
---
A thread that blocks in C and never wants the lock again is left alone. So each is made to acquire a lock that nobody
releases: by its scheduler (`Hub.run_soon`), or else at the next bytecode, by an exception that is thrown into it and
never comes to be, since the constructor does not return. As in CPython, no `finally` runs, and a lock that the thread
holds stays held.

When
----
Not in a function given to `atexit`. Others come after it, registered earlier, that wait for such a thread (to write out
what is in its queue) or want a lock that it holds (to flush the loggers): they would wait for ever. But when all were
called, `atexit` lets go of their arguments, and one of those is ours. Nothing runs in other threads after that anyhow.

A thread that blocks in C all the while (in a native sleep, or computing without the lock) cannot be reached. If it
comes back in the milliseconds between this and the end of the process, it crashes.
"""

import atexit
import sys
import threading
from collections import deque
from contextlib import suppress
from operator import call
from typing import Any

from rimstone import clock
from rimstone._originals import allocate_lock, get_ident
from rimstone.hub.watchdog import living_hubs

__all__ = ["prepare"]

_STOPPING_SECONDS = 0.25  # for all threads together; one that runs Python code comes by within some 5 ms
_UNWINDS = sys.version_info < (3, 14)


class _Last:
    """An argument of a function of `atexit`. It goes away after the last of them was called."""

    armed = False

    def __del__(self) -> None:
        _Last.armed = False
        # The interpreter ends, for to `threading` the main thread has ended; else somebody has emptied `atexit`.
        if not threading.main_thread().is_alive():
            _stop_threads()


class _Stop(BaseException):
    """Thrown into a thread as a class. Before anybody can handle it there must be an instance: there never is."""

    def __init__(self) -> None:
        _stop()


_never = allocate_lock()  # released by nobody, once threads are to stop
_arrivals: dict[int, Any] = {}  # one lock for each thread that is to stop, released when it does


def prepare() -> None:
    """See to it that threads with hubs are stopped when the interpreter ends. Any thread; again does nothing."""
    if _UNWINDS and not _Last.armed:
        _Last.armed = True
        atexit.register(_keep, _Last())


def _keep(last: _Last) -> None:
    pass


def _stop_threads() -> None:
    """Stop all other threads that have hubs; does not wait for long for those that do not come."""
    _never.acquire(blocking=False)
    hubs = [hub for hub in living_hubs() if not hub.closed and hub.thread_id != get_ident()]
    for hub in hubs:
        arrival = _arrivals[hub.thread_id] = allocate_lock()
        arrival.acquire()
    for hub in hubs:
        hub.run_soon(_stop)
        _throw_into(hub.thread_id)
    deadline = clock.monotonic() + _STOPPING_SECONDS
    for hub in hubs:
        _arrivals[hub.thread_id].acquire(timeout=max(0.0, deadline - clock.monotonic()))


def _throw_into(thread_id: int) -> None:
    with suppress(ImportError):  # a Python without ctypes: then only those stop that come by their schedulers
        import ctypes

        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), ctypes.py_object(_Stop))


def _stop() -> None:
    """Stop the calling thread for ever, if it is one of those: the hub of one that is gone is closed by another."""
    arrival = _arrivals.get(get_ident())
    if arrival is None:
        return
    # Both in one call from C: between two bytecodes the thread might have to give away the lock, and want it back.
    deque(map(call, (arrival.release, _never.acquire)), 0)
