"""TLS in tasks: handshake, transfers, timeouts and endings wait cooperatively; the certificate is the test's own.

Server and client are tasks of one thread, so whatever waited natively would hang.
"""

# ruff: noqa: PT017 - the bodies are programs of their own, run without pytest

import pytest

from rimstone.testing.patched import in_patched_process


def contexts(certificate):
    import ssl

    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    client = ssl.create_default_context(cafile=certificate)
    return server, client


def connected(certificate, timeout=20, version=None):
    """Two SSLSockets, connected to each other, whose handshakes ran in two tasks of this thread."""
    import socket

    from rimstone import spawn

    server_context, client_context = contexts(certificate)
    if version is not None:
        client_context.maximum_version = version
    one, other = socket.socketpair()
    one.settimeout(timeout)
    other.settimeout(timeout)
    server = spawn(server_context.wrap_socket, one, server_side=True)
    client = spawn(client_context.wrap_socket, other, server_hostname="localhost")
    return server.get(), client.get()


@in_patched_process(contexts, connected)
@pytest.mark.parametrize("timeout", [None, 20])
@pytest.mark.parametrize("version", [None, 771], ids=["newest", "TLS 1.2"])
def test_handshake_and_talk(certificate, timeout, version):
    from rimstone import sleep, spawn

    server, client = connected(certificate, timeout, version)
    with server, client:
        assert server.gettimeout() == client.gettimeout() == client.timeout == timeout
        assert client.getpeercert()["subject"] == ((("commonName", "localhost"),),)
        assert client.version() == ("TLSv1.2" if version else "TLSv1.3")
        task = spawn(server.recv, 10)
        sleep(0)
        sleep(0)
        assert task.state == "parked"
        client.sendall(b"abc")
        assert task.get() == b"abc"
        buffer = bytearray(10)
        task = spawn(client.recv_into, buffer)
        sleep(0)
        server.send(b"xyz")
        assert task.get() == 3
        assert client.pending() == 0
        stream = client.makefile("r")
        task = spawn(stream.readline)
        server.sendall(b"line\nrest")
        assert task.get() == "line\n"
        stream.close()


@in_patched_process(contexts, connected)
def test_big_transfers_in_both_directions_at_once(certificate):
    import os

    from rimstone import joinall, spawn

    data = os.urandom(3_000_000)
    server, client = connected(certificate)

    def read(sock):
        received = bytearray()
        while len(received) < len(data):
            received += sock.recv(65536)
        return received == data

    with server, client:
        writers = [spawn(sock.sendall, data) for sock in (server, client)]
        readers = [spawn(read, sock) for sock in (server, client)]
        joinall([*writers, *readers], raise_error=True)
        assert all(task.value for task in readers)


@in_patched_process(contexts, connected)
def test_timeouts(certificate):
    import time

    from rimstone import joinall, spawn

    server, client = connected(certificate, timeout=None)
    with server, client:
        client.settimeout(0.05)
        assert client.gettimeout() == client.timeout == 0.05
        assert client.getblocking()

        def expect(operation, name):
            try:
                operation()
            except TimeoutError as error:
                assert str(error) == f"The {name} operation timed out", error
            else:
                raise AssertionError

        began = time.monotonic()
        joinall(
            [
                spawn(expect, lambda: client.recv(10), "read"),
                spawn(expect, lambda: client.sendall(b"x" * 10_000_000), "write"),
            ],
            raise_error=True,
        )
        assert 0.05 <= time.monotonic() - began < 1
        for wrong in (-1, "x"):
            try:
                client.settimeout(wrong)
            except (ValueError, TypeError):
                assert client.gettimeout() == 0.05
            else:
                raise AssertionError(wrong)


