"""A host name given to a non-blocking socket is looked up on a thread, not by C in the hub's own."""

from rimstone.testing.patched import in_patched_process

RECORDING = """
import _socket, threading
asked = []
_look_up = _socket.getaddrinfo
def getaddrinfo(host, *rest):
    asked.append((host, threading.get_ident()))
    return _look_up("127.0.0.1", *rest)
_socket.getaddrinfo = getaddrinfo
"""


@in_patched_process(before=RECORDING)
def test_looked_up_on_a_thread():
    import socket
    import threading

    from rimstone.hub import get_hub

    get_hub()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket() as one,
        socket.socket() as two,
    ):
        receiver.bind(("127.0.0.1", 0))
        # C would look this name up itself, and fail: it does not exist.
        name, port, tcp_port = "name.invalid", receiver.getsockname()[1], listener.getsockname()[1]
        for sock in (udp, one, two):
            sock.setblocking(False)
        assert udp.sendto(b"a", (name, port)) == 1
        assert udp.sendto(b"b", 0, (name, port)) == 1
        assert udp.sendmsg([b"c"], [], 0, (name, port)) == 1
        assert [receiver.recv(9) for _ in range(3)] == [b"a", b"b", b"c"]
        try:
            one.connect((name, tcp_port))
        except BlockingIOError:
            pass
        assert two.connect_ex((name, tcp_port)) in (0, 115)
        for _ in range(2):
            listener.accept()[0].close()
        for sock in (udp, one, two):
            assert sock.gettimeout() == 0
    assert [host for host, _ in asked] == [name] * 5  # noqa: F821 - made before patching
    assert threading.get_ident() not in {thread for _, thread in asked}  # noqa: F821
