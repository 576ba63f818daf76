"""The interface of concurrent.futures: submit, result, an exception, a callback, as_completed, map.

`submit` returns a Future at once. `result` waits for the value, or raises what the call raised. A callback is called
with the Future when it is done. `map` keeps the order of its inputs, `as_completed` takes what comes first.
"""

import os
import threading
import time

from rimstone import Pool, as_completed


def square(n):
    time.sleep(0.2 - n / 50)
    return n * n


def callback(future):
    print(f"callback: {future.result()}, called in thread {threading.current_thread().name}")


pool = Pool()
print(f"in another process: {pool.submit(os.getpid).result()}, not {os.getpid()}")

start = time.time()
future = pool.submit(square, 7)
print(f"submit returned after {time.time() - start:.4f} s: {future}")
print(f"result returned {future.result()} after {time.time() - start:.4f} s")

try:
    pool.submit(square, "7").result()
except TypeError as error:
    print(f"result raised what the call raised: {error!r}")

pool.submit(square, 3).add_done_callback(callback)
print("map:", list(pool.map(square, range(6))))
print("as_completed:", [future.result() for future in as_completed([pool.submit(square, n) for n in range(6)])])
pool.shutdown()
