"""Three functions in one Pool, which is told nothing of them: one waits, one blocks in C, one computes.

A call that waits takes a coroutine, so these pile up on one thread. A call that blocks takes a thread, a call that
computes takes a process. The pool finds out by watching. Each call takes 50 ms. Argument: calls of each (60).
"""

import ctypes
import os
import sys
import threading
import time

from rimstone import Pool

calls = int(sys.argv[1]) if len(sys.argv) > 1 else 60


def where():
    return os.getpid(), threading.get_native_id()


def waits(n):
    time.sleep(0.05)
    return where()


def blocks(n):
    ctypes.CDLL(None).usleep(50_000)  # a library in C that waits by itself
    return where()


def computes(n):
    end = time.thread_time() + 0.05
    while time.thread_time() < end:
        n += 1
    return where()


with Pool(threads=5) as pool:
    for function in (waits, blocks, computes):
        start = time.time()
        used = set(pool.map(function, range(calls)))
        seconds, processes = time.time() - start, {pid for pid, thread in used}
        print(f"{function.__name__}: {seconds:.2f} s; threads: {len(used)}; processes: {len(processes)}")
    print(pool.statistics())
