"""Two computing functions as coroutines: no faster than one after the other. Argument: scale (1)."""

from rimstone import monkey

monkey.patch_all()

import sys
import time

from rimstone import joinall, spawn

scale = float(sys.argv[1]) if len(sys.argv) > 1 else 1
count = int(10_000_000 * scale)


def add():
    total = 0
    for i in range(count):
        total += i
    return total


def multiply():
    total = 1
    for i in range(count):
        total = total * i % 1_000_003
    return total


start = time.time()
add()
multiply()
print(f"one after the other: {time.time() - start:.2f} s")

start = time.time()
joinall([spawn(add), spawn(multiply)])
print(f"as coroutines: {time.time() - start:.2f} s")
