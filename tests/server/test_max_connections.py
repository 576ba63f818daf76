"""At most so many connections are accepted; the kernel keeps the others until there is room."""

import logging
import os
import subprocess
import sys
import threading

import pytest

import rimstone
from rimstone.server import StreamServer
from rimstone.server.service import default_limit, shares


@pytest.mark.parametrize("options", [{}, {"threads": 2}])
def test_the_rest_waits_in_the_backlog(running, connect, talk, model, options):
    if options and model == "blocking":
        pytest.skip("one thread accepts")
    server = running(io_model=model, max_connections=2, **options)
    first, second, third = connect(server), connect(server), connect(server)
    served = []
    for client in (first, second, third):
        client.sendall(b"hello")
    for client in (first, second):
        assert client.recv(100) == b"HELLO"
        served.append(client)
    third.settimeout(0.05)
    with pytest.raises(TimeoutError):
        third.recv(100)
    assert server.connections == 2
    first.close()
    third.settimeout(30)
    # With several threads it is the one that has room which takes it.
    assert third.recv(100) == b"HELLO"
    talk(second)


def test_being_full_is_said_once(running, connect, talk, model, caplog):
    server = running(io_model=model, max_connections=1)
    for _ in range(3):
        with connect(server) as client:
            talk(client)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert server.name in said[0]
    assert "1 connections are open, as many as one hub may have here" in said[0]


def test_it_goes_on_when_all_handlers_end_while_a_log_handler_waits(running, connect, talk):
    class Slow(logging.Handler):
        def emit(self, record):
            while server.connections:
                rimstone.sleep(0.01)

    log, slow = logging.getLogger("rimstone.server"), Slow()
    log.addHandler(slow)
    try:
        server = running(max_connections=1)
        for _ in range(3):
            with connect(server) as client:
                talk(client)
    finally:
        log.removeHandler(slow)


@pytest.mark.parametrize("options", [{}, {"io_model": "blocking"}])
def test_it_goes_on_though_a_log_handler_fails(running, connect, talk, options, capsys):
    class Failing(logging.Handler):
        def emit(self, record):
            raise RuntimeError("the log server is down")

    log, failing = logging.getLogger("rimstone.server"), Failing()
    log.addHandler(failing)
    try:
        server = running(max_connections=1, **options)
        for _ in range(3):
            with connect(server) as client:
                talk(client)
        assert server.state == "serving"
    finally:
        log.removeHandler(failing)
    assert "RuntimeError: the log server is down" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_ends_the_accepting_thread_is_raised_by_serve_forever(monkeypatch, connect):
    def broken(service, fd, peer):
        import os

        os.close(fd)
        raise ValueError("a defect")

    monkeypatch.setattr("rimstone.server.blocking.BlockingService._begin", broken)
    with StreamServer(("127.0.0.1", 0), print, io_model="blocking") as server:
        connect(server)
        with pytest.raises(ValueError, match="a defect"):
            server.serve_forever()


def test_the_count_goes_back_to_zero(running, connect, talk, wait_until, model):
    server = running(io_model=model)
    clients = [connect(server) for _ in range(5)]
    for client in clients:
        talk(client)
    assert server.connections == 5
    for client in clients:
        client.close()
    wait_until(lambda: server.connections == 0)


def test_shares_add_up():
    assert shares(7, 3) == [3, 2, 2]
    assert shares(3, 3) == [1, 1, 1]


def test_the_default_leaves_descriptors_to_the_handlers(monkeypatch):
    from rimstone import machine

    soft = machine.Reading(1024, "")
    monkeypatch.setattr(machine, "descriptors", lambda: (soft, soft))
    monkeypatch.setattr(machine, "open_descriptors", lambda: machine.Reading(60, ""))
    monkeypatch.setattr(machine, "processes", lambda: machine.Reading(132, ""))
    assert default_limit() == 450
    assert default_limit(threads=True) == 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_connections": 3, "processes": 2, "threads": 2}, "less than one for each of 2 processes x 2 threads"),
        ({"max_connections": 0}, "max_connections=0 must be 1 or more"),
        ({"processes": 0}, "processes=0 must be 1 or more"),
        ({"backlog": 1 << 40}, "backlog=1099511627776 must be 2147483647 or less"),
        ({"io_model": "blocking", "threads": 2}, "max_connections bounds them"),
        ({"io_model": "epol"}, "'epol' is not an IO model; use one of .*'blocking'"),
    ],
)
def test_refused(options, message):
    with pytest.raises(ValueError, match=message):
        StreamServer(("127.0.0.1", 0), print, **options)


@pytest.mark.parametrize("options", [{"processes": 2}, {"threads": 2}])
def test_a_wrong_model_in_the_environment_is_told_at_once(monkeypatch, options):
    monkeypatch.setenv("RIMSTONE_IO_MODEL", "epol")
    with pytest.raises(ValueError, match="RIMSTONE_IO_MODEL='epol' is not an IO model"):
        StreamServer(("127.0.0.1", 0), print, **options)


@pytest.mark.parametrize("options", [{"processes": 2}, {}])
@pytest.mark.parametrize("name", ["RIMSTONE_STALL_MS", "RIMSTONE_BACKOFF_MS"])
def test_a_wrong_time_in_the_environment_is_told_at_once(name, options):
    program = (
        "from rimstone.server import StreamServer\n"
        f"StreamServer(('127.0.0.1', 0), print, io_model='nonblocking', **{options!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, env={**os.environ, name: "soon"}
    )
    assert f"ValueError: {name}='soon'" in done.stderr


@pytest.mark.parametrize("handler", [None, lambda: None, lambda sock: None])
def test_not_a_handler(handler):
    with pytest.raises(TypeError, match="socket, address of the peer"):
        StreamServer(("127.0.0.1", 0), handler)


def test_an_async_handler_is_refused():
    async def handler(sock, peer): ...

    with pytest.raises(TypeError, match="async"):
        StreamServer(("127.0.0.1", 0), handler)
    assert threading.active_count() >= 1
