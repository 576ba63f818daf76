"""Play sleeps 5 s, eat sleeps 3 s, as two tasks: 8 s without `patch_all`, 5 s with it. Argument: scale (1)."""

import sys
import time

from rimstone import joinall, monkey, spawn

scale = float(sys.argv[1]) if len(sys.argv) > 1 else 1


def play():
    print("play 1")
    time.sleep(5 * scale)
    print("play 2")


def eat():
    print("eat 1")
    time.sleep(3 * scale)
    print("eat 2")


start = time.time()
joinall([spawn(play), spawn(eat)])
print(f"not patched: {time.time() - start:.2f} s")

monkey.patch_all()

start = time.time()
joinall([spawn(play), spawn(eat)])
print(f"patched: {time.time() - start:.2f} s")