@in_patched_process(contexts, connected)
def test_sockets_that_do_not_block_still_say_so(certificate):
    import socket
    import ssl

    from rimstone import joinall, sleep, spawn

    server, client = connected(certificate)
    with server, client:
        client.setblocking(False)
        assert client.gettimeout() == 0
        assert not client.getblocking()
        for _ in range(2):  # the first may take what TLS 1.3 sends after the handshake
            try:
                client.recv(10)
            except ssl.SSLWantReadError:
                pass
            else:
                raise AssertionError
        client.setblocking(True)
        assert client.gettimeout() is None
        task = spawn(client.recv, 10)
        server.send(b"abc")
        assert task.get() == b"abc"

    def by_hand(sock):
        while True:
            try:
                return sock.do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                sleep(0.001)

    server_context, client_context = contexts(certificate)
    one, other = socket.socketpair()
    one.setblocking(False)
    other.setblocking(False)
    server = server_context.wrap_socket(one, server_side=True, do_handshake_on_connect=False)
    client = client_context.wrap_socket(other, server_hostname="localhost", do_handshake_on_connect=False)
    with server, client:
        joinall([spawn(by_hand, server), spawn(by_hand, client)], raise_error=True)


def read_tickets(server, client):
    """Take what TLS 1.3 sends after the handshake: closing with something unread would be a reset."""
    server.sendall(b"x")
    assert client.recv(1) == b"x"


@in_patched_process(contexts, connected, read_tickets)
def test_endings(certificate):
    import errno
    import socket
    import ssl

    from rimstone import spawn

    # close_notify in both directions, after which the sockets are plain ones again
    server, client = connected(certificate, timeout=20)
    one, other = spawn(server.unwrap), spawn(client.unwrap)
    plain, peer = one.get(), other.get()
    assert plain is server
    assert peer.gettimeout() == 20
    task = spawn(plain.recv, 10)
    peer.sendall(b"plain")
    assert task.get() == b"plain"
    plain.close()
    peer.close()
    # FIN without close_notify
    server, client = connected(certificate)
    read_tickets(server, client)
    client.close()
    assert spawn(server.recv, 10).get() == b""
    server.close()
    server, client = connected(certificate)
    read_tickets(server, client)
    server.suppress_ragged_eofs = False
    client.close()
    try:
        server.recv(10)
    except ssl.SSLEOFError:
        pass
    else:
        raise AssertionError
    server.close()
    # closed by a sibling while a task waits
    server, client = connected(certificate)
    task = spawn(server.recv, 10)
    spawn(server.close).get()
    stranger = socket.socketpair()  # has the number now, and must not be read from
    stranger[1].sendall(b"for the stranger")
    try:
        task.get(timeout=10)
    except OSError as error:
        assert error.errno == errno.EBADF
    else:
        raise AssertionError
    client.close()
    assert stranger[0].recv(100) == b"for the stranger"
    for sock in stranger:
        sock.close()


@in_patched_process(contexts, connected)
def test_socket_that_is_plain_again_blocks_a_plain_thread_as_before(certificate):
    import os
    import socket
    import threading
    import time

    from rimstone import spawn

    def use(sock):
        got.append(sock.recv(10))

    for timeout in (None, 20):
        for ending in ("unwrap", "shutdown", "detach"):
            server, client = connected(certificate, timeout)
            got = []
            if ending == "unwrap":
                one, other = spawn(server.unwrap), spawn(client.unwrap)
                server, client = one.get(), other.get()
            elif ending == "shutdown":
                server.shutdown(socket.SHUT_WR)
            else:
                server = socket.socket(fileno=server.detach())
                client = socket.socket(fileno=client.detach())
                server.settimeout(timeout)
            assert server.gettimeout() == timeout
            assert os.get_blocking(server.fileno()) == (timeout is None)
            thread = threading.Thread(target=use, args=(server,))
            thread.start()
            time.sleep(0.005)
            if ending == "shutdown":
                client.shutdown(socket.SHUT_WR)
            else:
                client.sendall(b"plain")
            thread.join()
            assert got == [b"plain" if ending != "shutdown" else b""], (ending, got)
            server.close()
            client.close()


@in_patched_process(contexts)
def test_servers_accept_with_tls(certificate):
    import socket

    from rimstone import joinall, spawn

    server_context, client_context = contexts(certificate)

    def answer(connection):
        with connection:
            connection.sendall(connection.recv(100).upper())

    def client(address, number):
        with (
            socket.create_connection(address, timeout=20) as sock,
            client_context.wrap_socket(sock, server_hostname="localhost") as tls,
        ):
            tls.sendall(b"number %d" % number)
            assert tls.recv(100) == b"NUMBER %d" % number

    with (
        socket.create_server(("127.0.0.1", 0)) as plain,
        server_context.wrap_socket(plain, server_side=True) as listener,
    ):

        def serve():
            while True:
                spawn(answer, listener.accept()[0])

        server = spawn(serve)
        joinall([spawn(client, listener.getsockname(), number) for number in range(30)], raise_error=True)
        server.kill()
        # connect() of an SSLSocket
        server = spawn(lambda: answer(listener.accept()[0]))
        with client_context.wrap_socket(socket.socket(), server_hostname="localhost") as tls:
            tls.settimeout(20)
            tls.connect(listener.getsockname())
            tls.sendall(b"abc")
            assert tls.recv(10) == b"ABC"
        server.get()


