"""An HTTP server for the demo that answers every request after 50 ms. One thread, a task a connection.

GET /17 answers "page 17". GET /peak answers the most requests that were in flight at once since the last GET /peak.
Prints its port, and ends when its standard input is closed.
"""

from rimstone import monkey

monkey.patch_all()

import contextlib
import os
import resource
import socket
import sys
import threading
import time

from rimstone import spawn

DELAY_SECONDS = 0.05
BACKLOG = 4096

in_flight = 0
peak = 0


def answer(conn):
    """Serve one connection, which carries one request."""
    with conn, contextlib.suppress(ConnectionError):
        path = read_path(conn)
        body = take_peak() if path == "/peak" else slow_page(path)
        conn.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )


def read_path(conn):
    """Read a request up to the empty line that ends it; the path is the second word of its first line."""
    request = b""
    while not request.endswith(b"\r\n\r\n"):
        data = conn.recv(4096)
        if not data:
            raise ConnectionError("the client hung up in the middle of its request")
        request += data
    return request.split(b" ", 2)[1].decode()


def slow_page(path):
    global in_flight, peak
    in_flight += 1
    peak = max(peak, in_flight)
    time.sleep(DELAY_SECONDS)
    in_flight -= 1
    return f"page {path[1:]}".encode()


def take_peak():
    global peak
    taken, peak = peak, 0
    return str(taken).encode()


def raise_descriptor_limit():
    """One descriptor a connection: the usual 1,024 would make the clients wait."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def end_with_stdin():
    """Whoever started this server holds its standard input; when that process is gone, so is the server."""
    sys.stdin.buffer.read()
    os._exit(0)


def serve():
    server = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    print(server.getsockname()[1], flush=True)
    while True:
        conn, _ = server.accept()
        spawn(answer, conn)


raise_descriptor_limit()
threading.Thread(target=end_with_stdin, daemon=True).start()
spawn(serve).join()
