"""Every method of socket.socket waits cooperatively in a task.

The peer that ends a wait is a sibling task on the same thread: a method that waited natively would hang.
"""

# ruff: noqa: PT017, PLR0915, PLW0108 - the bodies are programs of their own, run without pytest

import pytest

from rimstone.testing.patched import in_patched_process


@in_patched_process()
def test_sleep_lets_siblings_run():
    import time

    from rimstone import joinall, spawn

    began = time.monotonic()
    joinall([spawn(time.sleep, 0.1), spawn(time.sleep, 0.06)])
    assert 0.1 <= time.monotonic() - began < 0.16


@in_patched_process()
@pytest.mark.parametrize("timeout", [None, 20.0])
def test_every_stream_method(timeout):
    import socket

    from rimstone import sleep, spawn

    def exchange(receive, answer):
        """Run *receive* in a task; when it waits, let *answer* run here."""
        task = spawn(receive)
        sleep(0)
        sleep(0)
        assert task.state == "parked", task
        answer()
        return task.get()

    one, other = socket.socketpair()
    one.settimeout(timeout)
    other.settimeout(timeout)
    buffer = bytearray(10)
    with one, other:
        assert exchange(lambda: one.recv(10), lambda: other.send(b"abc")) == b"abc"
        assert exchange(lambda: one.recv(2, socket.MSG_PEEK), lambda: other.send(b"abc")) == b"ab"
        assert one.recv(10) == b"abc"
        assert exchange(lambda: one.recv_into(buffer), lambda: other.sendall(b"abc")) == 3
        assert exchange(lambda: one.recv_into(buffer, 2, socket.MSG_PEEK), lambda: other.send(b"xyz")) == 2
        assert buffer[:3] == b"xyc"
        assert one.recv_into(buffer, nbytes=1, flags=0) == 1
        assert one.recv(10) == b"yz"
        assert exchange(lambda: one.recvfrom(10), lambda: other.send(b"abc"))[0] == b"abc"
        assert exchange(lambda: one.recvfrom_into(buffer), lambda: other.send(b"ABC"))[0] == 3
        assert buffer[:3] == b"ABC"
        assert exchange(lambda: one.recvmsg(10), lambda: other.sendmsg([b"a", b"bc"]))[0] == b"abc"
        assert exchange(lambda: one.recvmsg_into([buffer]), lambda: other.sendmsg(iter([b"d"])))[0] == 1

        def send_twice():
            other.send(b"abc")
            other.send(b"def")

        received = exchange(lambda: one.recv(6, socket.MSG_WAITALL), send_twice)
        # With a timeout the flag means nothing, and what acts on another thread may be faster than `send_twice`.
        assert received == b"abcdef" or timeout is not None
        while len(received) < 6:
            received += one.recv(6 - len(received))
        assert received == b"abcdef"

        def fds():
            return socket.recv_fds(one, 10, 1)

        message, passed, _, _ = exchange(fds, lambda: socket.send_fds(other, [b"fd"], [other.fileno()]))
        assert message == b"fd"
        socket.socket(fileno=passed[0]).close()

        # writers: the sibling drains
        data = b"x" * 3_000_000

        def drain():
            left = len(data)
            while left:
                left -= len(other.recv(65536))

        # `send` of a blocking socket takes all, of one with a timeout what fits.
        for write in (one.sendall, one.send) if timeout is None else (one.sendall,):
            writer = spawn(write, data)
            sleep(0)
            assert writer.state == "parked"
            spawn(drain).get()
            assert writer.get() in (None, len(data))
        assert one.gettimeout() == timeout


