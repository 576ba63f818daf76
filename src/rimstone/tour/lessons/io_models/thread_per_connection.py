"""Blocking, with a thread for each connection: nobody waits for anybody else. But each connection costs a thread.

The same two clients as before; then many who are connected and say nothing, and what they cost.
Arguments: seconds of silence (0.5), silent clients (300).
"""

import socket
import sys
import threading
import time

silence = float(sys.argv[1]) if len(sys.argv) > 1 else 0.5
many = int(sys.argv[2]) if len(sys.argv) > 2 else 300
server = socket.create_server(("127.0.0.1", 0))


def talk(conn):
    with conn:
        while data := conn.recv(1024):  # waits here, but on its own thread
            conn.sendall(data.upper())


def connect():
    client = socket.create_connection(server.getsockname())
    conn, address = server.accept()
    threading.Thread(target=talk, args=(conn,)).start()
    return client


first, second = connect(), connect()
start = time.time()
second.sendall(b"I am the second")
print(f"{second.recv(1024).decode()}: answered after {time.time() - start:.2f} s")
time.sleep(silence)
first.sendall(b"I am the first")
print(f"{first.recv(1024).decode()}: answered after {time.time() - start:.2f} s")

clients = [first, second] + [connect() for _ in range(many)]
print(f"{len(clients)} connections: {threading.active_count() - 1} threads beside the main one")
for client in clients:
    client.close()
