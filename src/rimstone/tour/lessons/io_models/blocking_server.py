"""Blocking: a server on one thread serves one client at a time. Whoever comes second waits until the first has left.

Both clients are connected. The first one is silent for half a second before it speaks, the second one speaks at once.
Argument: seconds of silence (0.5).
"""

import socket
import sys
import threading
import time

silence = float(sys.argv[1]) if len(sys.argv) > 1 else 0.5


def talk(conn):
    with conn:
        while data := conn.recv(1024):  # waits here, for this one client
            conn.sendall(data.upper())


def client(conn, name, silent_for):
    start = time.time()
    with conn:
        time.sleep(silent_for)
        conn.sendall(f"I am {name}".encode())
        print(f"{conn.recv(1024).decode()}: answered after {time.time() - start:.2f} s")


server = socket.create_server(("127.0.0.1", 0))
first = socket.create_connection(server.getsockname())
second = socket.create_connection(server.getsockname())
threading.Thread(target=client, args=(first, "the first", silence)).start()
threading.Thread(target=client, args=(second, "the second", 0)).start()

for _ in range(2):
    conn, address = server.accept()
    talk(conn)
