"""Out of descriptors, a server stops accepting, says so once, and goes on when there are some again."""

import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest

pytestmark = pytest.mark.slow

SERVER = """
import resource, sys
from rimstone.server import StreamServer

resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))

def handler(sock, peer):
    try:
        sock.sendall(b"hello")
        sock.recv(1)
    except ConnectionError:
        pass

server = StreamServer(("127.0.0.1", 0), handler, max_connections=1000, **eval(sys.argv[1]))
server.start()
print(server.address[1], flush=True)
server.serve_forever()
"""


@pytest.mark.parametrize("options", [{}, {"threads": 2}, {"io_model": "select"}, {"io_model": "blocking"}])
def test_goes_on_when_some_are_given_back(options):
    command = [sys.executable, "-c", SERVER, repr(options)]
    with ExitStack() as stack:
        server = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        stack.callback(server.kill)
        port = int(server.stdout.readline())
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 30)) for _ in range(60)]
        assert clients[0].recv(10) == b"hello"
        clients[-1].settimeout(0.3)
        with pytest.raises(TimeoutError):
            clients[-1].recv(10)
        clients[-1].settimeout(30)
        for client in clients[:-1]:  # each gets its turn when one before it leaves
            client.close()
        assert clients[-1].recv(10) == b"hello"
        server.kill()
        errors = server.stderr.read().decode()
    assert errors.count("this process has no descriptor left") == 1
    assert "Traceback" not in errors


def test_a_second_warning_waits_a_minute(caplog, monkeypatch):
    import errno

    from rimstone.server.service import Backoff, Warnings

    now = [1000.0]
    monkeypatch.setattr("rimstone.clock.monotonic", lambda: now[0])
    warnings = Warnings("a server")
    backoff = Backoff(warnings)
    shortage = OSError(errno.EMFILE, "")
    pauses = [backoff.after(shortage) for _ in range(10)]
    assert pauses == sorted(pauses)
    assert pauses[0] < 0.1
    assert pauses[-1] == pytest.approx(1.0)
    backoff.over()
    assert backoff.after(shortage) == pauses[0]
    assert len(caplog.records) == 1
    now[0] += 61
    backoff.after(shortage)
    assert len(caplog.records) == 2
    warnings.say_full(5)  # another reason, another minute
    warnings.say_full(5)
    assert len(caplog.records) == 3


def test_one_clients_trouble_delays_nobody(caplog):
    import errno

    from rimstone.server.service import Backoff, Warnings

    assert Backoff(Warnings("a server")).after(OSError(errno.ECONNABORTED, "")) == 0
    assert not caplog.records
