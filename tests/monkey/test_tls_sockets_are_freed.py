"""TLS sockets go when nobody refers to them, without a garbage collection, and give the timeout back."""

from rimstone.testing.patched import in_patched_process


@in_patched_process()
def test_freed_by_reference_count():
    import gc
    import socket
    import ssl
    import warnings
    import weakref

    gc.disable()
    warnings.simplefilter("ignore", ResourceWarning)  # it is left open on purpose
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    one, other = socket.socketpair()
    with other:
        tls = context.wrap_socket(one, server_hostname="localhost", do_handshake_on_connect=False)
        gone = weakref.ref(tls)
        del tls
        assert gone() is None
        assert other.recv(1) == b""


@in_patched_process()
def test_connection_that_outlives_its_socket_says_so():
    import socket
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    one, other = socket.socketpair()
    with other:
        tls = context.wrap_socket(one, server_hostname="localhost", do_handshake_on_connect=False)
        connection = tls._sslobj
        tls.close()
        del tls
        try:
            connection.do_handshake()
        except ssl.SSLError:
            pass
        else:
            raise AssertionError("shook hands with nobody")


@in_patched_process()
def test_shutdown_that_fails_gives_the_timeout_back():
    import _socket
    import socket
    import ssl
    import struct

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        plain = socket.create_connection(listener.getsockname())
        peer, _ = listener.accept()
    plain.settimeout(7)
    with context.wrap_socket(plain, server_hostname="localhost", do_handshake_on_connect=False) as tls:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()  # sends a reset
        try:
            tls.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        else:
            raise AssertionError("the reset had not arrived: the test shows nothing")
        assert tls.gettimeout() == 7
        assert _socket.socket.gettimeout(tls) == 7
