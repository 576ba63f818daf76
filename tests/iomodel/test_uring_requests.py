"""What a request to io_uring holds, and how it is taken back: no data, connection or descriptor is lost."""

import errno
import gc
import os
import resource
import socket
import subprocess
import sys
import textwrap
import threading
from contextlib import ExitStack, closing

import pytest

from rimstone import clock
from rimstone.errors import CannotWait, TaskExit
from rimstone.hub import close_hub, get_hub, joinall, sleep, spawn
from rimstone.iomodel import uring
from rimstone.iomodel.base import READ, WRITE, Scheduler
from rimstone.testing.iomodel_suite import fill, tcp_pair, turns, until_parked

pytestmark = [
    pytest.mark.skipif(uring.UringModel.why_unavailable() is not None, reason=str(uring.UringModel.why_unavailable())),
    pytest.mark.timeout(20),
]


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setenv("RIMSTONE_IO_MODEL", "uring")
    yield get_hub()
    close_hub()


@pytest.fixture
def tcp():
    with tcp_pair() as pair:
        yield pair


@pytest.fixture
def crowd(hub):
    """Makes the turn after it one in which many operations are done, so that the model shares its system calls."""
    with ExitStack() as stack:
        pairs = [tuple(stack.enter_context(sock) for sock in socket.socketpair()) for _ in range(20)]

        def gather(then):
            tasks = [spawn(hub.io.recv, near, 1, 0, None) for near, _ in pairs]
            until_parked(*tasks)
            sleep(0)
            tasks.append(spawn(lambda: (hub.io.recv(pairs[0][1], 1, 0, None), then())[1]))
            until_parked(tasks[-1])
            sleep(0)
            for _, far in pairs:
                far.send(b"x")
            pairs[0][0].send(b"x")
            joinall(tasks, raise_error=True)
            return tasks[-1].get()

        yield gather


class Recorder(Scheduler):
    def __init__(self):
        super().__init__()
        self.ready = []

    def happened(self, task, waiting):
        self.ready.append(task)


# -- kills -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("submitted", [False, True])
def test_killed_receiver_takes_nothing(hub, tcp, submitted):
    """Not even when the data came first: the cancellation is submitted before the kernel receives them."""
    task = spawn(hub.io.recv, tcp[0], 10, 0, None)
    until_parked(task)
    if submitted:
        turns()
    tcp[1].send(b"abc")
    task.kill()
    assert isinstance(task.value, TaskExit)
    assert hub.io.recv(tcp[0], 10, 0, 5) == b"abc"


def test_receiver_that_is_killed_after_its_data_came_returns_them(hub, tcp):
    """As with every grant: the kill strikes at the next park."""
    got = []

    def receive():
        got.append(hub.io.recv(tcp[0], 10, 0, None))
        sleep(20)
        got.append("not killed")

    def kill():
        hub.io.wait(bell, READ)
        victim.kill(block=False)

    bell, rope = os.pipe()
    try:
        killer = spawn(kill)
        victim = spawn(receive)
        until_parked(killer, victim)
        turns()
        # Both are done within one poll, and the killer runs first.
        os.write(rope, b"x")
        tcp[1].send(b"abc")
        victim.join()
        killer.get()
    finally:
        os.close(bell)
        os.close(rope)
    assert got == [b"abc"]


def test_operations_that_need_no_wait_where_none_is_allowed(hub, tcp, crowd):
    """As in a signal handler that strikes while the hub polls: what goes on at once does, the rest is refused."""
    seen = []

    def on_idle():
        if not seen:
            fd, _ = hub.io.accept(listener, None)
            os.close(fd)
            seen.extend([hub.io.send(tcp[0], b"abc", 0, None), hub.io.recv(tcp[1], 10, 0, None)])
            for refused in (
                lambda: hub.io.recv(tcp[1], 10, 0, None),
                lambda: hub.io.accept(listener, None),
                lambda: hub.io.wait(tcp[0].fileno(), READ),
            ):
                with pytest.raises(CannotWait):
                    refused()
        return False

    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        crowd(lambda: None)
        hub.on_idle = on_idle
        patience = clock.monotonic() + 10
        while not seen and clock.monotonic() < patience:
            sleep(0.001)
        hub.on_idle = None
    assert seen == [3, b"abc"]
    tcp[0].send(b"not lost")
    turns()  # in which the refused ones would take it
    assert hub.io.recv(tcp[1], 10, 0, 5) == b"not lost"