@in_patched_process()
def test_datagrams_with_addresses():
    import socket

    from rimstone import sleep, spawn

    buffer = bytearray(10)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        one.bind(("127.0.0.1", 0))
        other.bind(("", 0))
        target = ("127.0.0.1", other.getsockname()[1])
        for receive, send in (
            (lambda: other.recvfrom(10), lambda: one.sendto(b"abc", target)),
            (lambda: other.recvfrom(10), lambda: one.sendto(b"abc", 0, target)),
            (lambda: other.recvfrom_into(buffer), lambda: one.sendmsg([b"abc"], [], 0, target)),
            (lambda: other.recvmsg(10), lambda: one.sendto(b"abc", target)),
        ):
            task = spawn(receive)
            sleep(0)
            sleep(0)
            assert task.state == "parked"
            assert send() == 3
            assert task.get()[-1] == one.getsockname()
        for wrong in ((), (b"x",), (b"x", 0, target, 1)):
            try:
                one.sendto(*wrong)
            except TypeError:
                pass
            else:
                raise AssertionError(wrong)


@in_patched_process()
def test_servers_and_clients():
    import socket

    from rimstone import joinall, sleep, spawn

    def serve(listener):
        while True:
            connection, _ = listener.accept()
            spawn(answer, connection)

    def answer(connection):
        with connection, connection.makefile("rwb") as stream:
            for line in stream:
                stream.write(line.upper())
                stream.flush()

    def client(address, number):
        with socket.create_connection(address, timeout=20) as sock, sock.makefile("rw") as stream:
            for turn in range(10):
                stream.write(f"line {turn} of {number}\n")
                stream.flush()
                assert stream.readline() == f"LINE {turn} OF {number}\n"
                sleep(0)
            assert sock.gettimeout() == 20
        return number

    for timeout in (None, 20):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(timeout)
            server = spawn(serve, listener)
            clients = [spawn(client, listener.getsockname(), number) for number in range(50)]
            joinall(clients, raise_error=True)
            assert [task.value for task in clients] == list(range(50))
            assert listener.gettimeout() == timeout
            server.kill()


