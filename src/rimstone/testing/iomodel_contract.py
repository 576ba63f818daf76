"""The contract of every IO model: subclass `IOModelContract` in a test module, name the model, and pytest runs it.

Here is what each operation does; `iomodel_cancel.py` has what must not be lost when a wait ends early, and
`iomodel_scale.py` how many, how high, and of which kinds descriptors may be.

Nothing is patched here: the tests call the model's operations on ordinary sockets, from tasks of one thread. The peer
that ends a wait is always a sibling task, so an operation that waited natively would hang, and the test's time limit
would say so.
"""

import ctypes
import errno
import gc
import os
import signal
import socket
import struct
import sys
import tempfile
import threading
from array import array
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import pytest

from rimstone import clock
from rimstone._core import core
from rimstone.hub import Hub, close_hub, joinall, live_tasks, sleep, spawn
from rimstone.iomodel.base import READ, UNPARKED, WRITE
from rimstone.testing.iomodel_cancel import CancelContract
from rimstone.testing.iomodel_scale import ScaleContract
from rimstone.testing.iomodel_suite import (
    PATIENCE_SECONDS,
    SOON_SECONDS,
    Pair,
    fill,
    no_free_descriptors,
    tcp_pair,
    turns,
    until_parked,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["IOModelContract", "tcp_pair"]


@pytest.mark.timeout(PATIENCE_SECONDS)
class IOModelContract(CancelContract, ScaleContract):
    """Derive from it, and set `model`."""

    # -- recv and its kin --------------------------------------------------------------------------------------

    def test_recv_waits_for_data(self, hub: Hub, pair: Pair) -> None:
        task = spawn(hub.io.recv, pair[0], 10, 0, None)
        until_parked(task)
        pair[1].send(b"abc")
        assert task.get() == b"abc"

    def test_recv_returns_at_once_what_is_there(self, hub: Hub, pair: Pair) -> None:
        pair[1].send(b"abc")
        assert hub.io.recv(pair[0], 2, 0, None) == b"ab"
        assert hub.io.recv(pair[0], 2, 0, None) == b"c"

    def test_recv_at_the_end_of_the_stream(self, hub: Hub, pair: Pair) -> None:
        task = spawn(hub.io.recv, pair[0], 10, 0, None)
        until_parked(task)
        pair[1].close()
        assert task.get() == b""
        assert hub.io.recv(pair[0], 10, 0, None) == b""

    def test_data_and_fin_in_one_event(self, hub: Hub, tcp: Pair) -> None:
        task = spawn(self.read_all, hub, tcp[0], 1)
        until_parked(task)
        tcp[1].send(b"abc")
        tcp[1].close()
        assert task.get() == b"abc"

    def test_two_datagrams_in_one_event(self, hub: Hub, udp: Pair) -> None:
        def two() -> list[bytes]:
            return [hub.io.recv(udp[0], 100, 0, None) for _ in range(2)]

        task = spawn(two)
        until_parked(task)
        udp[1].send(b"one")
        udp[1].send(b"two")
        assert task.get() == [b"one", b"two"]

    def test_datagram_of_no_bytes_is_no_end(self, hub: Hub, udp: Pair) -> None:
        task = spawn(lambda: [hub.io.recv(udp[0], 100, 0, None) for _ in range(3)])
        until_parked(task)
        udp[1].send(b"")
        turns()
        udp[1].send(b"x")
        udp[1].send(b"")
        assert task.get() == [b"", b"x", b""]

    def test_peek_leaves_the_data_there(self, hub: Hub, pair: Pair) -> None:
        task = spawn(lambda: [hub.io.recv(pair[0], 10, flags, None) for flags in (socket.MSG_PEEK, 0)])
        until_parked(task)
        pair[1].send(b"abc")
        assert task.get() == [b"abc", b"abc"]

    def test_peek_more_than_is_there_twice(self, hub: Hub, pair: Pair) -> None:
        pair[1].send(b"a")
        assert hub.io.recv(pair[0], 10, socket.MSG_PEEK, None) == b"a"
        assert hub.io.recv(pair[0], 10, socket.MSG_PEEK, None) == b"a"

    def test_waitall_gathers_everything(self, hub: Hub, pair: Pair) -> None:
        task = spawn(hub.io.recv, pair[0], 6, socket.MSG_WAITALL, None)
        until_parked(task)
        pair[1].send(b"abc")
        turns()
        assert not task.ready()
        pair[1].send(b"defghi")
        assert task.get() == b"abcdef"

    def test_waitall_ends_with_the_stream(self, hub: Hub, pair: Pair) -> None:
        buffer = bytearray(6)
        task = spawn(hub.io.recv_into, pair[0], buffer, 0, socket.MSG_WAITALL, None)
        until_parked(task)
        pair[1].send(b"abc")
        pair[1].close()
        assert task.get() == 3
        assert buffer == b"abc\0\0\0"

    def test_waitall_gathers_nothing_with_a_timeout_in_a_peek_or_of_datagrams(
        self, hub: Hub, pair: Pair, udp: Pair
    ) -> None:
        pair[1].send(b"abc")
        assert hub.io.recv(pair[0], 6, socket.MSG_WAITALL | socket.MSG_PEEK, None) == b"abc"
        assert hub.io.recv(pair[0], 6, socket.MSG_WAITALL, PATIENCE_SECONDS) == b"abc"
        with pytest.raises(BlockingIOError):
            hub.io.recv(pair[0], 6, socket.MSG_WAITALL | socket.MSG_DONTWAIT, None)
        udp[1].send(b"abc")
        buffer = bytearray(6)
        assert hub.io.recv_into(udp[0], buffer, 0, socket.MSG_WAITALL, None) == 3

    def test_waitall_returns_what_came_before_an_error(self, hub: Hub, tcp: Pair) -> None:
        task = spawn(hub.io.recv, tcp[0], 6, socket.MSG_WAITALL, None)
        until_parked(task)
        tcp[1].send(b"abc")
        turns()
        assert not task.ready()
        tcp[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        tcp[1].close()  # sends a reset
        assert task.get() == b"abc"

    def test_recv_into(self, hub: Hub, pair: Pair) -> None:
        buffer = bytearray(5)
        task = spawn(hub.io.recv_into, pair[0], buffer, 0, 0, None)
        until_parked(task)
        pair[1].send(b"abcdefgh")
        assert task.get() == 5
        assert buffer == b"abcde"
        assert hub.io.recv_into(pair[0], memoryview(buffer)[1:], 2, 0, None) == 2
        assert buffer == b"afgde"

    @pytest.mark.parametrize("how", ["data", "kill", "timeout"])
    def test_buffer_that_is_received_into_keeps_its_size_as_long_as_its_task_waits(
        self, hub: Hub, pair: Pair, how: str
    ) -> None:
        buffer = bytearray(5)
        timeout = 2 * SOON_SECONDS if how == "timeout" else None
        task = spawn(hub.io.recv_into, pair[0], buffer, 0, 0, timeout)
        until_parked(task)
        with pytest.raises(BufferError):
            buffer.clear()
        if how == "kill":
            task.kill()
        elif how == "data":
            pair[1].send(b"abc")
            assert task.get() == 3
            assert buffer == b"abc\0\0"
        else:
            with pytest.raises(TimeoutError):
                task.get()
        buffer.clear()

    def test_what_is_there_is_received_where_no_wait_is_allowed(self, hub: Hub, tcp: Pair) -> None:
        """Also if the last receive has found the end of the data."""
        received: list[bytes] = []

        def receive() -> bool:
            for count in (0, 5):
                buffer = bytearray(10)
                received.append(bytes(buffer[: hub.io.recv_into(tcp[0], buffer, count, 0, None)]))
            return False

        for data in (b"abc", b"defghijk"):
            tcp[1].send(data)
            if data == b"abc":
                assert hub.io.recv_into(tcp[0], bytearray(10), 0, 0, PATIENCE_SECONDS) == 3
        tcp[1].send(b"lmnopqr")
        assert hub.io.wait(tcp[0].fileno(), READ, clock.monotonic() + PATIENCE_SECONDS)
        hub.on_idle = self.once(receive)
        sleep(SOON_SECONDS)
        hub.on_idle = None
        assert received == [b"defghijklm", b"nopqr"]

    def test_recv_reset_by_peer(self, hub: Hub, tcp: Pair) -> None:
        task = spawn(hub.io.recv, tcp[0], 10, 0, None)
        until_parked(task)
        tcp[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        tcp[1].close()
        with pytest.raises(ConnectionResetError):
            task.get()

    def test_call_runs_any_method(self, hub: Hub, udp: Pair) -> None:
        task = spawn(hub.io.call, udp[0], READ, "recvfrom", (100, socket.MSG_DONTWAIT), None)
        until_parked(task)
        udp[1].send(b"abc")
        assert task.get() == (b"abc", udp[1].getsockname())

    def test_urgent_data_makes_nothing_readable_and_does_not_spin(self, hub: Hub, tcp: Pair) -> None:
        reader = spawn(hub.io.recv, tcp[0], 10, 0, None)
        until_parked(reader)
        tcp[1].send(b"!", socket.MSG_OOB)
        sleep(SOON_SECONDS)
        polls = hub.polls
        sleep(5 * SOON_SECONDS)
        assert hub.polls - polls < 10  # the hub sleeps in between
        assert not reader.ready()
        if not self.acts_while_waiting:
            assert tcp[0].recv(1, socket.MSG_OOB) == b"!"
        tcp[1].send(b"abc")
        assert reader.get() == b"abc"

    def test_waiting_for_a_descriptor_with_urgent_data_does_not_spin(self, hub: Hub, tcp: Pair) -> None:
        tcp[1].send(b"!", socket.MSG_OOB)
        assert not hub.io.wait(tcp[0].fileno(), READ, clock.monotonic() + SOON_SECONDS)

    # -- send and its kin --------------------------------------------------------------------------------------

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux has error queues")
    @pytest.mark.parametrize("operation", ["recv", "recv_into", "recvfrom", "wait_socket"])
    def test_error_queue_that_nobody_reads_does_not_spin(self, hub: Hub, operation: str) -> None:
        """A blocking receive raises the error once, and then waits for data, whatever poll(2) says."""

        def try_and_wait(sock: socket.socket) -> bytes:  # as TLS does
            while True:
                try:
                    return sock.recv(10, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    hub.io.wait_socket(sock, READ)

        operations: dict[str, Callable[[socket.socket], object]] = {
            "wait_socket": try_and_wait,
            "recv": lambda sock: hub.io.recv(sock, 10, 0, None),
            "recv_into": lambda sock: hub.io.recv_into(sock, bytearray(10), 0, 0, None),
            "recvfrom": lambda sock: hub.io.call(sock, READ, "recvfrom", (10, socket.MSG_DONTWAIT), None),
        }
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
                gone.bind(("127.0.0.1", 0))
                address = gone.getsockname()
            sock.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_RECVERR", 11), 1)
            sock.connect(address)
            sock.send(b"x")
            with pytest.raises(ConnectionRefusedError):
                operations[operation](sock)
            task = spawn(operations[operation], sock)
            until_parked(task)
            polls = hub.polls
            sleep(5 * SOON_SECONDS)
            assert hub.polls - polls < 100
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
                peer.bind(address)
                peer.sendto(b"abc", sock.getsockname())
                assert task.get()

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux has error queues")
    def test_error_queue_of_a_stream_that_nobody_reads_does_not_spin(self, hub: Hub, tcp: Pair) -> None:
        """It tells there when data that were sent without a copy are on their way."""
        tcp[0].setsockopt(socket.SOL_SOCKET, 60, 1)  # SO_ZEROCOPY
        tcp[0].send(b"x" * 100, 0x400_0000)  # MSG_ZEROCOPY
        assert tcp[1].recv(100) == b"x" * 100
        task = spawn(hub.io.recv, tcp[0], 6, socket.MSG_WAITALL, None)
        until_parked(task)
        polls = hub.polls
        sleep(5 * SOON_SECONDS)
        assert hub.polls - polls < 100
        full = fill(tcp[0])
        sender = spawn(hub.io.send, tcp[0], b"x" * 1000, 0, None)
        until_parked(sender)
        polls = hub.polls
        sleep(5 * SOON_SECONDS)
        assert hub.polls - polls < 200
        tcp[1].send(b"abcdef")
        assert task.get() == b"abcdef"
        assert self.take(tcp[1], full) == full
        sender.get()

    @pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
    def test_socket_that_is_dropped_after_a_wait_is_closed(self, hub: Hub) -> None:
        """Nothing of ours may keep it, be it the wait's last object."""

        def body() -> bytes:
            dropped, peer = socket.socketpair()
            with peer:
                sender = spawn(peer.send, b"x")
                assert hub.io.recv(dropped, 1, 0, PATIENCE_SECONDS) == b"x"
                del dropped
                sender.get()
                return hub.io.recv(peer, 1, 0, PATIENCE_SECONDS)

        assert spawn(body).get() == b""

    def test_buffer_that_cannot_be_written_is_refused(self, hub: Hub, pair: Pair) -> None:
        reader = spawn(hub.io.recv, pair[0], 10, 0, None)
        until_parked(reader)
        pair[1].send(b"x")
        assert reader.get() == b"x"
        for buffer in (b"abc", memoryview(b"abc")):
            with pytest.raises(TypeError, match="read-write bytes-like object"):
                hub.io.recv_into(pair[0], buffer, 0, 0, None)
        pair[1].send(b"abc")
        assert hub.io.recv(pair[0], 10, 0, None) == b"abc"

    def test_blocking_send_counts_bytes_whatever_the_items_are(self, hub: Hub, pair: Pair) -> None:
        assert hub.io.send(pair[0], ctypes.c_int(5), 0, None) == ctypes.sizeof(ctypes.c_int)
        items = array("i", range(500_000))
        sender = spawn(hub.io.send, pair[0], items, 0, None)
        size = items.itemsize * len(items)
        left = ctypes.sizeof(ctypes.c_int) + size
        while left:
            left -= len(hub.io.recv(pair[1], left, 0, PATIENCE_SECONDS))
        assert sender.get() == size

    def test_send_waits_for_room(self, hub: Hub, pair: Pair) -> None:
        full = fill(pair[0])
        task = spawn(hub.io.send, pair[0], b"abc", 0, None)
        until_parked(task)
        assert self.take(pair[1], full) == full
        assert task.get() == 3

    def test_sendall_of_more_than_fits(self, hub: Hub, pair: Pair) -> None:
        data = os.urandom(2_000_000)

        def send() -> None:
            hub.io.sendall(pair[0], data, 0, None)
            pair[0].shutdown(socket.SHUT_WR)

        sender = spawn(send)
        assert self.read_all(hub, pair[1], 65536) == data
        sender.get()

    def test_sendall_of_other_buffers(self, hub: Hub, pair: Pair) -> None:
        hub.io.sendall(pair[0], memoryview(struct.pack("3i", 1, 2, 3)).cast("i"), 0, None)
        hub.io.sendall(pair[0], bytearray(b"abc"), 0, None)
        hub.io.sendall(pair[0], b"", 0, None)
        assert pair[1].recv(100) == struct.pack("3i", 1, 2, 3) + b"abc"

    def test_sendall_counts_its_timeout_over_the_whole(self, hub: Hub, pair: Pair) -> None:
        fill(pair[0])
        with pytest.raises(TimeoutError, match="timed out"):
            hub.io.sendall(pair[0], b"abc", 0, SOON_SECONDS)

    def test_send_to_a_peer_that_has_gone(self, hub: Hub, pair: Pair) -> None:
        fill(pair[0])
        task = spawn(hub.io.sendall, pair[0], b"abc", 0, None)
        until_parked(task)
        pair[1].close()
        with pytest.raises(OSError) as caught:
            task.get()
        assert caught.value.errno in (errno.EPIPE, errno.ECONNRESET)

    def test_both_directions_of_one_socket_at_once(self, hub: Hub, pair: Pair) -> None:
        full = fill(pair[0])
        reader = spawn(hub.io.recv, pair[0], 10, 0, None)
        writer = spawn(hub.io.send, pair[0], b"abc", 0, None)
        until_parked(reader, writer)
        pair[1].send(b"x")
        assert reader.get() == b"x"
        assert not writer.ready()
        self.take(pair[1], full)
        assert writer.get() == 3

    # -- accept and connect ------------------------------------------------------------------------------------

    def test_accept_waits_for_a_connection(self, hub: Hub) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            task = spawn(hub.io.accept, listener, None)
            until_parked(task)
            with socket.create_connection(listener.getsockname()) as client:
                fd, address = task.get()
                with socket.socket(fileno=fd) as server:
                    assert address == client.getsockname() == server.getpeername()

    def test_accept_does_not_block_after_the_listener_was_made_blocking_again(self, hub: Hub) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            for _ in range(2):
                with pytest.raises(TimeoutError):
                    hub.io.accept(listener, SOON_SECONDS)
                listener.settimeout(None)

    def test_many_tasks_accept_from_one_listener(self, hub: Hub) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as stack:
            tasks = [spawn(hub.io.accept, listener, None) for _ in range(5)]
            until_parked(*tasks)
            for _ in tasks:
                stack.enter_context(socket.create_connection(listener.getsockname()))
            joinall(tasks, raise_error=True)
            for task in tasks:
                os.close(task.get()[0])

    def test_accept_without_free_descriptors(self, hub: Hub) -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.create_connection(listener.getsockname()),
        ):
            hub.io.wait(listener.fileno(), READ)
            with no_free_descriptors(), pytest.raises(OSError) as caught:
                hub.io.accept(listener, None)
            assert caught.value.errno == errno.EMFILE
            os.close(hub.io.accept(listener, None)[0])

    def test_connect(self, hub: Hub) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
            hub.io.connect(client, listener.getsockname(), None)
            assert client.getpeername() == listener.getsockname()
            assert os.get_blocking(client.fileno())

    def test_connect_refused(self, hub: Hub) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = listener.getsockname()
        with socket.socket() as client, pytest.raises(ConnectionRefusedError):
            hub.io.connect(client, address, 5)

    def test_connect_timed_out(self, hub: Hub) -> None:
        with (
            self.full_listener() as address,
            socket.socket() as client,
            pytest.raises(TimeoutError, match="timed out"),
        ):
            hub.io.connect(client, address, SOON_SECONDS)

    def test_connect_to_a_unix_listener_with_full_backlog(self, hub: Hub) -> None:
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener, ExitStack() as stack:
            address = os.path.join(folder, "s")
            listener.bind(address)
            listener.listen(0)
            for _ in range(2):
                waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                waiting.connect_ex(address)
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            with pytest.raises(TimeoutError, match="timed out"):
                hub.io.connect(client, address, SOON_SECONDS)
            task = spawn(hub.io.connect, client, address, None)
            until_parked(task)
            listener.accept()[0].close()
            task.get()
            assert client.getpeername() == address

    # -- timeouts ----------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("user_timeout", [None, 0.0, 3600.0])
    def test_what_waits_is_the_operations_timeout(self, hub: Hub, pair: Pair, user_timeout: float | None) -> None:
        pair[0].settimeout(user_timeout)
        blocking = os.get_blocking(pair[0].fileno())
        sibling = spawn(sleep, SOON_SECONDS / 4)
        with pytest.raises(TimeoutError, match="timed out"):
            hub.io.recv(pair[0], 10, 0, SOON_SECONDS)
        assert sibling.ready()
        assert pair[0].gettimeout() == user_timeout
        assert os.get_blocking(pair[0].fileno()) == blocking
        pair[1].send(b"abc")
        assert hub.io.recv(pair[0], 10, 0, SOON_SECONDS) == b"abc"

    @pytest.mark.parametrize("user_timeout", [None, 0.0, 5.0])
    def test_default_timeout_in_force(self, hub: Hub, user_timeout: float | None) -> None:
        socket.setdefaulttimeout(3600.0)
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind(("127.0.0.1", 0))
                sock.settimeout(user_timeout)
                blocking = os.get_blocking(sock.fileno())
                sibling = spawn(sleep, SOON_SECONDS / 4)
                with pytest.raises(TimeoutError):
                    hub.io.recv(sock, 10, 0, SOON_SECONDS)
                assert sibling.ready()
                assert sock.gettimeout() == user_timeout
                assert os.get_blocking(sock.fileno()) == blocking
        finally:
            socket.setdefaulttimeout(None)

    def test_timeout_of_nothing_still_takes_what_is_there(self, hub: Hub, pair: Pair) -> None:
        pair[1].send(b"abc")
        assert hub.io.recv(pair[0], 10, 0, 0.0) == b"abc"
        with pytest.raises(TimeoutError):
            hub.io.recv(pair[0], 10, 0, 0.0)

    # -- wait --------------------------------------------------------------------------------------------------

    def test_wait_is_level_triggered(self, hub: Hub) -> None:
        with self.pipe() as (reading, writing):
            task = spawn(hub.io.wait, reading, READ)
            until_parked(task)
            os.write(writing, b"abc")
            assert task.get()
            assert hub.io.wait(reading, READ)  # still there
            os.read(reading, 1)
            assert hub.io.wait(reading, READ)  # and still
            os.read(reading, 2)
            assert not hub.io.wait(reading, READ, clock.monotonic() + SOON_SECONDS)
            assert hub.io.wait(writing, WRITE)

    def test_wait_after_the_other_end_has_gone(self, hub: Hub) -> None:
        reading, writing = os.pipe()
        task = spawn(hub.io.wait, reading, READ)
        until_parked(task)
        os.close(writing)
        assert task.get()
        os.close(reading)

    def test_wait_does_not_spin_when_nobody_waits_any_more(self, hub: Hub) -> None:
        with self.pipe() as (reading, writing):
            os.write(writing, b"abc")
            assert hub.io.wait(reading, READ)
            polls = hub.polls
            sleep(5 * SOON_SECONDS)
            assert hub.polls - polls < 10

    def test_regular_file_is_always_ready(self, hub: Hub) -> None:
        with tempfile.TemporaryFile() as file:
            assert hub.io.wait(file.fileno(), READ)
            assert hub.io.wait(file.fileno(), READ | WRITE)

    def test_wait_with_a_deadline_that_has_passed(self, hub: Hub) -> None:
        with self.pipe() as (reading, writing):
            assert not hub.io.wait(reading, READ, clock.monotonic() - 1)
            os.write(writing, b"abc")
            assert hub.io.wait(reading, READ, clock.monotonic() - 1)

    def test_wait_for_both_directions(self, hub: Hub, pair: Pair) -> None:
        fill(pair[0])
        task = spawn(hub.io.wait, pair[0].fileno(), READ | WRITE)
        until_parked(task)
        pair[1].send(b"x")
        assert task.get()

    def test_wait_is_level_triggered_on_a_socket_that_operations_use(self, hub: Hub, pair: Pair) -> None:
        task = spawn(hub.io.recv, pair[0], 1, 0, None)
        until_parked(task)
        pair[1].send(b"abc")
        assert task.get() == b"a"
        assert hub.io.wait(pair[0].fileno(), READ)
        assert hub.io.wait(pair[0].fileno(), READ)
        assert pair[0].recv(10) == b"bc"
        assert not hub.io.wait(pair[0].fileno(), READ, clock.monotonic() + SOON_SECONDS)
        task = spawn(hub.io.recv, pair[0], 1, 0, None)
        until_parked(task)
        pair[1].send(b"d")
        assert task.get() == b"d"

    def test_wait_before_and_after_operations_on_the_same_socket(self, hub: Hub, pair: Pair) -> None:
        assert not hub.io.wait(pair[1].fileno(), READ, clock.monotonic() + SOON_SECONDS)
        with pytest.raises(TimeoutError):
            hub.io.recv(pair[1], 10, 0, SOON_SECONDS)
        fd = pair[0].fileno()
        waiter = spawn(hub.io.wait, fd, READ)
        until_parked(waiter)
        reader = spawn(hub.io.recv, pair[0], 10, 0, None)
        until_parked(reader)
        both = spawn(hub.io.wait, fd, READ)
        until_parked(waiter, reader, both)
        pair[1].send(b"abc")
        assert waiter.get()
        assert both.get()
        assert reader.get() == b"abc"
        left = fill(pair[0]) + 1_000_000
        assert not hub.io.wait(fd, READ | WRITE, clock.monotonic() + SOON_SECONDS)
        waiter = spawn(hub.io.wait, fd, WRITE)
        writer = spawn(hub.io.sendall, pair[0], b"x" * 1_000_000, 0, None)
        until_parked(waiter, writer)
        while left:
            left -= len(hub.io.recv(pair[1], 1 << 20, 0, None))
        writer.get()
        assert waiter.get()

    def test_wait_for_a_bad_descriptor(self, hub: Hub) -> None:
        with self.pipe() as (reading, _):
            free = os.dup(reading)
            os.close(free)
            for events in (READ, WRITE):
                with pytest.raises(OSError) as caught:
                    hub.io.wait(free, events)
                assert caught.value.errno == errno.EBADF

    def test_several_waiters_on_one_descriptor(self, hub: Hub) -> None:
        with self.pipe() as (reading, writing):
            tasks = [spawn(hub.io.wait, reading, READ) for _ in range(3)]
            late = spawn(hub.io.wait, reading, READ, clock.monotonic() + SOON_SECONDS)
            until_parked(*tasks, late)
            assert late.get() is False
            tasks.pop(0).kill()
            os.write(writing, b"x")
            joinall(tasks)
            assert all(task.get() for task in tasks)

    def test_several_readers_of_one_socket(self, hub: Hub, pair: Pair) -> None:
        tasks = [spawn(hub.io.recv, pair[0], 1, 0, None) for _ in range(3)]
        until_parked(*tasks)
        pair[1].send(b"abc")
        joinall(tasks)
        assert sorted(task.get() for task in tasks) == [b"a", b"b", b"c"]

    def test_killed_reader_leaves_the_data_to_the_next(self, hub: Hub, pair: Pair) -> None:
        first, second = spawn(hub.io.recv, pair[0], 9, 0, None), spawn(hub.io.recv, pair[0], 9, 0, None)
        until_parked(first, second)
        pair[1].send(b"abc")
        first.kill()
        assert second.get() == b"abc"

    # -- wake --------------------------------------------------------------------------------------------------

    def test_wake_from_another_thread(self, hub: Hub) -> None:
        waiting = spawn(hub.park)
        until_parked(waiting)
        thread = threading.Thread(target=hub.run_soon, args=(hub.make_ready, waiting, UNPARKED))
        hub.on_idle = self.once(thread.start)
        assert waiting.get() == UNPARKED
        thread.join()

    def test_wake_from_a_signal_handler(self, hub: Hub) -> None:
        task = spawn(hub.park)
        until_parked(task)
        before = signal.signal(signal.SIGALRM, lambda *_: hub.run_soon(hub.make_ready, task, UNPARKED))
        try:
            hub.on_idle = self.once(lambda: signal.setitimer(signal.ITIMER_REAL, SOON_SECONDS))
            assert task.get() == UNPARKED
        finally:
            signal.signal(signal.SIGALRM, before)

    def test_wake_before_a_poll_is_kept(self, hub: Hub) -> None:
        hub.io.wake()
        hub.io.wake()
        hub.io.poll(None)

    def test_wake_after_close_does_nothing(self, hub: Hub) -> None:
        model = self.model(hub)
        model.close()
        model.wake()
        model.close()

    # -- close, forget, reuse ----------------------------------------------------------------------------------

    @pytest.mark.parametrize("operation", ["recv", "send", "accept", "call"])
    def test_forget_shows_the_waiter_a_bad_descriptor(self, hub: Hub, pair: Pair, operation: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            fill(pair[0])
            sock = listener if operation == "accept" else pair[0]
            operations: dict[str, Callable[[], object]] = {
                "recv": lambda: hub.io.recv(sock, 10, 0, None),
                "send": lambda: hub.io.send(sock, b"x", 0, None),
                "accept": lambda: hub.io.accept(sock, None),
                "call": lambda: hub.io.call(sock, READ, "recvfrom", (10, socket.MSG_DONTWAIT), None),
            }
            task = spawn(operations[operation])
            until_parked(task)
            hub.io.forget(sock.fileno())
            sock.close()
            with pytest.raises(OSError) as caught:
                task.get()
            assert caught.value.errno == errno.EBADF

    @pytest.mark.parametrize("events", [READ, READ | WRITE])
    def test_forget_shows_who_waits_for_the_number_that_it_is_bad(self, hub: Hub, pair: Pair, events: int) -> None:
        fill(pair[0])
        tasks = [spawn(hub.io.wait, pair[0].fileno(), events) for _ in range(2)]
        until_parked(*tasks)
        hub.io.forget(pair[0].fileno())
        for task in tasks:
            with pytest.raises(OSError) as caught:
                task.get()
            assert caught.value.errno == errno.EBADF

    def test_detach_leaves_the_number_to_who_waits_for_it(self, hub: Hub, pair: Pair) -> None:
        task = spawn(hub.io.wait, pair[0].fileno(), READ)
        until_parked(task)
        hub.io.forget(pair[0].fileno(), detached=pair[0])
        fd = pair[0].detach()
        try:
            pair[1].send(b"x")
            assert task.get()
        finally:
            os.close(fd)

    def test_forget_of_a_stranger_does_nothing(self, hub: Hub) -> None:
        hub.io.forget(12345)

    def test_closed_socket(self, hub: Hub, pair: Pair) -> None:
        pair[0].close()
        for operation in (
            lambda: hub.io.recv(pair[0], 10, 0, None),
            lambda: hub.io.sendall(pair[0], b"x", 0, None),
            lambda: hub.io.accept(pair[0], None),
        ):
            with pytest.raises(OSError) as caught:
                operation()
            assert caught.value.errno == errno.EBADF

    @pytest.mark.parametrize("how", ["forget", "behind our back", "garbage"])
    def test_number_is_reused(self, hub: Hub, how: str) -> None:
        numbers = set()
        kept = []
        for round_ in range(10):
            one, other = socket.socketpair()
            numbers.add(one.fileno())
            if round_ % 2:
                task = spawn(hub.io.recv, one, 10, 0, None)
            else:
                task = spawn(self.receive_into, hub, one)
            until_parked(task)
            hub.io.sendall(other, b"%d" % round_, 0, None)
            assert task.get() == b"%d" % round_
            del task
            if how == "forget":
                hub.io.forget(one.fileno())
                hub.io.forget(other.fileno())
            if how == "garbage":
                del one, other
                gc.collect()
            else:
                one.close()
                other.close()
                kept.append((one, other))
        assert len(numbers) < 10, "the kernel has handed out no number twice: the test shows nothing"

    test_number_is_reused = pytest.mark.filterwarnings("ignore::ResourceWarning")(test_number_is_reused)

    def receive_into(self, hub: Hub, sock: socket.socket) -> bytes:
        buffer = bytearray(10)
        return bytes(buffer[: hub.io.recv_into(sock, buffer, 0, 0, None)])

    def test_number_of_a_raw_descriptor_is_reused(self, hub: Hub) -> None:
        for _ in range(3):
            with self.pipe() as (reading, writing):
                task = spawn(hub.io.wait, reading, READ)
                until_parked(task)
                os.write(writing, b"x")
                assert task.get()

    def test_number_is_reused_while_somebody_waits_for_the_old_one(self, hub: Hub) -> None:
        reading, writing = os.pipe()
        lost = spawn(hub.io.wait, reading, READ)
        until_parked(lost)
        os.close(reading)  # behind our back
        fds = os.pipe()
        try:
            assert reading in fds
            task = spawn(hub.io.wait, fds[0], READ)
            until_parked(task)
            os.write(fds[1], b"x")
            assert task.get()
        finally:
            lost.kill()
            for fd in (writing, *fds):
                os.close(fd)

    def test_stale_entry_wakes_its_waiter(self, hub: Hub) -> None:
        one, other = socket.socketpair()
        with other:
            task = spawn(hub.io.recv, one, 10, 0, None)
            until_parked(task)
            fd = one.fileno()
            one.close()  # the model is not told
            again = socket.socket()
            with again:
                assert again.fileno() == fd, "the kernel has not handed out the number again: the test shows nothing"
                with pytest.raises(OSError):
                    hub.io.recv(again, 10, 0, SOON_SECONDS)  # not connected
                with pytest.raises(OSError) as caught:
                    task.get()
                assert caught.value.errno == errno.EBADF

    def test_duplicated_descriptor_outlives_the_first(self, hub: Hub) -> None:
        one, other = socket.socketpair()
        with other:
            task = spawn(hub.io.recv, one, 1, 0, None)
            until_parked(task)
            other.send(b"a")
            assert task.get() == b"a"
            with closing(one.dup()) as copy:
                hub.io.forget(one.fileno())
                one.close()
                task = spawn(hub.io.recv, copy, 10, 0, None)
                until_parked(task)
                other.send(b"abc")
                assert task.get() == b"abc"
                other.send(b"stale")
                polls = hub.polls
                sleep(5 * SOON_SECONDS)
                assert hub.polls - polls < 10

    def test_duplicated_descriptor_of_a_socket_closed_behind_our_back(self, hub: Hub) -> None:
        one, other = socket.socketpair()
        with other, closing(one.dup()):
            task = spawn(hub.io.recv, one, 1, 0, None)
            until_parked(task)
            other.send(b"a")
            assert task.get() == b"a"
            fd = one.fileno()
            one.close()
            with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as again:
                assert again.fileno() == fd
                again.bind(("127.0.0.1", 0))
                task = spawn(hub.io.recv, again, 10, 0, None)
                until_parked(task)
                other.send(b"for the copy, whose registration has outlived its number")
                turns()
                assert not task.ready()
                again.sendto(b"x", again.getsockname())
                assert task.get() == b"x"

    def test_waiter_does_not_read_what_came_for_the_next_owner_of_its_number(self, hub: Hub) -> None:
        one, other = socket.socketpair()
        with other, closing(one.dup()):
            task = spawn(hub.io.recv, one, 10, 0, 5 * SOON_SECONDS)
            until_parked(task)
            fd = one.fileno()
            one.close()  # as a plain thread does: the model is not told
            fresh, peer = socket.socketpair()
            with fresh, peer:
                assert fd in (fresh.fileno(), peer.fileno()), "the number was not handed out again"
                mine, its = (fresh, peer) if fresh.fileno() == fd else (peer, fresh)
                its.send(b"not for the old one")
                other.send(b"for the copy")
                # Whether it hears of the end depends on the model. One that reads by itself may still have the file.
                try:
                    assert task.get() == b"for the copy"[:10]
                except TimeoutError:
                    pass
                except OSError as error:
                    assert error.errno == errno.EBADF
                assert mine.recv(99) == b"not for the old one"

    @pytest.mark.parametrize("used", [False, True])
    def test_detaching_a_second_object_on_the_number_leaves_the_owner_waiting(
        self, hub: Hub, pair: Pair, used: bool
    ) -> None:
        task = spawn(hub.io.recv, pair[0], 10, 0, None)
        until_parked(task)
        second = socket.socket(fileno=pair[0].fileno())
        if used:
            with pytest.raises(TimeoutError):
                hub.io.recv(second, 10, 0, SOON_SECONDS)
        hub.io.forget(second.fileno(), detached=second)
        second.detach()
        turns()
        assert not task.ready()
        pair[1].send(b"abc")
        assert task.get() == b"abc"
        task = spawn(hub.io.recv, pair[0], 10, 0, None)
        until_parked(task)
        pair[1].send(b"d")
        assert task.get() == b"d"

    def test_two_objects_on_one_number_take_turns(self, hub: Hub, pair: Pair) -> None:
        second = socket.socket(fileno=pair[0].fileno())
        try:
            for text in (b"a", b"b", b"c"):
                for sock in (pair[0], second):
                    task = spawn(hub.io.recv, sock, 10, 0, None)
                    until_parked(task)
                    pair[1].send(text)
                    assert task.get() == text
        finally:
            second.detach()

    def test_raw_descriptor_closed_while_a_copy_lives_does_not_spin(self, hub: Hub) -> None:
        reading, writing = os.pipe()
        copy = os.dup(reading)
        try:
            task = spawn(hub.io.wait, reading, READ, clock.monotonic() + 5 * SOON_SECONDS)
            until_parked(task)
            os.close(reading)
            os.write(writing, b"x")
            task.join()
            polls = hub.polls
            sleep(5 * SOON_SECONDS)
            assert hub.polls - polls < 10
        finally:
            os.close(copy)
            os.close(writing)

    def test_wait_for_two_directions_by_two_tasks(self, hub: Hub, pair: Pair) -> None:
        fill(pair[0])
        reader = spawn(hub.io.wait, pair[0].fileno(), READ)
        writer = spawn(hub.io.wait, pair[0].fileno(), WRITE)
        until_parked(reader, writer)
        pair[1].send(b"x")
        assert reader.get()
        assert not writer.ready()
        with pytest.raises(BlockingIOError):
            while True:
                pair[1].recv(1 << 20, socket.MSG_DONTWAIT)
        assert writer.get()

    def test_closing_the_hub_leaves_users_descriptors_alone(self, hub: Hub, pair: Pair) -> None:
        task = spawn(hub.io.recv, pair[0], 1, 0, None)
        until_parked(task)
        close_hub()
        pair[1].send(b"abc")
        assert pair[0].recv(10) == b"abc"

    def test_exception_of_a_signal_handler_loses_no_event(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        class Struck(Exception):
            pass

        def strike(*_: object) -> None:
            if hub._scheduling:  # a task that is struck may lose what it has in its hands; that is its own affair
                raise Struck

        def answer(sock: socket.socket, count: int) -> None:
            for _ in range(count):
                hub.io.recv(sock, 1, 0, None)
                sock.send(b"x")

        # What strikes a finalizer that happens to run there is ignored by Python, and not to be reported by pytest.
        monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
        with ExitStack() as stack:
            stack.callback(signal.signal, signal.SIGALRM, signal.signal(signal.SIGALRM, strike))
            pairs = [stack.enter_context(closing(sock)) for _ in range(20) for sock in socket.socketpair()]
            tasks = [spawn(answer, sock, 500) for sock in pairs]
            until_parked(*tasks)
            stack.callback(signal.setitimer, signal.ITIMER_REAL, 0)
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0003)
            for sock in pairs[::2]:
                sock.send(b"x")
            struck = 0
            while live_tasks():
                try:
                    joinall(tasks)
                except Struck:
                    struck += 1
            assert struck or core() == "compiled"  # which leaves the handlers few places to strike in
