"""The upper-case server on the standard library: blocking code, a thread a connection. Argument: port (0 is any)."""

import socket
import sys
from threading import Thread


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
    Thread(target=talk, args=(conn,), daemon=True).start()
