"""The upper-case server: one thread of one process, a task a connection. Arguments: port (8080; 0 is any), backlog (5).

The backlog `default` takes the one that the standard library chooses.
"""

from rimstone import monkey

monkey.patch_all()

import socket
import sys

from rimstone import spawn

port = int(sys.argv[1]) if len(sys.argv) > 1 else 8080
backlog = sys.argv[2] if len(sys.argv) > 2 else "5"


def talk(conn):
    while True:
        try:
            data = conn.recv(1024)
            if len(data) == 0:
                break
            conn.send(data.upper())
        except ConnectionResetError:
            break
    conn.close()


def serve():
    server = socket.socket()
    server.bind(("127.0.0.1", port))
    if backlog == "default":
        server.listen()
    else:
        server.listen(int(backlog))
    print(server.getsockname()[1], flush=True)
    while True:
        conn, address = server.accept()
        spawn(talk, conn)


spawn(serve).join()
