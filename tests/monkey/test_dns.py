"""Names are looked up on real threads; numeric addresses need none; equal questions are asked once.

No network: the C functions are replaced by slow ones that know two names.
"""

from rimstone.testing.patched import in_patched_process

FAKE = """
import socket, threading, time
import rimstone.monkey._dns as dns
native_sleep = time.sleep
asked = []

def fake_getaddrinfo(host, port, family=0, type=0, proto=0, flags=0):
    asked.append((host, threading.get_ident()))
    native_sleep(0.02)
    if host == "example.test":
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", int(port or 0)))]
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

real = dict(dns._native)

def getaddrinfo(host, *rest):
    return (real["getaddrinfo"] if dns.is_numeric(host) else fake_getaddrinfo)(host, *rest)

dns._native["getaddrinfo"] = getaddrinfo
for name in ("gethostbyname", "gethostbyaddr", "getnameinfo", "gethostbyname_ex"):
    def fake(*args, name=name):
        asked.append((name, threading.get_ident()))
        native_sleep(0.02)
        return name
    dns._native[name] = fake
"""


@in_patched_process(before=FAKE)
def test_look_ups_run_on_threads_while_siblings_go_on():
    import socket
    import threading

    from rimstone import joinall, sleep, spawn

    ticks = []

    def tick():
        while True:
            ticks.append(1)
            sleep(0.001)

    ticker = spawn(tick)
    task = spawn(socket.getaddrinfo, "example.test", 80)
    found = task.get()
    assert found == [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))]
    assert found[0][0] is socket.AddressFamily.AF_INET
    assert found[0][1] is socket.SocketKind.SOCK_STREAM
    assert len(ticks) > 3
    assert asked[0][0] == "example.test"  # noqa: F821
    assert asked[0][1] != threading.get_ident()  # noqa: F821
    others = [
        spawn(socket.gethostbyname, "example.test"),
        spawn(socket.gethostbyname_ex, "example.test"),
        spawn(socket.gethostbyaddr, "127.0.0.1"),
        spawn(socket.getnameinfo, ("127.0.0.1", 80), 0),
    ]
    joinall(others, raise_error=True)
    assert [task.value for task in others] == ["gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getnameinfo"]
    assert all(thread != threading.get_ident() for _, thread in asked)  # noqa: F821
    ticker.kill()


@in_patched_process(before=FAKE)
def test_equal_questions_are_asked_once():
    import socket

    from rimstone import joinall, sleep, spawn

    tasks = [spawn(socket.getaddrinfo, "example.test", 80) for _ in range(20)]
    impatient = spawn(socket.getaddrinfo, "example.test", 80)
    other = spawn(socket.getaddrinfo, "example.test", 81)
    sleep(0.005)
    impatient.kill()  # takes the answer from nobody
    joinall([*tasks, other], raise_error=True)
    assert len({id(task.value) for task in tasks}) == 20  # each may do with its list what it likes
    assert len(asked) == 2, asked  # noqa: F821
    spawn(socket.getaddrinfo, "example.test", 80).get()
    assert len(asked) == 3, "an answer is not remembered"  # noqa: F821


@in_patched_process(before=FAKE)
def test_unknown_names():
    import contextlib
    import io
    import socket

    from rimstone import sleep, spawn

    def ask():
        try:
            socket.create_connection(("nowhere.test", 80))
        except socket.gaierror as error:
            return error

    tasks = [spawn(ask) for _ in range(3)]
    errors = [task.get() for task in tasks]
    assert len({id(error) for error in errors}) == 3
    assert all(error.errno == socket.EAI_NONAME for error in errors)
    assert len(asked) == 1  # noqa: F821
    # Nobody is left to hear the answer: no traceback of ours is printed.
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        lost = spawn(ask)
        sleep(0.005)
        lost.kill()
        sleep(0.05)
    assert said.getvalue() == ""


@in_patched_process(before=FAKE)
def test_numeric_addresses_take_no_thread():
    import socket

    from rimstone import spawn
    from rimstone.hub import offload

    spawn(int).join()
    offload._lookups.submit = None  # whoever takes a thread fails
    assert socket.getaddrinfo("127.0.0.1", 80)[0][4] == ("127.0.0.1", 80)
    assert socket.getaddrinfo(b"127.0.0.1", 80)
    assert socket.getaddrinfo("::1", 80, type=socket.SOCK_STREAM)[0][4][0] == "::1"
    assert socket.getaddrinfo(None, 80)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        pass
    for wrong in ((), (1, 2, 3, 4, 5, 6, 7), ("127.0.0.1", [])):
        try:
            socket.getaddrinfo(*wrong)
        except (TypeError, OSError):
            pass
        else:
            raise AssertionError(wrong)


@in_patched_process(before=FAKE)
def test_names_in_addresses_are_resolved_before_c_sees_them():
    import socket
    import threading

    from rimstone import spawn

    spawn(int).join()
    with socket.socket() as listener:
        listener.bind(("example.test", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with socket.socket() as client:
            client.connect(("example.test", port))
        with socket.socket() as client:
            assert client.connect_ex(("example.test", port)) == 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
        one.sendto(b"abc", ("example.test", port))
        one.sendmsg([b"def"], [], 0, ("example.test", port))
        assert one.recv(10) + one.recv(10) == b"abcdef"
    assert len(asked) == 5  # noqa: F821
    assert all(thread != threading.get_ident() for _, thread in asked)  # noqa: F821


@in_patched_process(before=FAKE)
def test_plain_threads_ask_for_themselves():
    import socket
    import threading

    def ask():
        socket.getaddrinfo("example.test", 80)
        mine.append(threading.get_ident())

    mine = []
    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert asked == [("example.test", mine[0])]  # noqa: F821