def test_killed_acceptor_takes_no_connection(hub):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        task = spawn(hub.io.accept, listener, None)
        until_parked(task)
        turns()
        with socket.create_connection(listener.getsockname()) as client:
            task.kill()
            fd, address = hub.io.accept(listener, 5)
            os.close(fd)
            assert address == client.getsockname()


def test_receive_that_ran_out_of_time_takes_nothing(hub, tcp):
    with pytest.raises(TimeoutError):
        hub.io.recv(tcp[0], 10, 0, 0.01)
    tcp[1].send(b"abc")
    assert hub.io.recv(tcp[0], 10, 0, 5) == b"abc"


def test_data_of_a_killed_send_stay_until_the_kernel_has_let_go(hub, tcp):
    data = bytearray(10_000_000)
    task = spawn(hub.io.sendall, tcp[0], data, 0, None)
    until_parked(task)
    turns()
    with pytest.raises(BufferError):
        data.clear()
    task.kill()
    data.clear()


def test_thousands_are_killed_at_once(hub):
    """Each finds its request among all: once a turn, not once a kill."""
    reading, writing = os.pipe()
    tasks = [spawn(hub.io.wait, reading, READ) for _ in range(3000)]
    until_parked(*tasks)
    turns()
    for task in tasks:
        task.kill(block=False)
    joinall(tasks)
    assert not hub.io.waits()
    os.close(reading)
    os.close(writing)


def test_accept_runs_out_of_descriptors_while_it_waits(hub):
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        client = stack.enter_context(socket.socket())
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 5, limits[1]))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        task = spawn(hub.io.accept, listener, None)
        until_parked(task)
        turns()
        with ExitStack() as taken:
            with pytest.raises(OSError):
                while True:
                    taken.callback(os.close, os.dup(listener.fileno()))
            client.connect(listener.getsockname())
            with pytest.raises(OSError) as caught:
                task.get()
        assert caught.value.errno == errno.EMFILE
        os.close(hub.io.accept(listener, 5)[0])


# -- closing ---------------------------------------------------------------------------------------------------


def test_close_reaches_the_peer_at_once(hub, tcp):
    """A request holds the file: it must have let go of it when `forget` returns."""
    task = spawn(hub.io.recv, tcp[0], 10, 0, None)
    until_parked(task)
    turns()
    hub.io.forget(tcp[0].fileno())
    tcp[0].close()
    tcp[1].settimeout(5)
    assert tcp[1].recv(10) == b""
    with pytest.raises(OSError) as caught:
        task.get()
    assert caught.value.errno == errno.EBADF


def test_port_of_a_listener_is_free_after_close(hub):
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    task = spawn(hub.io.accept, listener, None)
    until_parked(task)
    turns()
    hub.io.forget(listener.fileno())
    listener.close()
    socket.create_server(address).close()
    with pytest.raises(OSError):
        task.get()


