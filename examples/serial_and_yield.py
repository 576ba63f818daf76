"""Switching by `yield`: it makes computing work slower, and it does not notice a sleep. Argument: scale (1)."""

import sys
import time

scale = float(sys.argv[1]) if len(sys.argv) > 1 else 1
count = int(10_000_000 * scale)


def add():
    for i in range(count):
        i + 1


start = time.time()
add()
add()
print(f"computing, one after the other: {time.time() - start:.2f} s")


def add_and_yield():
    for i in range(count):
        i + 1
        yield


def add_and_switch():
    other = add_and_yield()
    for i in range(count):
        i + 1
        next(other)


start = time.time()
add_and_switch()
print(f"computing, switching by yield: {time.time() - start:.2f} s")


def tick():
    while True:
        print("tick")
        yield


def sleep_and_switch():
    other = tick()
    for _ in range(3):
        next(other)
        time.sleep(1 * scale)
        print("slept, and nothing else ran")


start = time.time()
sleep_and_switch()
print(f"sleeping 3 times {1 * scale:g} s, switching by yield: {time.time() - start:.2f} s")
