"""TCP, IPv6 and Unix addresses, in all the forms they are given; and errors that say what to do."""

import errno
import os
import socket
import threading
from pathlib import Path

import pytest

from rimstone.server import StreamServer
from rimstone.server.address import listen, peer_name

has_ipv6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")


def test_host_and_port_as_text(running, connect, talk):
    server = running(address="127.0.0.1:0")
    assert server.address[0] == "127.0.0.1"
    assert server.address[1] > 0
    talk(connect(server))


@has_ipv6
@pytest.mark.parametrize("address", ["[::1]:0", ("::1", 0), ("::1", 0, 0, 0)])
def test_ipv6(running, connect, talk, address):
    server = running(address=address)
    assert server.address[0] == "::1"
    talk(connect(server))
    assert f"[::1]:{server.address[1]}" in repr(server)


@has_ipv6
@pytest.mark.parametrize("address", [":0", ("", 0), (None, 0), "[::]:0"])
def test_no_host_is_all_of_ipv4_and_ipv6(running, talk, address):
    server = running(address=address)
    for host in ("127.0.0.1", "::1"):
        with socket.create_connection((host, server.address[1]), timeout=30) as client:
            talk(client)


def test_a_name_means_its_ipv4_address(running, connect, talk):
    server = running(address=("localhost", 0))
    assert server.address[0] == "127.0.0.1"
    talk(connect(server))


def test_a_bound_socket_belongs_to_the_server(running, connect, talk, model):
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    server = running(address=sock, io_model=model)
    talk(connect(server))
    server.stop(0)
    assert sock.fileno() == -1


@pytest.mark.parametrize("given", [False, True])
def test_no_delay(running, connect, given):
    options = []
    server = running(
        lambda sock, peer: options.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)),
        address=socket.create_server(("127.0.0.1", 0)) if given else ("127.0.0.1", 0),
    )
    assert connect(server).recv(1) == b""
    assert options[0] != 0


# -- Unix sockets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [str, Path, "unix:{}".format, os.fsencode])
def test_unix_socket(running, connect, talk, tmp_path, form, model):
    path = tmp_path / "s"
    server = running(address=form(path), io_model=model)
    assert server.address == str(path)
    talk(connect(server))
    server.stop(0)
    assert not path.exists()


def test_abstract_unix_socket(running, connect, talk):
    server = running(address=f"\0rimstone-test-{os.getpid()}")
    client = socket.socket(socket.AF_UNIX)
    with client:
        client.connect(server.address)
        talk(client)


