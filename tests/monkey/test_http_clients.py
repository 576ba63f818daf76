"""urllib, http.client and requests over HTTP and HTTPS, in tasks beside their server, while a sibling keeps ticking."""

# ruff: noqa: PT017 - the bodies are programs of their own, run without pytest

import pytest

from rimstone.testing.patched import in_patched_process

pytestmark = pytest.mark.slow


def serving(certificate=None):
    """An http.server whose every connection is a task of this thread; answers after a nap. Returns its address."""
    import http.server
    import ssl
    import time

    from rimstone import spawn

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            time.sleep(0.02)
            body = f"you asked for {self.path}".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"])).upper()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    class Server(http.server.HTTPServer):
        request_queue_size = 100

        def process_request(self, request, client_address):
            def handle():
                try:
                    if certificate:
                        request_ = context.wrap_socket(request, server_side=True)
                    else:
                        request_ = request
                    self.finish_request(request_, client_address)
                finally:
                    self.shutdown_request(request_)

            spawn(handle)

    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    server = Server(("127.0.0.1", 0), Handler)
    spawn(server.serve_forever, poll_interval=0.05)
    return f"http{'s' if certificate else ''}://127.0.0.1:{server.server_address[1]}"


def ticking():
    from rimstone import sleep, spawn

    ticks = []

    def tick():
        while True:
            ticks.append(1)
            sleep(0.001)

    spawn(tick)
    return ticks


@in_patched_process(serving, ticking)
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_urllib(tls, certificate):
    import ssl
    import time
    import urllib.error
    import urllib.request

    from rimstone import joinall, spawn

    url = serving(certificate if tls else None)
    context = ssl.create_default_context(cafile=certificate) if tls else None
    ticks = ticking()

    def fetch(number):
        with urllib.request.urlopen(f"{url}/{number}", timeout=20, context=context) as answer:
            return answer.read().decode()

    began = time.monotonic()
    tasks = [spawn(fetch, number) for number in range(30)]
    joinall(tasks, raise_error=True)
    assert [task.value for task in tasks] == [f"you asked for /{number}" for number in range(30)]
    assert time.monotonic() - began < 10
    assert len(ticks) > 3
    if tls:
        try:
            urllib.request.urlopen(url, timeout=20)
        except urllib.error.URLError as error:
            assert "CERTIFICATE_VERIFY_FAILED" in str(error)
        else:
            raise AssertionError


@in_patched_process(serving, ticking)
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_http_client(tls, certificate):
    import http.client
    import ssl

    from rimstone import joinall, spawn

    url = serving(certificate if tls else None)
    host = url.split("//")[1]
    ticks = ticking()

    def talk():
        if tls:
            connection = http.client.HTTPSConnection(
                host, timeout=20, context=ssl.create_default_context(cafile=certificate)
            )
        else:
            connection = http.client.HTTPConnection(host, timeout=20)
        for number in range(3):  # kept alive
            connection.request("GET", f"/{number}")
            assert connection.getresponse().read() == b"you asked for /%d" % number
        connection.request("POST", "/", body=b"x" * 1_000_000)
        assert connection.getresponse().read() == b"X" * 1_000_000
        connection.close()

    joinall([spawn(talk) for _ in range(10)], raise_error=True)
    assert len(ticks) > 3


@in_patched_process(serving, ticking)
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_requests(tls, certificate):
    import requests

    from rimstone import joinall, spawn

    url = serving(certificate if tls else None)
    ticks = ticking()

    def fetch(session, number):
        answer = session.get(f"{url}/{number}", timeout=20, verify=certificate)
        assert answer.text == f"you asked for /{number}"

    with requests.Session() as session:  # one session for all: its pool of connections stands on our queue and locks
        for _ in range(3):
            joinall([spawn(fetch, session, number) for number in range(10)], raise_error=True)
    assert len(ticks) > 3
    try:
        requests.get(f"{url}/slow", timeout=0.005, verify=certificate)
    except requests.exceptions.Timeout:
        pass
    else:
        raise AssertionError


@in_patched_process()
def test_socketserver_with_threads():
    import socket
    import socketserver
    import threading

    from rimstone import joinall, spawn

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            for line in self.rfile:
                self.wfile.write(line.upper())

    def client(address):
        with socket.create_connection(address) as sock, sock.makefile("rwb") as stream:
            stream.write(b"abc\n")
            stream.flush()
            assert stream.readline() == b"ABC\n"

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        joinall([spawn(client, server.server_address) for _ in range(20)], raise_error=True)
        server.shutdown()
        thread.join()