def test_connection_that_nobody_takes_is_closed(hub):
    """The task that accepted finds its listener closed, and leaves the connection where it is."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        task = spawn(hub.io.accept, listener, None)
        until_parked(task)
        turns()
        with socket.create_connection(listener.getsockname(), timeout=5) as client:
            hub.io.poll(0)
            listener.close()  # behind our back
            with pytest.raises(OSError) as caught:
                task.get()
            assert caught.value.errno == errno.EBADF
            gc.collect()
            assert client.recv(1) == b""


def test_closing_the_hub_ends_requests_and_leaves_the_sockets_alone(hub, tcp):
    data = bytearray(10_000_000)
    full = fill(tcp[0])
    tasks = [spawn(hub.io.recv, tcp[0], 10, 0, None), spawn(hub.io.sendall, tcp[0], data, 0, None)]
    until_parked(*tasks)
    turns()
    close_hub()
    data.clear()
    tcp[1].send(b"abc")
    assert tcp[0].recv(10) == b"abc"
    assert full


def test_closing_the_ring_cancels_what_it_holds(tcp):
    scheduler = Recorder()
    ring = uring._ring.Ring(scheduler)
    asked = [ring.recv("task", tcp[0], tcp[0].fileno(), 10, False), ring.poll_add("task", None, tcp[0].fileno(), READ)]
    ring.poll(0)
    last = ring.recv("task", tcp[0], tcp[0].fileno(), 10, True)  # not submitted yet
    assert ring.waiting == 3
    ring.close()
    assert [operation.result for operation in (*asked, last)] == [-errno.ECANCELED] * 3
    assert ring.fd == -1
    for use in (lambda: ring.recv("task", tcp[0], tcp[0].fileno(), 10, True), lambda: ring.poll(0), ring.submit):
        with pytest.raises(OSError):
            use()
    ring.withdraw(last)
    ring.settle()
    ring.close()


def test_ring_of_a_thread_that_has_ended_is_closed_by_one_that_has_got_its_ident(tcp):
    """The system gives the number of a thread away again; the kernel would refuse the ring to the second one."""
    made = []

    def make():
        ring = uring._ring.Ring(Recorder())
        ring.recv("task", tcp[0], tcp[0].fileno(), 10, False)
        ring.poll(0)
        made.append((threading.get_ident(), ring))

    def close(ring):
        ring.close()
        closed.append(threading.get_ident())

    for _ in range(10):
        closed = []
        for target, args in ((make, ()), (lambda: close(made[-1][1]), ())):
            thread = threading.Thread(target=target, args=args)
            thread.start()
            thread.join()
        ident, ring = made[-1]
        assert closed
        assert ring.fd == -1
        if closed == [ident]:
            return
    pytest.skip("no two threads had the same ident, one after the other")


NO_MEMORY = """
    import ctypes, errno, platform, socket, struct, sys
    from rimstone.iomodel import _ring

    libc = ctypes.CDLL(None, use_errno=True)
    if platform.machine() not in ("x86_64", "aarch64"):
        sys.exit("skip")
    near, far = socket.socketpair()
    ring = _ring.Ring(None)
    asked = ring.recv("task", near, near.fileno(), 10, False)
    ring.poll(0)
    # A seccomp filter: from now on system call 426, io_uring_enter, says that it has no memory.
    program = [(0x20, 0, 0, 0), (0x15, 0, 1, 426), (0x06, 0, 0, 0x00050000 | errno.EAGAIN), (0x06, 0, 0, 0x7FFF0000)]
    filters = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))

    class Filter(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filters", ctypes.c_void_p)]

    filter = Filter(len(program), ctypes.addressof(filters))
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(filter), 0, 0):
        sys.exit("skip")
    ring.close()
    print(ring.fd, asked.done)
