"""completion_threads: a thread does what tasks wait for; what it has done is not lost, what was withdrawn not done."""

import _thread
import errno
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from rimstone import _originals, clock
from rimstone.errors import CannotWait
from rimstone.hub import close_hub, current_hub, get_hub, sleep, spawn
from rimstone.iomodel import completion_threads
from rimstone.iomodel.base import READ, WRITE
from rimstone.iomodel.completion_threads import CompletionThreadsModel
from rimstone.testing.iomodel_suite import PATIENCE_SECONDS, SOON_SECONDS, turns
from rimstone.testing.iomodel_suite import until_parked as until_asked

if CompletionThreadsModel.why_unavailable() is not None:
    pytest.skip(str(CompletionThreadsModel.why_unavailable()), allow_module_level=True)


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setenv("RIMSTONE_IO_MODEL", "completion_threads")
    assert current_hub() is None
    yield get_hub()
    close_hub()


@pytest.fixture
def pair():
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def until_parked(*tasks):
    """Let the tasks run until all of them wait, and the hub has handed over what they wait for."""
    until_asked(*tasks)
    turns()


def threads():
    return set(os.listdir("/proc/self/task"))


def is_empty(sock):
    try:
        sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return True
    return False


def until_taken(sock):
    """Block this thread, and its hub with it, until another one has emptied *sock*."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_empty(sock):
        assert time.monotonic() < deadline
        time.sleep(0.001)


# -- the thread --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_thread_begins_with_the_first_wait_serves_all_and_ends_with_the_hub(hub, pair):
    before = threads()
    hub.io.sendall(pair[1], b"abc", 0, None)
    assert hub.io.recv(pair[0], 10, 0, None) == b"abc"
    assert threads() == before
    assert hub.io.threads() == 0
    more = [socket.socketpair() for _ in range(20)]
    tasks = [spawn(hub.io.recv, sock, 10, 0, None) for sock in (pair[0], *(one for one, _ in more))]
    until_parked(*tasks)
    assert len(threads() - before) == 1
    assert hub.io.threads() == 1
    for task in tasks:
        task.kill()
    close_hub()
    for one, other in more:
        one.close()
        other.close()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while threads() != before:  # what a thread does after its last line is the system's affair
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.skipif(sys.platform != "linux", reason="signal masks are read in /proc")
def test_thread_takes_no_signals(hub, pair):
    before = threads()
    task = spawn(hub.io.recv, pair[0], 10, 0, None)
    until_parked(task)
    hub.io.poll(0)
    (thread,) = threads() - before
    with open(f"/proc/self/task/{thread}/status") as file:
        (mask,) = (int(line.split()[1], 16) for line in file if line.startswith("SigBlk"))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD):
        assert mask >> (number - 1) & 1, number
    task.kill()


def test_no_thread_to_be_had(hub, pair, monkeypatch):
    def refuse(*_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(completion_threads, "start_new_thread", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            hub.io.recv(pair[0], 10, 0, None)
    assert not hub.io.waits()
    task = spawn(hub.io.recv, pair[0], 10, 0, None)
    until_parked(task)
    pair[1].send(b"abc")
    assert task.get() == b"abc"


def test_signal_handler_that_waits_while_the_thread_is_being_started_starts_no_second_one(hub, pair, monkeypatch):
    before = threads()
    allocate_lock = _originals.allocate_lock
    completer = hub.io._completer
    strikes = []

    def struck():
        lock = allocate_lock()
        if not strikes:
            strikes.append(lock)
            completer.start()
        return lock

    monkeypatch.setattr(_originals, "allocate_lock", struck)
    reader = spawn(hub.io.recv, pair[0], 10, 0, None)
    until_parked(reader)
    assert strikes
    assert len(threads() - before) == 1
    pair[1].send(b"abc")
    assert reader.get() == b"abc"


def test_signal_handler_that_polls_while_the_thread_is_being_started_does_not_wait_for_it(hub, pair, monkeypatch):
    start_new_thread = completion_threads.start_new_thread

    def struck(*args):
        hub.io._completer.round()
        return start_new_thread(*args)

    monkeypatch.setattr(completion_threads, "start_new_thread", struck)
    reader = spawn(hub.io.recv, pair[0], 10, 0, None)
    until_parked(reader)
    pair[1].send(b"abc")
    assert reader.get() == b"abc"


def test_failure_of_poll_itself_goes_to_all_who_wait_and_the_next_wait_has_a_new_thread(hub, pair, monkeypatch):
    class Broken:
        def register(self, fd, mask):
            pass

        def poll(self, timeout=None):
            raise OSError(errno.EINVAL, "more descriptors than poll takes")

    tasks = [spawn(hub.io.recv, sock, 10, 0, None) for sock in pair]
    with monkeypatch.context() as patch:
        patch.setattr(_originals, "poll", Broken)
        for task in tasks:
            with pytest.raises(OSError, match="more descriptors than poll takes"):
                task.get()
        hub.io.forget(12345)
    task = spawn(hub.io.recv, pair[0], 10, 0, None)
    until_parked(task)
    pair[1].send(b"abc")
    assert task.get() == b"abc"


def test_idle_thread_hides_no_deadlock():
    program = """
