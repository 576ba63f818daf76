"""A wait that is refused, in a signal handler or finalizer, must not touch the wait of the task that it has struck."""

import pytest

from rimstone.testing.patched import in_patched_process


@in_patched_process()
@pytest.mark.parametrize("wait", ["sleep", "lock", "recv"])
def test_a_task_that_was_struck_while_it_received_is_woken(wait):
    import signal
    import socket
    import threading
    import time

    from rimstone import spawn
    from rimstone.errors import CannotWait

    held = threading.Lock()
    held.acquire()
    a, b = socket.socketpair()
    other, _keep = socket.socketpair()
    refused = []

    def handle(*_):
        try:
            {"sleep": lambda: time.sleep(0.01), "lock": held.acquire, "recv": lambda: other.recv(1)}[wait]()
        except CannotWait as error:
            refused.append(error)
        b.send(b"abc")

    signal.signal(signal.SIGALRM, handle)

    def work():
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        return a.recv(10)

    task = spawn(work)
    assert task.get(timeout=20) == b"abc"
    assert len(refused) == 1


@in_patched_process()
def test_a_task_that_was_struck_while_it_received_can_be_killed_and_times_out():
    import signal
    import socket
    import time

    from rimstone import spawn
    from rimstone.errors import CannotWait

    a, _b = socket.socketpair()
    refused = []

    def handle(*_):
        try:
            time.sleep(0.01)
        except CannotWait as error:
            refused.append(error)

    signal.signal(signal.SIGALRM, handle)

    def work(timeout):
        a.settimeout(timeout)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        return a.recv(10)

    late = spawn(work, 0.3)
    late.join(20)
    assert isinstance(late.exception, TimeoutError), late
    killed = spawn(work, None)
    killed.join(0.3)
    killed.kill()
    assert killed.ready()
    assert len(refused) == 2


@in_patched_process()
def test_a_socket_that_a_handler_closes_ends_the_wait_for_it():
    import signal
    import socket

    from rimstone import spawn

    listener = socket.create_server(("127.0.0.1", 0))
    signal.signal(signal.SIGALRM, lambda *_: listener.close())

    def work():
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        listener.accept()

    task = spawn(work)
    task.join(20)
    assert isinstance(task.exception, OSError), task
