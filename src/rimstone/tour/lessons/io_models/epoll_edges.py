"""epoll reports a level or an edge: "there is data", at each call; or "data has come", once.

With edges you must read until BlockingIOError, or the rest lies there unnoticed. In return the kernel has nothing to
say twice: rimstone registers each socket once, edge-triggered, and always tries before it waits.
"""

import select
import socket

near, far = socket.socketpair()
near.setblocking(False)


def show(label):
    print(f"{label}: {len(epoll.poll(0))} events")


for name, flags in (("level", 0), ("edge", select.EPOLLET)):
    epoll = select.epoll()
    epoll.register(near, select.EPOLLIN | flags)
    far.sendall(b"0123456789")
    show(f"{name}: 10 bytes have come")
    print(f"   read {near.recv(4)}")
    show(f"{name}: 6 of them are still there")
    far.sendall(b"more")
    show(f"{name}: 4 more have come")
    try:
        while True:
            print(f"   read {near.recv(4)}")
    except BlockingIOError:
        print("   nothing left")
    show(f"{name}: all is read")
    epoll.close()
