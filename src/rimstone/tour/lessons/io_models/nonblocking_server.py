"""Non-blocking: one thread serves many clients by asking all of them, again and again. Most of it is in vain.

Each client says hello, is silent for half a second, and says hello again. Arguments: clients (20), seconds (0.5).
"""

import socket
import sys
import threading
import time

clients = int(sys.argv[1]) if len(sys.argv) > 1 else 20
seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 0.5
server = socket.create_server(("127.0.0.1", 0))
server.setblocking(False)
conns, in_vain, served = [], 0, 0


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
    for sock in (server, *conns):
        try:
            if sock is server:
                conns.append(sock.accept()[0])
                conns[-1].setblocking(False)
            elif data := sock.recv(1024):
                sock.sendall(data.upper())
                served += 1
            else:
                conns.remove(sock)  # b"": the client has hung up
        except BlockingIOError:
            in_vain += 1
print(f"{served} replies in {time.time() - start:.2f} s, asked in vain {in_vain:,} times")
print(f"{time.process_time():.2f} s of CPU since the program began")
