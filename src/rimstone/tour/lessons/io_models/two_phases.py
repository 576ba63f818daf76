"""The two phases of a read: wait until data has come, and copy it from the kernel. Who is held up, and how long.

In the first three families the caller copies, so they are called synchronous. In the last one somebody else does both
for it: a thread here, the kernel with io_uring. Argument: seconds until the data comes (0.3).
"""

import select
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter, process_time

seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 0.3
somebody_else = ThreadPoolExecutor(1)


def ask_again(sock):
    while True:
        try:
            return sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass


waits = {"blocking": lambda sock: sock.recv(1, socket.MSG_PEEK), "non-blocking": ask_again}  # PEEK: takes nothing
waits["multiplexing"] = lambda sock: select.select([sock], [], [])
for family in (*waits, "asynchronous"):
    near, far = socket.socketpair()
    threading.Timer(seconds, far.sendall, [bytes(64_000)]).start()
    start, cpu = perf_counter(), process_time()
    if family in waits:
        waits[family](near)
        there, cpu = perf_counter(), process_time() - cpu
        count = len(near.recv(64_000))
        print(f"{family}: {there - start:.3f} s to wait ({cpu:.3f} s of CPU), ", end="")
        print(f"{(perf_counter() - there) * 1e6:.0f} us to copy {count:,} bytes")
    else:
        future = somebody_else.submit(near.recv, 64_000)
        print(f"{family}: free after {(perf_counter() - start) * 1e6:.0f} us, ", end="")
        print(f"{len(future.result()):,} bytes in place after {perf_counter() - start:.3f} s")
