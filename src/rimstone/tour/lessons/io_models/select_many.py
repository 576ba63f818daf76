"""Multiplexing with many: one thread waits for all of them in one call, and uses no CPU while nobody speaks.

The clients of the non-blocking lesson again: each says hello, is silent for half a second, and says hello again.
Arguments: clients (20), seconds (0.5).
"""

import select
import socket
import sys
import threading
import time

clients = int(sys.argv[1]) if len(sys.argv) > 1 else 20
seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 0.5
server = socket.create_server(("127.0.0.1", 0))
watched, asked, served = [server], 0, 0


def client():
    with socket.create_connection(server.getsockname()) as conn:
        for silent_for in (0, seconds):
            time.sleep(silent_for)
            conn.sendall(b"hello")
            assert conn.recv(1024) == b"HELLO"


for _ in range(clients):
    threading.Thread(target=client).start()
start = time.time()
while served < 2 * clients:
    readable, writable, broken = select.select(watched, [], [])
    asked += 1
    for sock in readable:
        if sock is server:
            watched.append(sock.accept()[0])
        elif data := sock.recv(1024):
            sock.sendall(data.upper())
            served += 1
        else:
            watched.remove(sock)  # b"": the client has hung up
print(f"{served} replies in {time.time() - start:.2f} s, asked {asked} times")
print(f"{time.process_time():.2f} s of CPU since the program began")
