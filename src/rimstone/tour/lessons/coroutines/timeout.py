"""Timeout: an exception that strikes a block of code where it waits, unless the block is left before.

The functions inside need not know of it. A wait can be struck, computing cannot. Argument: seconds (0.3).
"""

from rimstone import monkey

monkey.patch_all()

import socket
import sys
import time

from rimstone import Timeout, joinall, spawn

seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 0.3
near, far = socket.socketpair()


def read_twice():
    return near.recv(100) + near.recv(100)  # nothing comes a second time


def patient():
    start = time.time()
    try:
        with Timeout(seconds):
            far.sendall(b"hello")
            print(read_twice())
    except Timeout as timeout:
        print(f"struck after {time.time() - start:.2f} s: {timeout!r}")


def in_time():
    with Timeout(seconds):
        time.sleep(seconds / 3)
    print("left in time, not struck")


joinall([spawn(patient), spawn(in_time)])
