"""A process pool: 20 calls on 5 processes. Each call returns its pid; a callback in the parent prints it."""

import os
import time

from rimstone import ProcessPoolExecutor

pool = ProcessPoolExecutor(5)


def task(n):
    time.sleep(0.2)
    return n, os.getpid()


def callback(future):
    n, pid = future.result()
    print(f"callback in {os.getpid()}: call {n} ran in process {pid}")


print(f"the parent is process {os.getpid()}")
for n in range(20):
    pool.submit(task, n).add_done_callback(callback)