def test_a_stale_one_is_replaced(running, connect, talk, tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
        left.listen()
    talk(connect(running(address=path)))


def test_a_living_one_is_refused(running, connect, talk, tmp_path):
    path = str(tmp_path / "s")
    first = running(address=path)
    with pytest.raises(OSError, match="another program listens on it; stop it, or choose another path") as caught:
        StreamServer(path, print).start()
    assert caught.value.errno == errno.EADDRINUSE
    talk(connect(first))


def test_a_living_one_with_a_full_backlog_is_refused(tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as full, socket.socket(socket.AF_UNIX) as client:
        full.bind(path)
        full.listen(0)
        client.connect(path)
        with pytest.raises(OSError, match="another program listens on it"):
            listen(path, 10)


def test_a_file_is_not_overwritten(tmp_path):
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(OSError, match="which is not a socket; remove it"):
        StreamServer(path, print).start()
    assert path.read_text() == "precious"


def test_the_socket_of_a_successor_stays(running, tmp_path):
    path = tmp_path / "s"
    server = running(address=path)
    path.unlink()
    successor = running(address=path)
    server.stop(0)
    assert path.exists()
    successor.stop(0)
    assert not path.exists()


def test_a_relative_path_is_removed_after_a_change_of_folder(running, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    server = running(address="./s")
    monkeypatch.chdir("/")
    server.stop(0)
    assert not (tmp_path / "s").exists()


def test_a_path_that_is_too_long(tmp_path):
    with pytest.raises(OSError, match="at most 107 bytes"):
        listen(str(tmp_path / ("x" * 200)), 1)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        listen(str(tmp_path / "no" / "s"), 1)


# -- errors ----------------------------------------------------------------------------------------------------------


def test_an_address_in_use_is_named(running):
    server = running()
    port = server.address[1]
    with pytest.raises(
        OSError, match=rf"127\.0\.0\.1:{port}: another program.*sport = :{port}.*another port"
    ) as caught:
        StreamServer(server.address, print).start()
    assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize("options", [{"threads": 2}, {"processes": 2}, {"io_model": "blocking"}])
def test_a_server_that_cannot_start_leaves_nothing_and_may_try_again(running, options):
    first = running()
    second = StreamServer(first.address, print, **options)
    with pytest.raises(OSError, match="cannot listen"):
        second.start()
    assert second.state == "created"
    first.stop(0)
    with second:
        assert second.state == "serving"


def test_a_given_socket_stays_open_if_the_start_fails(monkeypatch, connect, talk):
    def fails(*args, **kwargs):
        raise MemoryError

    with socket.create_server(("127.0.0.1", 0)) as sock:
        server = StreamServer(sock, print)
        with monkeypatch.context() as patch:
            patch.setattr("rimstone.server.stream.service_here", fails)
            with pytest.raises(MemoryError):
                server.start()
        assert sock.fileno() >= 0
        with server:
            connect(server)
        assert sock.fileno() == -1


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1", "neither host:port nor a path"),
        ("::1:80", r"for IPv6 write \[::1\]:80"),
        ("unix:", "names no path"),
        ("127.0.0.1:70000", "port 70000"),
        (("127.0.0.1", -1), "port -1"),
        ("/tmp/a\0b", "null character inside"),
        (("a\0b", 80), "null character in its host"),
        (("a" * 70, 80), "1 to 63 characters"),
    ],
)
def test_not_an_address(address, message):
    with pytest.raises(ValueError, match=message):
        listen(address, 1)


@pytest.mark.parametrize("address", [80, ("127.0.0.1", "80"), ("127.0.0.1",), None])
def test_not_even_the_type_of_an_address(address):
    with pytest.raises(TypeError, match=r"give \(host, port\)"):
        listen(address, 1)


def test_sockets_that_cannot_listen():
    with socket.socket() as unbound, pytest.raises(ValueError, match="not bound"):
        listen(unbound, 1)
    with socket.socket(type=socket.SOCK_DGRAM) as datagrams, pytest.raises(ValueError, match="SOCK_STREAM"):
        listen(datagrams, 1)


def test_an_address_of_another_machine():
    with pytest.raises(OSError, match="does not have that address"):
        listen(("192.0.2.1", 0), 1)


def test_a_listener_closed_by_somebody_else_ends_the_server(caplog):
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    server = StreamServer(sock, print, threads=2)
    server.start()
    sock.shutdown(socket.SHUT_RDWR)
    with pytest.raises(OSError, match="Invalid argument"):
        server.serve_forever()
    assert "cannot accept any more" in caplog.text
    assert threading.current_thread() is threading.main_thread()


def test_names_of_families_that_are_only_given_as_sockets():
    assert peer_name(-1, (2, 5000)) == "family -1 (2, 5000)"
    if hasattr(socket, "AF_VSOCK"):
        assert peer_name(socket.AF_VSOCK, (2, 5000)) == "AF_VSOCK (2, 5000)"


@pytest.mark.skipif(not hasattr(socket, "AF_VSOCK"), reason="no AF_VSOCK here")
def test_a_vsock_listener(running, model):
    try:
        sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        sock.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
    except OSError as error:
        pytest.skip(f"no AF_VSOCK here: {error}")
    server = running(address=sock, io_model=model)
    assert server.address == sock.getsockname()
    assert server.name == f"AF_VSOCK {server.address}"
