"""Nobody starves: a task whose IO is always ready yields after a budget, and `sleep(0)` starves nobody."""

import os
import socket
import threading
from itertools import pairwise

import pytest

from rimstone import clock
from rimstone.hub import close_hub, get_hub, sleep, spawn
from rimstone.hub.scheduler import _BUDGET
from rimstone.iomodel import available
from rimstone.iomodel.base import READ

LIMIT_SECONDS = 20.0


@pytest.fixture(params=[name for name, reason in available().items() if reason is None])
def io(request, monkeypatch, hub):
    """The operations of a new hub, with each IO model."""
    close_hub()
    monkeypatch.setenv("RIMSTONE_IO_MODEL", request.param)
    assert get_hub().io.name == request.param
    return get_hub().io


@pytest.fixture
def datagrams():
    """A pair whose ends take turns: one datagram lies between them while a task sends it and receives it again."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        yield near, far


@pytest.fixture
def full():
    """A stream with more to read than any test here takes in pieces of one byte; and its other end."""
    near, far = socket.socketpair()
    with near, far:
        far.setblocking(False)
        sent = 0
        try:
            while True:
                sent += far.send(bytes(65_536))
        except BlockingIOError:
            pass
        assert sent > 50 * _BUDGET
        yield near, far


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listening:
        yield listening


class Greedy:
    """A task that does *operation* again and again, and never has to wait for it; ends when *enough* holds."""

    def __init__(self, operation, enough):
        self.count = 0
        self.operation = operation
        self.enough = enough
        self.task = spawn(self.run)

    def run(self):
        deadline = clock.monotonic() + LIMIT_SECONDS
        while not self.enough():
            assert clock.monotonic() < deadline, "nobody else had a turn"
            self.operation()
            self.count += 1


def assert_gives_way(operation, calls=1, at_least=2):
    """A sibling that is always ready has its turns while *operation* is done, which makes so many *calls*."""
    counts = []

    def sibling():
        for _ in range(5):
            counts.append(greedy.count)
            sleep(0)

    greedy = Greedy(operation, lambda: len(counts) == 5)
    other = spawn(sibling)
    greedy.task.get()
    other.get()
    turns = [(after - before) * calls for before, after in pairwise([0, *counts])]
    # Not at once, and not much later: the operation that had to give way is done after it.
    assert min(turns) >= at_least
    assert max(turns) <= _BUDGET + calls


def test_recv(io, full):
    near, _ = full
    assert_gives_way(lambda: io.recv(near, 1, 0, None))


def test_recv_into(io, full):
    near, _ = full
    buffer = bytearray(1)
    assert_gives_way(lambda: io.recv_into(near, buffer, 0, 0, None))


@pytest.mark.parametrize("timeout", [None, 10.0])
def test_recv_with_flags_and_timeouts(io, full, timeout):
    near, _ = full
    assert_gives_way(lambda: io.recv(near, 1, socket.MSG_PEEK, timeout))


def test_send_and_recv_of_datagrams(io, datagrams):
    near, far = datagrams

    def there_and_back():
        io.send(near, b"x", 0, None)
        assert io.recv(far, 1, 0, None) == b"x"

    assert_gives_way(there_and_back, calls=2)


def test_sendall_while_another_thread_takes_it(io):
    near, far = socket.socketpair()
    with near, far:

        def take():
            while far.recv(65_536):
                pass

        thread = threading.Thread(target=take)
        thread.start()
        try:
            # It may find the buffer full, and wait, at any moment.
            assert_gives_way(lambda: io.sendall(near, b"x", 0, None), at_least=0)
        finally:
            near.shutdown(socket.SHUT_WR)
            thread.join()


def test_other_socket_calls(io, full):
    near, _ = full
    operation = lambda: io.call(near, READ, "recvfrom", (1, socket.MSG_DONTWAIT), None)  # noqa: E731
    assert_gives_way(operation)


def test_accept(io, listener):
    clients = []
    accepted = []
    try:
        for _ in range(6 * _BUDGET):
            clients.append(socket.create_connection(listener.getsockname()))  # noqa: PERF401 - closed if one fails

        def accept():
            fd, _ = io.accept(listener, LIMIT_SECONDS)
            accepted.append(fd)

        assert_gives_way(accept)
    finally:
        for client in clients:
            client.close()
        for fd in accepted:
            os.close(fd)


def test_timers_fire_while_io_is_always_ready(io, datagrams):
    near, far = datagrams

    def there_and_back():
        io.send(near, b"x", 0, None)
        io.recv(far, 1, 0, None)

    sleeper = spawn(sleep, 0.01)
    greedy = Greedy(there_and_back, sleeper.ready)
    greedy.task.get()
    sleeper.get()
    assert greedy.count > _BUDGET


def test_timers_of_the_task_itself_do_not_cut_its_operations_short(io, datagrams):
    """A timeout holds for each wait: a call that never waits cannot run into it."""
    near, far = datagrams
    end = clock.monotonic() + 0.02

    def there_and_back():
        io.send(near, b"x", 0, 0.001)
        io.recv(far, 1, 0, 0.001)

    greedy = Greedy(there_and_back, lambda: clock.monotonic() > end)
    greedy.task.get()


def test_other_io_is_seen_while_io_is_always_ready(io, datagrams):
    near, far = datagrams
    reading, writing = os.pipe()
    served = []

    def reader():
        io.wait(reading, READ)
        served.append(os.read(reading, 1))

    def there_and_back():
        io.send(near, b"x", 0, None)
        io.recv(far, 1, 0, None)

    task = spawn(reader)
    sleep(0)
    os.write(writing, b"y")
    Greedy(there_and_back, task.ready).task.get()
    assert served == [b"y"]
    os.close(reading)
    os.close(writing)


def test_wakes_of_other_threads_are_heard_while_io_is_always_ready(io, datagrams):
    near, far = datagrams
    heard = []
    hub = get_hub()
    thread = threading.Thread(target=lambda: hub.run_soon(heard.append, 1))
    thread.start()

    def there_and_back():
        io.send(near, b"x", 0, None)
        io.recv(far, 1, 0, None)

    Greedy(there_and_back, lambda: heard).task.get()
    thread.join()


def test_sleep_0_starves_neither_timers_nor_io(io):
    reading, writing = os.pipe()
    task = spawn(io.wait, reading, READ)
    sleeper = spawn(sleep, 0.01)
    loops = [Greedy(lambda: sleep(0), lambda: task.ready() and sleeper.ready()) for _ in range(3)]
    sleep(0)
    os.write(writing, b"x")
    for loop in loops:
        loop.task.get()
    # None of them got ahead of the others.
    assert max(loop.count for loop in loops) - min(loop.count for loop in loops) <= 1
    os.close(reading)
    os.close(writing)


def test_budget_is_each_tasks_own(io, full):
    """A wait of any kind fills it: a task that gives way by itself is not made to do so once more."""
    near, _ = full
    order = []

    def polite():
        for _ in range(3):
            for _ in range(_BUDGET):
                io.recv(near, 1, 0, None)
            order.append("polite")
            sleep(0)

    def sibling():
        for _ in range(3):
            order.append("sibling")
            sleep(0)

    tasks = [spawn(polite), spawn(sibling)]
    for task in tasks:
        task.get()
    assert order == ["polite", "sibling"] * 3


@pytest.mark.parametrize("operation", ["recv", "recv_into", "recvfrom", "peek"])
def test_kill_at_the_end_of_the_budget_loses_no_data(io, full, operation):
    """It is raised before the operation: the next reader finds the stream where the killed one left it."""
    near, far = full
    while True:  # what lies there now, so that the stream can be numbered
        try:
            if not near.recv(1_000_000, socket.MSG_DONTWAIT):
                break
        except BlockingIOError:
            break
    sent = b"".join(number.to_bytes(2, "big") for number in range(2 * _BUDGET))
    far.sendall(sent)
    got = []

    def read():
        while True:
            if operation == "recv":
                data = io.recv(near, 2, 0, None)
            elif operation == "peek":
                io.recv(near, 2, socket.MSG_PEEK, None)
                data = io.recv(near, 2, 0, None)
            elif operation == "recv_into":
                data = bytearray(2)
                io.recv_into(near, data, 0, 0, None)
            else:
                data, _ = io.call(near, READ, "recvfrom", (2, socket.MSG_DONTWAIT), None)
            got.append(bytes(data))

    reader = spawn(read)
    sleep(0)  # it reads until its budget is used up, and stands in line again
    assert 0 < len(got) <= _BUDGET
    before = len(got)
    reader.kill()
    assert len(got) == before
    rest = near.recv(len(sent))
    assert b"".join(got) + rest == sent


def test_kill_at_the_end_of_the_budget_loses_no_connection(io, listener):
    clients = [socket.create_connection(listener.getsockname()) for _ in range(_BUDGET + 5)]
    accepted = []

    def accept():
        while True:
            accepted.append(io.accept(listener, None)[0])

    server = spawn(accept)
    sleep(0)
    assert len(accepted) == _BUDGET
    server.kill()
    accepted.extend([io.accept(listener, 10)[0] for _ in range(5)])
    assert len(accepted) == len(clients)
    for client in clients:
        client.close()
    for fd in accepted:
        os.close(fd)


def test_kill_at_the_end_of_the_budget_sends_nothing_more(io, datagrams):
    near, far = datagrams
    sent = []

    def send():
        for _ in range(10 * _BUDGET):
            sent.append(len(sent))
            io.send(near, sent[-1].to_bytes(2, "big"), 0, None)
            assert int.from_bytes(io.recv(far, 2, socket.MSG_PEEK, None), "big") >= 0
            io.recv(far, 2, 0, None)

    sender = spawn(send)
    sleep(0)
    sender.kill()
    with pytest.raises(BlockingIOError):
        while True:
            far.recv(2, socket.MSG_DONTWAIT)
    assert len(sent) <= _BUDGET


def test_callbacks_that_queue_themselves_again_starve_neither_io_nor_timers(io):
    """Each look for events comes after those callbacks that were there when the turn began."""
    hub = get_hub()
    called = []

    def again():
        called.append(1)
        if not reader.ready() and len(called) < 100_000:
            hub.run_soon(again)

    near, far = socket.socketpair()
    with near, far:
        reader = spawn(io.recv, near, 10, 0, None)
        sleep(0)
        hub.run_soon(again)
        far.send(b"abc")
        assert reader.get() == b"abc"
        sleep(0.001)
    assert len(called) < 100_000
