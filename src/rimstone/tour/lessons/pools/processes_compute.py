"""Computing: one after the other, on threads, in processes.

One process runs Python code on one CPU at a time, so threads do not help a call that computes. Processes do, as far as
there are CPUs. Argument: scale (1).
"""

import sys
import time

from rimstone import ProcessPoolExecutor, ThreadPoolExecutor, machine

scale = float(sys.argv[1]) if len(sys.argv) > 1 else 1
numbers = [int(1_500_000 * scale)] * 8


def compute(count):
    total = 0
    for i in range(count):
        total += i * i
    return total


start = time.time()
results = [compute(n) for n in numbers]
print(f"one after the other: {time.time() - start:.2f} s")

for executor in (ThreadPoolExecutor, ProcessPoolExecutor):
    with executor() as pool:
        list(pool.map(compute, [1] * 8))  # starts the workers, which is not what is measured
        start = time.time()
        assert list(pool.map(compute, numbers)) == results
        print(f"{executor.__name__}: {time.time() - start:.2f} s")

print(f"CPUs of this process: {machine.cpus().value}")
