"""Multiplexing with one connection: `select`, then `recv`. Two system calls where blocking needs one, so it is slower.

What comes back from select can be read without waiting. With nobody else to wait for, that is of no use.
Argument: messages (50,000).
"""

import select
import socket
import sys
import time

messages = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
near, far = socket.socketpair()


def blocking():
    far.sendall(b"x")
    return near.recv(1024)


def multiplexed():
    far.sendall(b"x")
    readable, writable, broken = select.select([near], [], [])
    return readable[0].recv(1024)


print("ready without data:", select.select([near], [], [], 0))
for receive in (blocking, multiplexed):
    start = time.perf_counter()
    for _ in range(messages):
        receive()
    each = (time.perf_counter() - start) / messages
    print(f"{receive.__name__}: {each * 1e6:.2f} microseconds a message")