"""


def test_closing_a_ring_ends_where_the_kernel_has_no_memory_to_cancel_what_it_holds():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(NO_MEMORY)], capture_output=True, text=True, check=False, timeout=30
    )
    if done.stderr.strip() == "skip":
        pytest.skip("no seccomp here")
    assert (done.stdout, done.stderr) == ("-1 False\n", "")


# -- crowds ----------------------------------------------------------------------------------------------------


def test_more_requests_than_the_ring_has_places(hub):
    reading, writing = os.pipe()
    try:
        tasks = [spawn(hub.io.wait, reading, READ) for _ in range(6000)]
        until_parked(*tasks)
        os.write(writing, b"x")
        joinall(tasks)
        assert all(task.get() for task in tasks)
    finally:
        os.close(reading)
        os.close(writing)


def test_more_answers_than_the_ring_has_places():
    scheduler = Recorder()
    with closing(uring._ring.Ring(scheduler)) as ring:
        reading, writing = os.pipe()
        try:
            asked = [ring.poll_add(number, None, writing, WRITE) for number in range(10_000)]
            for _ in range(50):
                ring.poll(0)
            assert sorted(scheduler.ready) == list(range(10_000))
            assert all(operation.done and operation.result > 0 for operation in asked)
            assert ring.waiting == 0
        finally:
            os.close(reading)
            os.close(writing)


def test_more_data_than_the_ring_has_buffers(hub):
    scheduler = Recorder()
    with ExitStack() as stack:
        ring = stack.enter_context(closing(uring._ring.Ring(scheduler)))
        pairs = [tuple(stack.enter_context(sock) for sock in socket.socketpair()) for _ in range(300)]
        for _, far in pairs:
            far.send(b"abc")
        asked = [ring.recv(near, near, near.fileno(), 100, False) for near, _ in pairs]
        ring.poll(0)
        lacking = [near for (near, _), operation in zip(pairs, asked, strict=True) if operation.result < 0]
        assert {operation.result for operation in asked} == {3, -errno.ENOBUFS}
        # The buffers go back as soon as they have been looked at.
        again = [ring.recv(near, near, near.fileno(), 100, False) for near in lacking]
        ring.poll(0)
        assert {operation.data() for operation in again} == {b"abc"}


def test_operations_in_a_crowd(hub, crowd, tcp):
    def talk():
        hub.io.sendall(tcp[0], b"", 0, None)
        hub.io.sendall(tcp[0], b"abc", 0, None)
        return hub.io.send(tcp[0], memoryview(b"defg"), 0, 5)

    assert crowd(talk) == 4
    assert tcp[1].recv(100) == b"abcdefg"


def test_receive_in_a_crowd(hub, crowd, tcp):
    tcp[1].send(b"abcdefgh")
    buffer = bytearray(3)

    def talk():
        return hub.io.recv_into(tcp[0], buffer, 2, 0, None), bytes(buffer), hub.io.recv(tcp[0], 100, 0, 5)

    assert crowd(talk) == (2, b"ab\0", b"cdefgh")


def test_large_messages_in_a_crowd(hub, crowd, tcp):
    data = os.urandom(3_000_000)

    def receive():
        received = b""
        while len(received) < len(data):
            received += hub.io.recv(tcp[1], 1 << 20, 0, 10)
        return received

    reader = spawn(receive)
    assert crowd(lambda: hub.io.send(tcp[0], data, 0, None)) == len(data)
    assert reader.get() == data


# -- addresses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "named", "\0abstract", "\0name\0with\0zeros\0"])
def test_address_of_a_unix_client(hub, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind("listener")
        listener.listen()
        if name:
            client.bind(name if name[0] else f"{name}{os.getpid()}")
        client.connect("listener")
        fd, address = hub.io.accept(listener, None)
        with socket.socket(fileno=fd) as server:
            assert address == server.getpeername()


def test_address_of_an_ipv6_client(hub):
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with listener, socket.create_connection(listener.getsockname()[:2]) as client:
        fd, address = hub.io.accept(listener, None)
        os.close(fd)
        assert address == client.getsockname()


# -- forks, and systems that forbid it -------------------------------------------------------------------------


def test_forked_child_has_a_ring_of_its_own(hub, tcp):
    task = spawn(hub.io.recv, tcp[0], 10, 0, None)
    until_parked(task)
    turns()
    pid = os.fork()
    if pid == 0:
        try:
            with open("/proc/self/maps") as maps:
                if "io_uring" in maps.read():  # the kernel would write to the parent's ring and this one alike
                    os._exit(3)
            near, far = socket.socketpair()
            mine = spawn(get_hub().io.recv, near, 10, 0, 5)
            until_parked(mine)
            far.send(b"child")
            os._exit(0 if get_hub().io is not hub.io and mine.get() == b"child" else 2)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    tcp[1].send(b"parent")
    assert task.get() == b"parent"


FORBID = """
    import ctypes, errno, platform, struct, sys

    libc = ctypes.CDLL(None, use_errno=True)
    if platform.machine() not in ("x86_64", "aarch64"):
        sys.exit("skip")
    # A seccomp filter, as containers have: system call 425, io_uring_setup, fails with the given error.
    program = [(0x20, 0, 0, 0), (0x15, 0, 1, 425), (0x06, 0, 0, 0x00050000 | NUMBER), (0x06, 0, 0, 0x7FFF0000)]
    filters = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))

    class Filter(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filters", ctypes.c_void_p)]

    filter = Filter(len(program), ctypes.addressof(filters))
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(filter), 0, 0):
        sys.exit("skip")
    from rimstone import iomodel
    print(iomodel.available()["uring"], iomodel.choose().name, sep="\\n")
    try:
        iomodel.choose("uring")
    except Exception as error:
        print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EPERM, "io_uring_setup gave EPERM: a container's seccomp profile or a security module forbids it"),
        (
            errno.ENOSYS,
            "io_uring_setup gave ENOSYS: this kernel has no io_uring, or a container's seccomp profile hides it",
        ),
        (errno.EINVAL, f"it needs Linux 6.1 or newer (IORING_SETUP_DEFER_TASKRUN), and this is {os.uname().release}"),
    ],
)
def test_it_says_why_it_is_refused(number, reason):
    code = textwrap.dedent(FORBID).replace("NUMBER", str(number))
    environment = {name: value for name, value in os.environ.items() if name != "RIMSTONE_IO_MODEL"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment, timeout=20
    )
    if done.stderr.strip() == "skip":
        pytest.skip("no seccomp here")
    first, chosen, error = done.stdout.splitlines()
    assert (first, chosen) == (reason, "epoll")
    assert error.startswith(f"IOModelUnavailable 'uring' cannot be used: {reason}; use one of epoll, ")


def test_a_look_leaves_no_descriptor_open():
    before = sorted(os.listdir("/proc/self/fd"))
    assert uring.UringModel.why_unavailable() is None
    assert sorted(os.listdir("/proc/self/fd")) == before
