"""The upper-case server as a StreamServer with a thread for each connection. Argument: port (0 is any)."""

import sys

from rimstone.server import StreamServer


def talk(conn, _peer):
    while True:
        data = conn.recv(1024)
        if not data:
            break
        conn.send(data.upper())


server = StreamServer(
    ("127.0.0.1", int(sys.argv[1])), talk, io_model="blocking", backlog=4096, max_connections=20_000
)  # it sets TCP_NODELAY itself
server.start()
print(server.address[1], flush=True)
server.serve_forever()
