"""Worker processes share the port, are replaced when they die, and are told what the handler is."""

import logging
import os
import signal
import socket
import textwrap
from contextlib import suppress

import pytest

from rimstone.errors import CannotTravel, WorkerStartFailed
from rimstone.server import StreamServer
from rimstone.testing.patched import run_script

pytestmark = pytest.mark.slow


def say_pid(sock, peer):
    import os

    sock.sendall(b"%d\n" % os.getpid())
    while data := sock.recv(100):
        sock.sendall(data.upper())


def pid_of(client):
    return int(client.makefile("rb").readline())


def test_the_port_is_shared(running, connect, talk, wait_until):
    server = running(say_pid, processes=2)
    pids = server.pids()
    assert len(set(pids)) == 2
    assert os.getpid() not in pids
    seen = set()

    def both_seen():
        client = connect(server)
        seen.add(pid_of(client))
        talk(client)
        return len(seen) == 2

    wait_until(both_seen)
    assert seen == set(pids)


@pytest.mark.parametrize("options", [{}, {"threads": 2}, {"io_model": "blocking"}])
def test_a_killed_worker_is_replaced_and_no_waiting_connection_is_lost(
    running, connect, talk, wait_until, caplog, options
):
    server = running(say_pid, processes=2, max_connections=4, **options)
    clients = [connect(server) for _ in range(4)]
    by_pid = {}
    for client in clients:
        by_pid.setdefault(pid_of(client), []).append(client)
    waiting = connect(server)  # in the kernel: the server is full
    victim, survivor = server.pids()
    os.kill(victim, signal.SIGKILL)
    assert pid_of(waiting) != victim
    talk(waiting)
    for client in by_pid[victim]:
        assert client.recv(1) == b""
    for client in by_pid[survivor]:
        talk(client)
    wait_until(lambda: len(server.pids()) == 2)
    assert victim not in server.pids()
    assert survivor in server.pids()
    assert f"worker process {victim} was killed by SIGKILL, and 2 connections with it" in caplog.text


def test_one_that_exits_is_reported_with_its_exit_code(running, connect, wait_until, caplog, monkeypatch):
    monkeypatch.setattr("rimstone.server.processes._SECONDS_TO_DIE", 20.0)

    def handler(sock, peer):
        import os
        import socket
        import stat
        import time

        leave = os._exit

        def leave_slowly(code):
            time.sleep(0.2)
            leave(7)

        os._exit = leave_slowly
        for number in map(int, os.listdir("/proc/self/fd")):
            try:
                if stat.S_ISSOCK(os.fstat(number).st_mode):
                    with socket.socket(fileno=os.dup(number)) as other:
                        if other.type == socket.SOCK_SEQPACKET:
                            other.shutdown(socket.SHUT_RDWR)  # its wire: the parent sees the end of that first
            except OSError:
                continue

    server = running(handler, processes=2)
    before = server.pids()
    connect(server)
    wait_until(lambda: "ended with exit code 7" in caplog.text)
    wait_until(lambda: len(server.pids()) == 2)
    assert server.pids() != before
    assert "SIGKILL" not in caplog.text


def test_one_that_serves_no_more_is_replaced(running, connect, talk, wait_until, caplog, monkeypatch):
    monkeypatch.setattr("rimstone.server.processes._SECONDS_TO_EXIT", 20.0)

    def handler(sock, peer):
        from rimstone.server.tasks import TaskService

        while data := sock.recv(100):
            if data == b"break":

                def begin(self, fd, peer):
                    raise ValueError("a defect")

                TaskService._begin = begin  # the next connection ends the service
                data = b"broken"
            sock.sendall(data.upper())

    server = running(handler, processes=2)
    before = server.pids()
    clients = []
    while server.pids() == before:
        with suppress(ConnectionError):
            client = connect(server)
            client.sendall(b"break")
            clients.append(client.recv(100))
    assert b"BROKEN" in clients
    wait_until(lambda: "serves no more" in caplog.text and "ended with exit code 0" in caplog.text)
    assert "ValueError: a defect" in caplog.text


@pytest.mark.parametrize("options", [{}, {"threads": 2}, {"io_model": "blocking"}])
def test_the_end_of_the_given_listener_is_the_end_of_the_server(connect, options, caplog):
    def handler(sock, peer):
        while data := sock.recv(100):
            sock.sendall(data.upper())

    sock = socket.create_server(("127.0.0.1", 0))
    with StreamServer(sock, handler, processes=2, **options) as server:
        sock.shutdown(socket.SHUT_RDWR)
        with pytest.raises(OSError, match="Invalid argument"):
            server.serve_forever()
        assert server.state == "closed"
    assert "is started" not in caplog.text


def test_the_count_forgets_those_of_the_dead(running, connect, talk, wait_until):
    server = running(say_pid, processes=2)
    clients = [connect(server) for _ in range(10)]
    for client in clients:
        pid_of(client)
    assert server.connections == 10
    for pid in server.pids():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: server.connections == 0)
    client = connect(server)
    pid_of(client)
    talk(client)