@in_patched_process(contexts)
def test_server_that_never_answers_the_handshake(certificate):
    import socket

    from rimstone import spawn

    _, client_context = contexts(certificate)
    ticker = spawn(int)
    ticker.join()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sock = socket.create_connection(listener.getsockname(), timeout=0.05)
        try:
            client_context.wrap_socket(sock, server_hostname="localhost")
        except TimeoutError as error:
            assert str(error) == "The handshake operation timed out"
        else:
            raise AssertionError
        finally:
            sock.close()
        # and one that hangs up, and one that speaks something else
        for said in (b"", b"SSH-2.0 hello\r\n"):
            sock = socket.create_connection(listener.getsockname(), timeout=20)
            client = spawn(client_context.wrap_socket, sock, server_hostname="localhost")
            for _ in range(2):
                connection, _ = listener.accept()
                if connection.getpeername() == sock.getsockname():
                    break
                connection.close()
            connection.sendall(said)
            connection.shutdown(socket.SHUT_WR)
            try:
                client.get()
            except OSError:
                pass
            else:
                raise AssertionError
            connection.close()
            sock.close()


@in_patched_process(contexts)
def test_untrusted_certificate(certificate):
    import socket
    import ssl

    from rimstone import spawn

    server_context, _ = contexts(certificate)
    one, other = socket.socketpair()
    server = spawn(lambda: server_context.wrap_socket(one, server_side=True))
    client = spawn(lambda: ssl.create_default_context().wrap_socket(other, server_hostname="localhost"))
    try:
        client.get()
    except ssl.SSLCertVerificationError:
        pass
    else:
        raise AssertionError
    try:
        server.get()
    except ssl.SSLError:
        pass
    one.close()
    other.close()


@in_patched_process(contexts)
def test_plain_threads_speak_tls_as_before(certificate):
    import socket
    import threading

    from rimstone.hub import current_hub

    server_context, client_context = contexts(certificate)

    def serve(sock):
        with server_context.wrap_socket(sock, server_side=True) as tls:
            tls.sendall(tls.recv(100).upper())
            tls.settimeout(0.05)
            try:
                tls.recv(10)
            except TimeoutError as error:
                said.append(str(error))

    said = []
    one, other = socket.socketpair()
    thread = threading.Thread(target=serve, args=(one,))
    thread.start()
    with client_context.wrap_socket(other, server_hostname="localhost") as tls:
        tls.sendall(b"abc")
        assert tls.recv(100) == b"ABC"
        thread.join()
    assert said == ["The read operation timed out"]
    assert current_hub() is None


@in_patched_process(contexts)
def test_server_name_callback_gets_the_sslsocket(certificate):
    import socket
    import ssl

    from rimstone import spawn

    server_context, client_context = contexts(certificate)
    seen = []
    server_context.sni_callback = lambda sock, name, context: seen.append((type(sock), name, context is server_context))
    one, other = socket.socketpair()
    server = spawn(server_context.wrap_socket, one, server_side=True)
    client = spawn(client_context.wrap_socket, other, server_hostname="localhost")
    with server.get(), client.get():
        pass
    assert seen == [(ssl.SSLSocket, "localhost", True)]


@in_patched_process(contexts, before="import ssl\nbefore = ssl.SSLSocket")
def test_ssl_imported_before_patching(certificate):
    import socket
    import ssl

    from rimstone import spawn

    assert ssl.SSLSocket is before  # noqa: F821
    server_context, client_context = contexts(certificate)
    one, other = socket.socketpair()
    server = spawn(server_context.wrap_socket, one, server_side=True)
    client = spawn(client_context.wrap_socket, other, server_hostname="localhost")
    with server.get(), client.get():
        pass
