"""`yield` saves the state and switches, too. But it makes computing slower, and it does not notice a wait.

The function must say itself where it stops, and a function that it calls cannot. Argument: scale (1).
"""

import sys
import time

scale = float(sys.argv[1]) if len(sys.argv) > 1 else 1
count = int(5_000_000 * scale)


def add():
    for i in range(count):
        i + 1


def add_and_yield():
    for i in range(count):
        i + 1
        yield


start = time.time()
add(), add()
print(f"computing, one after the other: {time.time() - start:.2f} s")

start = time.time()
for _ in zip(add_and_yield(), add_and_yield(), strict=True):
    pass  # one step of each in turn
print(f"computing, switching by yield: {time.time() - start:.2f} s")


def wait():
    yield time.sleep(scale)  # nothing else runs meanwhile


start = time.time()
list(zip(wait(), wait(), strict=True))
print(f"two generators that sleep {scale:g} s: {time.time() - start:.2f} s")
