"""sendmsg and sendto of a blocking stream socket take everything, as they do without rimstone."""

from rimstone.testing.patched import in_patched_process


@in_patched_process()
def test_stream_takes_everything():
    import array
    import hashlib
    import socket

    from rimstone import spawn

    size = 5_000_000

    def read(sock):
        digest = hashlib.sha256()
        while data := sock.recv(65536):
            digest.update(data)
        return digest.digest()

    data = bytes(range(256)) * (size // 256)
    parts = [data[:10], b"", array.array("I", data[10:1_000_010]), memoryview(data)[1_000_010:]]
    for send in (
        lambda sock: sock.sendmsg(parts),
        lambda sock: sock.sendmsg(iter(parts)),
        lambda sock: sock.sendto(data, sock.getpeername()),
    ):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            one = socket.create_connection(listener.getsockname())
            other, _ = listener.accept()
        with one, other:
            reading = spawn(read, other)
            assert send(one) == len(data)
            one.shutdown(socket.SHUT_WR)
            assert reading.get() == hashlib.sha256(data).digest()


@in_patched_process()
def test_descriptors_go_along_once():
    import array
    import os
    import socket

    from rimstone import spawn

    one, other = socket.socketpair()
    reading, writing = os.pipe()

    def read():
        count = received = 0
        while True:
            data, ancillary, _, _ = other.recvmsg(65536, socket.CMSG_SPACE(4 * 8))
            if not data:
                return count, received
            count += len(data)
            for _, _, content in ancillary:
                fds = array.array("i", content)
                received += len(fds)
                for fd in fds:
                    os.close(fd)

    with one, other:
        task = spawn(read)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [reading]))]
        assert one.sendmsg([b"x" * 3_000_000], rights) == 3_000_000
        one.close()
        assert task.get() == (3_000_000, 1)
    os.close(reading)
    os.close(writing)


@in_patched_process()
def test_error_on_the_way_is_the_next_calls():
    import socket

    from rimstone import sleep, spawn

    one, other = socket.socketpair()
    with one, other:
        sending = spawn(one.sendmsg, [b"x" * 5_000_000])
        while sending.state != "parked":
            sleep(0)
        other.close()
        assert 0 < sending.get() < 5_000_000
        try:
            one.send(b"x")
        except OSError:
            pass
        else:
            raise AssertionError("sent to nobody")


@in_patched_process()
def test_with_a_timeout_it_takes_what_there_is_room_for():
    import socket

    one, other = socket.socketpair()
    with one, other:
        one.settimeout(20)
        assert 0 < one.sendmsg([b"x" * 5_000_000]) < 5_000_000
