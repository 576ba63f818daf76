"""A socket that a task waits on may be closed, or its number shared, by others: nobody reads what is not his."""

from rimstone.testing.patched import in_patched_process


@in_patched_process()
def test_closed_by_a_plain_thread_and_its_number_handed_out_again():
    import _socket
    import errno
    import os
    import socket
    import threading

    from rimstone import sleep, spawn

    one, other = socket.socketpair()
    copy = os.dup(one.fileno())
    task = spawn(one.recv, 100)
    while task.state != "parked":
        sleep(0)
    fd = one.fileno()
    thread = threading.Thread(target=one.close)
    thread.start()
    thread.join()
    fresh = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    assert fresh.fileno() == fd, "the number was not handed out again: the test shows nothing"
    fresh.bind(("127.0.0.1", 0))
    # Natively, so that the hub does not get to know the new socket.
    _socket.socket.sendto(fresh, b"not for the old one", fresh.getsockname())
    other.send(b"an edge on the copy")
    try:
        data = task.get()
    except OSError as error:
        number = error.errno
    else:
        raise AssertionError(f"it read {data!r}")
    assert number == errno.EBADF
    assert fresh.recv(100) == b"not for the old one"
    for sock in (fresh, other):
        sock.close()
    os.close(copy)


@in_patched_process()
def test_second_object_on_the_number_is_detached():
    import socket

    from rimstone import sleep, spawn

    one, other = socket.socketpair()
    with one, other:
        task = spawn(one.recv, 100)
        while task.state != "parked":
            sleep(0)
        second = socket.socket(fileno=one.fileno())
        second.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        second.detach()
        sleep(0)
        other.send(b"abc")
        assert task.get() == b"abc"
