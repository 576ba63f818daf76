"""Two ways to submit: wait for each call before the next (synchronous), or submit all, then collect (asynchronous)."""

import time

from rimstone import Pool

pool = Pool()


def task(n):
    time.sleep(0.2)
    return n * n


start = time.time()
results = []
for n in range(10):
    results.append(pool.submit(task, n).result())
print(f"synchronous: {results} in {time.time() - start:.2f} s")

start = time.time()
futures = []
for n in range(10):
    futures.append(pool.submit(task, n))
results = [future.result() for future in futures]
print(f"asynchronous: {results} in {time.time() - start:.2f} s")
