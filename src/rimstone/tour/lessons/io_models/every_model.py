"""The same plain, blocking handler under each IO model: messages a second, and the CPU it takes.

50 clients in another process are silent, then speak all at once, again and again. `RIMSTONE_IO_MODEL` chooses the
model of a program that does not say. Argument: seconds of silence, and of talking (0.4).
"""

import socket
import sys
import time

import rimstone
from rimstone.iomodel import available
from rimstone.server import StreamServer

seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 0.4
conns = []  # of the clients' process


def upper(conn, peer):
    while data := conn.recv(1024):
        conn.sendall(data.upper())


def connect(address):
    conns.extend(socket.create_connection(address) for _ in range(50))


def talk(messages=0):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for conn in conns:
            conn.sendall(b"hello")
        messages += sum(conn.recv(1024) == b"HELLO" for conn in conns)
    while conns:
        conns.pop().close()
    return messages


with rimstone.ProcessPoolExecutor(1) as clients:
    for model in [name for name, why_not in available().items() if why_not is None] + ["blocking"]:
        with StreamServer(("127.0.0.1", 0), upper, io_model=model) as server:
            clients.submit(connect, server.address).result()
            silent = time.process_time()
            rimstone.sleep(seconds)
            busy = time.process_time()
            messages = clients.submit(talk).result()
        idle, each = (busy - silent) / seconds, (time.process_time() - busy) / messages * 1e6
        print(f"{model}: {messages / seconds:,.0f} messages/s, {each:.1f} us of CPU each, {idle:.1%} CPU when silent")
