"""The upper-case server on gevent: blocking code, a greenlet a connection. Argument: port (0 is any)."""

from gevent import monkey

monkey.patch_all()

import socket
import sys

from gevent import spawn


def talk(conn):
    while True:
        data = conn.recv(1024)
        if not data:
            break
        conn.send(data.upper())
    conn.close()


def serve():
    server = socket.socket()
    server.bind(("127.0.0.1", int(sys.argv[1])))
    server.listen(4096)
    print(server.getsockname()[1], flush=True)
    while True:
        conn, _ = server.accept()
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        spawn(talk, conn)


spawn(serve).join()
