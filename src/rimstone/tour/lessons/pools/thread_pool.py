"""A thread pool: 20 calls on 5 threads of this process. Each call returns its thread's name; a callback prints it."""

import os
import threading
import time

from rimstone import ThreadPoolExecutor

pool = ThreadPoolExecutor(5)


def task(n):
    time.sleep(0.2)
    return n, os.getpid(), threading.current_thread().name


def callback(future):
    n, pid, thread = future.result()
    print(f"callback in {os.getpid()}: call {n} ran in process {pid} thread {thread}")


print(f"the parent is process {os.getpid()}")
for n in range(20):
    pool.submit(task, n).add_done_callback(callback)
