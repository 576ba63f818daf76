"""An HTTP server for the demo that answers every request after 50 ms. One thread, a task a connection.

GET /17 answers "page 17". GET /report tells what was served since the last report, as JSON: pages, the most of them in
flight at once, and the seconds from the first request to the last answer.
Prints its port, and ends when its standard input is closed.
"""

from rimstone import monkey

monkey.patch_all()

import contextlib
import json
import os
import resource
import socket
import sys
import threading
import time

from rimstone import spawn

DELAY_SECONDS = 0.05
BACKLOG = 4096


class Report:
    def __init__(self):
        self.pages = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.first_request = self.last_answer = time.monotonic()

    def begin(self):
        if self.pages == self.in_flight == 0:
            self.first_request = time.monotonic()
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)

    def end(self):
        self.in_flight -= 1
        self.pages += 1
        self.last_answer = time.monotonic()

    def as_json(self):
        seconds = self.last_answer - self.first_request
        return json.dumps({"pages": self.pages, "in_flight": self.most_in_flight, "seconds": seconds})


report = Report()


def answer(conn):
    """Serve one connection, which carries one request."""
    with conn, contextlib.suppress(ConnectionError):
        path = read_path(conn)
        body = take_report() if path == "/report" else slow_page(path)
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        conn.sendall((head + body).encode())


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
    report.begin()
    time.sleep(DELAY_SECONDS)
    report.end()
    return f"page {path[1:]}"


def take_report():
    global report
    taken, report = report, Report()
    return taken.as_json()


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
