"""A thread for each call, or a pool: the same calls, and how many threads they need.

A pool starts a few threads, gives each of them one call after the other, and lets the rest wait. That may take longer,
and the machine stays safe however much comes in. Argument: calls (500).
"""

import sys
import threading
import time

from rimstone import ThreadPoolExecutor

calls = int(sys.argv[1]) if len(sys.argv) > 1 else 500
threads_seen = set()


def task(n):
    threads_seen.add(threading.get_native_id())
    time.sleep(0.05)


start = time.time()
threads = [threading.Thread(target=task, args=(n,)) for n in range(calls)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(f"a thread for each call: {len(threads_seen)} threads for {calls} calls, {time.time() - start:.2f} s")

threads_seen.clear()
start = time.time()
with ThreadPoolExecutor(20) as pool:
    for n in range(calls):
        pool.submit(task, n)
    print(f"all calls are accepted: {pool.statistics()}")
print(f"a pool of 20: {len(threads_seen)} threads for {calls} calls, {time.time() - start:.2f} s")