@in_patched_process()
def test_connect_and_its_errors():
    import errno
    import os
    import socket
    import tempfile

    from rimstone import spawn

    spawn(int).join()  # from here on there is a hub
    for connect in (socket.socket.connect, socket.socket.connect_ex):
        with socket.socket() as sock:
            try:
                connect(sock, ("::1", 9))
            except socket.gaierror:
                pass
            else:
                raise AssertionError
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        for timeout in (None, 5):
            with socket.socket() as sock:
                sock.settimeout(timeout)
                sock.connect(address)
                assert sock.getpeername() == address
                try:
                    sock.connect(address)
                except OSError as error:
                    assert error.errno == errno.EISCONN
            with socket.socket() as sock:
                sock.settimeout(timeout)
                assert sock.connect_ex(address) == 0
                assert sock.connect_ex(address) == errno.EISCONN
    for timeout in (None, 5):
        with socket.socket() as sock:
            sock.settimeout(timeout)
            try:
                sock.connect(address)
            except ConnectionRefusedError:
                pass
            else:
                raise AssertionError("nobody listens there")
        with socket.socket() as sock:
            sock.settimeout(timeout)
            assert sock.connect_ex(address) == errno.ECONNREFUSED
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(os.path.join(folder, "nobody"))
        except FileNotFoundError:
            pass
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        waiting = [socket.socket() for _ in range(3)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        with socket.socket() as sock:
            sock.settimeout(0.02)
            try:
                sock.connect(listener.getsockname())
            except TimeoutError as error:
                assert str(error) == "timed out"
            else:
                raise AssertionError
        with socket.socket() as sock:
            sock.settimeout(0.02)
            assert sock.connect_ex(listener.getsockname()) == errno.EAGAIN
        for sock in waiting:
            sock.close()


@in_patched_process()
def test_buffers_cannot_be_resized_while_a_task_waits_to_receive_into_them():
    import socket

    from rimstone.hub import sleep, spawn

    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for receive in (
        lambda buffer: one.recv_into(buffer),
        lambda buffer: one.recvfrom_into(buffer)[0],
        lambda buffer: one.recvmsg_into([buffer])[0],
    ):
        buffer = bytearray(10)
        task = spawn(receive, buffer)
        sleep(0.01)
        try:
            buffer.clear()
        except BufferError:
            pass
        else:
            raise AssertionError
        other.send(b"abc")
        assert task.get() == 3
        assert buffer.startswith(b"abc")
        buffer.clear()


@in_patched_process()
def test_timeouts_are_the_users_and_wait_cooperatively():
    import socket
    import time

    from rimstone import joinall, spawn

    spawn(int).join()  # from here on there is a hub
    one, other = socket.socketpair()
    buffer = bytearray(10)
    listener = socket.create_server(("127.0.0.1", 0))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    try:
        while True:
            one.send(b"x" * 65536, socket.MSG_DONTWAIT)
    except BlockingIOError:
        pass
    operations = [
        lambda: one.recv(10),
        lambda: one.recv_into(buffer),
        lambda: one.recvfrom(10),
        lambda: one.recvfrom_into(buffer),
        lambda: one.recvmsg(10),
        lambda: one.recvmsg_into([buffer]),
        lambda: one.recv(10, socket.MSG_WAITALL),
        lambda: one.send(b"x"),
        lambda: one.sendall(b"x"),
        lambda: one.sendmsg([b"x"]),
        lambda: listener.accept(),
        lambda: udp.recvfrom(10),
        lambda: one.makefile("rb").read(1),
    ]
    for sock in (one, listener, udp):
        sock.settimeout(0.05)

    def expect_timeout(operation):
        try:
            operation()
        except TimeoutError as error:
            assert str(error) == "timed out", error
        else:
            raise AssertionError("no timeout")

    began = time.monotonic()
    joinall([spawn(expect_timeout, operation) for operation in operations], raise_error=True)
    took = time.monotonic() - began
    assert 0.05 <= took < 0.4, took  # all at once, not one after the other
    for sock in (one, listener, udp):
        assert sock.gettimeout() == 0.05
        sock.close()
    other.close()


@in_patched_process()
def test_sockets_that_do_not_block_still_say_so():
    import errno
    import socket

    from rimstone import spawn

    def check():
        one, other = socket.socketpair()
        listener = socket.create_server(("127.0.0.1", 0))
        buffer = bytearray(10)
        with one, other, listener:
            one.setblocking(False)
            listener.settimeout(0)
            try:
                while True:
                    one.send(b"x" * 65536)
            except BlockingIOError:
                pass
            for operation in (
                lambda: one.recv(10),
                lambda: one.recv_into(buffer),
                lambda: one.recvfrom(10),
                lambda: one.recvfrom_into(buffer),
                lambda: one.recvmsg(10),
                lambda: one.recvmsg_into([buffer]),
                lambda: one.send(b"x" * 65536),
                lambda: one.sendall(b"x" * 65536),
                lambda: one.sendmsg([b"x" * 65536]),
                lambda: listener.accept(),
            ):
                try:
                    operation()
                except BlockingIOError:
                    pass
                else:
                    raise AssertionError(operation)
            assert one.makefile("rb", buffering=0).read(10) is None
            with socket.socket() as client:
                client.setblocking(False)
                try:
                    client.connect(listener.getsockname())
                except BlockingIOError as error:
                    assert error.errno == errno.EINPROGRESS
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as client:
                assert client.gettimeout() == 0
                assert client.connect_ex(listener.getsockname()) == errno.EINPROGRESS
        return "checked"

    assert spawn(check).get() == "checked"


@in_patched_process()
def test_sendfile():
    import os
    import socket
    import tempfile

    from rimstone import sleep, spawn

    content = os.urandom(2_000_000)

    def receive(sock):
        received = b""
        while chunk := sock.recv(65536):
            received += chunk
        return received

    for timeout in (None, 20):
        for start, count in ((0, None), (1000, None), (1000, 500_000)):
            one, other = socket.socketpair()
            one.settimeout(timeout)
            with tempfile.TemporaryFile() as file, one, other:
                file.write(content)
                file.flush()
                sender = spawn(one.sendfile, file, start, count)
                sleep(0)
                assert sender.state == "parked"
                reader = spawn(receive, other)
                expected = content[start : None if count is None else start + count]
                assert sender.get() == len(expected)
                assert file.tell() == start + len(expected)
                assert os.get_blocking(one.fileno()) == (timeout is None)
                one.close()
                assert reader.get() == expected
    one, other = socket.socketpair()
    with tempfile.TemporaryFile() as file, one, other:
        file.write(content)
        file.seek(0)
        one.settimeout(0.02)
        try:
            one.sendfile(file)
        except TimeoutError:
            pass
        else:
            raise AssertionError


@in_patched_process()
def test_closing_wakes_who_waits():
    import errno
    import socket

    from rimstone import sleep, spawn

    for how in ("close", "detach", "shutdown"):
        one, other = socket.socketpair()
        task = spawn(one.recv, 10)
        sleep(0)
        assert task.state == "parked"
        if how == "close":
            one.close()
        elif how == "detach":
            socket.close(one.detach())
        else:
            one.shutdown(socket.SHUT_RD)
        if how == "shutdown":
            assert task.get(timeout=10) == b""
            one.close()
        else:
            try:
                task.get(timeout=10)
            except OSError as error:
                assert error.errno == errno.EBADF
            else:
                raise AssertionError
        other.close()


@in_patched_process()
def test_descriptors_are_given_back():
    import gc
    import os
    import socket

    from rimstone import joinall, spawn

    def talk():
        one, other = socket.socketpair()
        reader = spawn(one.recv, 10)
        other.sendall(b"abc")
        assert reader.get() == b"abc"
        if len(kept) % 3 == 0:
            one.close()
            other.close()
        kept.append(1)

    import warnings

    kept = []
    spawn(int).join()
    before = len(os.listdir("/proc/self/fd"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        for _ in range(20):
            joinall([spawn(talk) for _ in range(20)], raise_error=True)
        gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


@in_patched_process()
def test_running_out_of_descriptors_waits_for_others_to_give_some_back():
    import resource
    import socket

    from rimstone import joinall, sleep, spawn

    listener = socket.create_server(("127.0.0.1", 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))

    def serve():
        while True:
            connection, _ = listener.accept()
            spawn(answer, connection)

    def answer(connection):
        with connection:
            sleep(0.002)
            connection.sendall(connection.recv(10))

    def client(number):
        with socket.create_connection(listener.getsockname()) as sock:
            sock.sendall(b"abc")
            assert sock.recv(10) == b"abc"

    server = spawn(serve)
    # Fewer clients at once than descriptors, so that nobody holds one while all wait for two.
    for _ in range(5):
        joinall([spawn(client, number) for number in range(28)], raise_error=True)
    server.kill()
    try:
        sockets = [socket.socket() for _ in range(100)]
    except OSError as error:  # alone, nobody could give one back: at once, as ever
        assert error.errno == 24
    else:
        raise AssertionError(sockets)


@in_patched_process()
def test_default_timeout():
    import socket

    from rimstone import joinall, spawn

    spawn(int).join()
    socket.setdefaulttimeout(10)
    one, other = socket.socketpair()
    one.settimeout(None)

    def read():
        return one.recv(10)

    task = spawn(read)
    joinall([spawn(other.send, b"abc")])
    assert task.get() == b"abc"
    assert one.gettimeout() is None
    assert other.gettimeout() == 10
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = spawn(socket.create_connection, listener.getsockname())
        connection, _ = listener.accept()
        assert connection.gettimeout() == 10
        connection.close()
        client.get().close()
    one.close()
    other.close()
