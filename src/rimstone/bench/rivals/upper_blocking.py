"""The upper-case server as one first writes it: blocking code, no threads. Argument: port (0 is any)."""

import socket
import sys


def talk(conn):
    while True:
        data = conn.recv(1024)
        if not data:
            break
        conn.send(data.upper())
    conn.close()


server = socket.socket()
server.bind(("127.0.0.1", int(sys.argv[1])))
server.listen(4096)
print(server.getsockname()[1], flush=True)
while True:
    conn, _ = server.accept()
    conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    talk(conn)  # until this client is gone, the others wait
