"""500 conversations at once on one thread: the handler is written as if it were alone.

After `patch_all` a `recv` without data lets the other tasks run. Server and clients are tasks here, two for each
connection, and all of them share one thread. Argument: clients (500).
"""

from rimstone import monkey

monkey.patch_all()

import socket
import sys
import threading
import time

from rimstone import joinall, spawn
from rimstone.server import StreamServer

clients = int(sys.argv[1]) if len(sys.argv) > 1 else 500
messages = 20
open_at_once = 0


def upper(conn, peer):
    while data := conn.recv(1024):
        conn.sendall(data.upper())


def client(number):
    global open_at_once
    with socket.create_connection(server.address) as conn:
        for n in range(messages):
            conn.sendall(f"client {number}, message {n}".encode())
            assert conn.recv(1024) == f"CLIENT {number}, MESSAGE {n}".encode()
        open_at_once = max(open_at_once, server.connections)


with StreamServer(("127.0.0.1", 0), upper, max_connections=clients) as server:
    start = time.time()
    joinall([spawn(client, number) for number in range(clients)], raise_error=True)
    seconds = time.time() - start
print(f"{open_at_once} connections at once, {clients * messages:,} right replies, threads: {threading.active_count()}")
print(f"{seconds:.2f} s, {clients * messages / seconds:,.0f} messages a second, both sides")