def test_one_that_always_dies_young_is_started_less_and_less_often(running, caplog, wait_until):
    server = running(say_pid, processes=2)

    def thrice():
        for pid in server.pids():
            with suppress(ProcessLookupError):  # its death is just being noticed
                os.kill(pid, signal.SIGKILL)
        return "in 0.4 s" in caplog.text

    wait_until(thrice)
    assert caplog.text.index("in 0.1 s") < caplog.text.index("in 0.2 s") < caplog.text.index("in 0.4 s")


def test_handlers_may_finish_then_are_killed(running, connect, talk):
    def handler(sock, peer):
        try:
            while data := sock.recv(100):
                sock.sendall(data.upper())
        finally:
            sock.sendall(b"goodbye")

    server = running(handler, processes=2)
    client = connect(server)
    talk(client)
    server.stop(0.05)
    assert client.recv(100) == b"goodbye"
    assert client.recv(100) == b""
    assert server.pids() == []


def test_handlers_may_use_anything_that_blocks(running, connect, talk):
    def handler(sock, peer):
        import socket as standard
        import threading
        import time

        assert type(sock) is standard.socket  # patched in place
        event = threading.Event()
        threading.Timer(0.01, event.set).start()
        event.wait()
        time.sleep(0.01)
        sock.sendall(sock.recv(100).upper())

    server = running(handler, processes=2)
    clients = [connect(server) for _ in range(20)]
    for client in clients:
        talk(client)


def test_errors_are_reported_on_stderr_of_the_program():
    done = run_script(
        textwrap.dedent(
            """
            import socket
            from rimstone.server import StreamServer

            def handler(sock, peer):
                raise ValueError("odd")

            with StreamServer(("127.0.0.1", 0), handler, processes=2) as server:
                with socket.create_connection(server.address) as client:
                    assert client.recv(1) == b""
                    print("%s:%d" % client.getsockname())
            """
        )
    )
    assert done.returncode == 0, done.stderr
    assert f"the connection of {done.stdout.strip()} is closed: handler() failed" in done.stderr
    assert "ValueError: odd" in done.stderr


def test_a_handler_of_main_sees_its_globals():
    done = run_script(
        textwrap.dedent(
            """
            import socket
            from rimstone.server import StreamServer
            GREETING = b"welcome"

            def greeting():
                return GREETING

            def handler(sock, peer):
                sock.sendall(greeting())

            with StreamServer(("127.0.0.1", 0), handler, processes=2) as server:
                with socket.create_connection(server.address) as client:
                    print(client.recv(100))
            """
        )
    )
    assert done.stdout == "b'welcome'\n", done.stderr


def test_a_handler_that_cannot_travel():
    with socket.socket() as held:
        server = StreamServer(("127.0.0.1", 0), lambda sock, peer: held.send(b""), processes=2)
        with pytest.raises(CannotTravel, match="held") as caught:
            server.start()
    assert server.state == "created"
    assert "Worker" not in str(caught.value)
    assert "Pool(" not in str(caught.value)


def test_a_handler_that_mentions_its_own_server_cannot_travel():
    def handler(sock, peer):
        server.stop()

    server = StreamServer(("127.0.0.1", 0), handler, processes=2)
    with pytest.raises(
        CannotTravel, match=r"handler\(\) cannot be sent to worker processes: it mentions a StreamServer"
    ):
        server.start()


def test_workers_that_cannot_come_up(monkeypatch, caplog):
    caplog.set_level(logging.CRITICAL)
    monkeypatch.setattr("rimstone.workers.process._BOOT", "import sys; sys.exit(7)")
    server = StreamServer(("127.0.0.1", 0), print, processes=2)
    with pytest.raises(WorkerStartFailed, match=r"exit code 7.*tried 3 times"):
        server.start()
    assert server.pids() == []


def test_a_handler_that_cannot_be_loaded_there(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "only_here.py").write_text(
        "import os\nif os.environ.get('RIMSTONE_TEST_WORKER'): raise RuntimeError('not in a worker')\n"
        "def handler(sock, peer): pass\n"
    )
    from only_here import handler

    monkeypatch.setenv("RIMSTONE_TEST_WORKER", "1")
    server = StreamServer(("127.0.0.1", 0), handler, processes=2)
    with pytest.raises(Exception, match="not in a worker"):
        server.start()


def test_a_stop_before_the_workers_are_up_ends_the_start():
    import threading

    server = StreamServer(("127.0.0.1", 0), print, processes=2)
    starting = threading.Thread(target=server.serve_forever)
    starting.start()
    while not server.pids():
        pass
    server.stop(0)
    starting.join(30)
    assert not starting.is_alive()
    assert server.state == "closed"


def test_a_program_that_ends_without_a_stop_leaves_nothing():
    done = run_script(
        textwrap.dedent(
            """
            from rimstone.server import StreamServer
            server = StreamServer(("127.0.0.1", 0), print, processes=2)
            server.start()
            print(*server.pids())
            """
        )
    )
    assert done.returncode == 0, done.stderr
    for pid in done.stdout.split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


@pytest.mark.parametrize("options", [{}, {"io_model": "blocking"}])
def test_the_count_is_not_a_forked_childs_to_write(running, connect, options):
    def handler(sock, peer):
        import os

        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            sock.sendall(b"%d" % status)
            sock.recv(1)

    server = running(handler, processes=2, **options)
    client = connect(server)
    assert client.recv(100) == b"0"
    assert server.connections == 1