import socket
from rimstone.errors import Deadlock
from rimstone.hub import get_hub, spawn, waiter

one, other = socket.socketpair()
task = spawn(get_hub().io.recv, one, 10, 0, None)
spawn(other.send, b"abc").join()
assert task.get() == b"abc"
assert get_hub().io.threads() == 1
try:
    waiter().park()
except Deadlock:
    print("found")
"""
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", program],
        env={**os.environ, "RIMSTONE_IO_MODEL": "completion_threads"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "found\n", done.stderr


# -- what it performs --------------------------------------------------------------------------------------------------


def test_it_is_the_thread_that_receives(hub, pair):
    task = spawn(hub.io.recv, pair[0], 10, 0, None)
    until_parked(task)
    pair[1].send(b"abc")
    until_taken(pair[0])  # while the hub stands still
    assert not task.ready()
    assert task.get() == b"abc"


def test_poll_that_does_not_wait_brings_what_is_there(hub, pair):
    task = spawn(hub.io.recv, pair[0], 10, 0, None)
    until_parked(task)
    pair[1].send(b"abc")
    hub.io.poll(0)
    assert task.state == "ready"
    assert task.get() == b"abc"


def test_error_that_has_no_number_is_raised_in_its_task(hub, pair):
    buffer = bytearray(10)
    task = spawn(hub.io.call, pair[0], READ, "recv_into", (buffer, 10, socket.MSG_DONTWAIT), None)
    until_parked(task)
    del buffer[:]
    pair[1].send(b"abc")
    with pytest.raises(ValueError, match="buffer too small"):
        task.get()
    assert hub.io.recv(pair[0], 10, 0, None) == b"abc"


def test_ready_in_vain_does_not_spin(hub, monkeypatch, tmp_path):
    """There is room in the sender, so poll says, and none at its peer."""
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver,
    ):
        address = str(tmp_path / "receiver")
        receiver.bind(address)
        args = (b"x", socket.MSG_DONTWAIT, address)
        with pytest.raises(BlockingIOError):
            while True:
                sender.sendto(*args)
        pauses = []
        monkeypatch.setattr(_originals, "sleep", lambda seconds: (pauses.append(seconds), time.sleep(seconds)))
        task = spawn(hub.io.call, sender, WRITE, "sendto", args, None)
        until_parked(task)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not pauses:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert not task.ready()
        receiver.recv(1)
        assert task.get() == 1


# -- withdrawn, or done ------------------------------------------------------------------------------------------------


def test_kill_after_it_was_done_strikes_at_the_next_wait(hub, pair):
    log = []

    def read():
        log.append(hub.io.recv(pair[0], 10, 0, None))
        sleep(0)
        log.append("went on")

    task = spawn(read)
    until_parked(task)
    pair[1].send(b"abc")
    until_taken(pair[0])
    task.kill()
    assert task.ready()
    assert log == [b"abc"]


def test_kill_before_it_was_done_leaves_the_data_though_the_task_has_not_run_yet(hub, pair):
    task = spawn(hub.io.recv, pair[0], 10, 0, None)
    until_parked(task)
    task.kill(block=False)
    pair[1].send(b"abc")
    hub.io._completer.round()  # the thread has looked
    assert not is_empty(pair[0])
    task.join()
    assert pair[0].recv(10) == b"abc"


def test_refused_wait_takes_nothing_and_the_task_in_whose_name_it_was_made_goes_on(hub, pair, monkeypatch):
    """A call that the hub makes between two tasks must not wait; here the task has just begun to."""
    submitted = []
    submit = hub.io._completer.submit
    monkeypatch.setattr(
        hub.io._completer, "submit", lambda operation: (submitted.append(operation.state), submit(operation))
    )
    refused = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept():
            try:
                hub.io.accept(listener, None)
            except CannotWait as error:
                refused.append(error)
                pair[1].send(b"abc")

        def read():
            hub.run_soon(accept)
            return hub.io.recv(pair[0], 10, 0, None)

        assert spawn(read).get() == b"abc"
        assert refused
        assert submitted == ["created"]
        with socket.create_connection(listener.getsockname()):
            os.close(hub.io.accept(listener, PATIENCE_SECONDS)[0])


def test_closed_after_a_kill_is_closed_for_the_peer(hub, pair, monkeypatch):
    """A thread that polled for the socket would keep it open."""
    task = spawn(hub.io.recv, pair[0], 10, 0, None)
    until_parked(task)
    assert pair[0].fileno() in hub.io._completer._waiting
    with monkeypatch.context() as patch:
        patch.setattr(hub.io._completer._wakeup, "set", lambda: None)  # a thread that is slow to hear of the kill
        task.kill(block=False)
    hub.io.forget(pair[0].fileno())
    assert pair[0].fileno() not in hub.io._completer._waiting
    pair[0].close()
    assert pair[1].recv(10, socket.MSG_DONTWAIT) == b""


def test_descriptor_that_is_closed_after_its_wait_is_closed_for_the_peer(hub):
    reading, writing = os.pipe()
    try:
        assert not hub.io.wait(reading, READ, clock.monotonic() + SOON_SECONDS)
        os.close(reading)
        deadline = time.monotonic() + PATIENCE_SECONDS / 4
        with pytest.raises(BrokenPipeError):
            while time.monotonic() < deadline:  # in all this time the hub does not poll
                os.write(writing, b"x")
                time.sleep(0.001)
    finally:
        os.close(writing)


def test_connection_that_was_accepted_for_a_thread_that_is_gone_is_closed(hub):
    """The thread is not one of `threading`, which would kill its tasks; they just end."""
    ended = _thread.allocate_lock()
    ended.acquire()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:

        def work():
            own = get_hub()
            task = spawn(own.io.accept, listener, None)
            until_parked(task)
            client.connect(listener.getsockname())
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not own.io._completer.completed and time.monotonic() < deadline:
                time.sleep(0.001)
            ended.release()

        _thread.start_new_thread(work, ())
        assert ended.acquire(timeout=PATIENCE_SECONDS)
        client.settimeout(PATIENCE_SECONDS)
        assert client.recv(10) == b""


def test_wait_hears_of_data_that_a_sibling_takes_in_the_same_turn(hub, pair):
    reader = spawn(hub.io.recv, pair[0], 10, 0, None)
    until_parked(reader)
    waiter = spawn(hub.io.wait, pair[0].fileno(), READ)
    until_asked(waiter)
    pair[1].send(b"abc")
    assert waiter.get()
    assert reader.get() == b"abc"
