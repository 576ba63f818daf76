"""Part of the contract of every IO model: how many descriptors, how high their numbers, and which kinds of them.

A model says in `max_fd` where it ends; what lies beyond is skipped for it.
"""

import errno
import fcntl
import os
import resource
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from rimstone import clock
from rimstone.hub import Hub, joinall, sleep, spawn
from rimstone.iomodel.base import READ, WRITE
from rimstone.testing.iomodel_suite import (
    PATIENCE_SECONDS,
    SOON_SECONDS,
    IOModelSuite,
    Pair,
    fill,
    no_free_descriptors,
    turns,
    until_parked,
)

__all__ = ["ScaleContract"]

_MANY = 1_000
_HIGH = 1_500  # past what select(2) knows
_WAITERS = 100


class ScaleContract(IOModelSuite):
    @pytest.fixture
    def enough(self) -> Iterator[None]:
        """Descriptors for all that is opened here."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 2 * _MANY + 100
        if hard != resource.RLIM_INFINITY and hard < wanted:
            pytest.skip(f"this process may open {hard} descriptors, and {wanted} are needed (ulimit -Hn)")
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
        yield
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def skip_beyond(self, fd: int) -> None:
        if self.model.max_fd is not None and fd > self.model.max_fd:
            pytest.skip(f"{self.model.name} ends at descriptor {self.model.max_fd}")

    # -- many --------------------------------------------------------------------------------------------------

    @pytest.mark.usefixtures("enough")
    def test_a_thousand_descriptors_at_once(self, hub: Hub) -> None:
        with ExitStack() as stack:
            receivers = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(_MANY)]
            self.skip_beyond(receivers[-1].fileno())
            sender = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            for receiver in receivers:
                receiver.bind(("127.0.0.1", 0))
            tasks = [spawn(hub.io.recv, receiver, 100, 0, None) for receiver in receivers]
            until_parked(*tasks)
            for number in range(0, _MANY, 2):
                sender.sendto(b"%d" % number, receivers[number].getsockname())
            joinall(tasks[::2])
            assert not any(task.ready() for task in tasks[1::2])
            for number in range(1, _MANY, 2):
                sender.sendto(b"%d" % number, receivers[number].getsockname())
            assert [int(task.get()) for task in tasks] == list(range(_MANY))

    def test_many_readers_of_one_socket_some_of_them_killed(self, hub: Hub, pair: Pair) -> None:
        tasks = [spawn(hub.io.recv, pair[0], 1, 0, None) for _ in range(_WAITERS)]
        until_parked(*tasks)
        for task in tasks[::2]:
            task.kill(block=False)
        pair[1].send(bytes(range(_WAITERS // 2)))
        joinall(tasks)
        assert sorted(task.get() for task in tasks[1::2]) == [bytes([number]) for number in range(_WAITERS // 2)]

    def test_many_waiters_for_one_descriptor(self, hub: Hub) -> None:
        with self.pipe() as (reading, writing):
            tasks = [spawn(hub.io.wait, reading, READ) for _ in range(_WAITERS)]
            until_parked(*tasks)
            os.write(writing, b"x")
            joinall(tasks)
            assert all(task.get() for task in tasks)
            assert not hub.io.waits()

    # -- high numbers, and none left ---------------------------------------------------------------------------

    @pytest.mark.usefixtures("enough")
    def test_descriptors_past_1023(self, hub: Hub, pair: Pair) -> None:
        self.skip_beyond(_HIGH)
        high = fcntl.fcntl(pair[0].fileno(), fcntl.F_DUPFD_CLOEXEC, _HIGH)
        with socket.socket(fileno=high) as sock:
            reader = spawn(hub.io.recv, sock, 10, 0, None)
            waiter = spawn(hub.io.wait, high, READ)
            until_parked(reader, waiter)
            pair[1].send(b"abc")
            assert reader.get() == b"abc"
            assert waiter.get()
            full = fill(sock)
            writer = spawn(hub.io.sendall, sock, b"abc", 0, None)
            until_parked(writer)
            self.take(pair[1], full)
            writer.get()
            hub.io.forget(high)

    def test_accept_runs_out_of_descriptors_while_it_waits(self, hub: Hub) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
            task = spawn(hub.io.accept, listener, None)
            until_parked(task)
            with no_free_descriptors():
                client.connect(listener.getsockname())
                if self.acts_while_waiting:
                    os.close(task.get()[0])
                    return
                with pytest.raises(OSError) as caught:
                    task.get()
                assert caught.value.errno == errno.EMFILE
            os.close(hub.io.accept(listener, PATIENCE_SECONDS)[0])

    def test_model_made_without_free_descriptors_leaves_none_open(self, hub: Hub) -> None:
        with no_free_descriptors():
            try:
                self.model(hub).close()
            except OSError as error:
                assert error.errno == errno.EMFILE

    # -- streams that end in one direction ---------------------------------------------------------------------

    def test_half_closed_by_the_peer_can_still_be_sent_to(self, hub: Hub, tcp: Pair) -> None:
        reader = spawn(hub.io.recv, tcp[0], 10, 0, None)
        until_parked(reader)
        tcp[1].shutdown(socket.SHUT_WR)
        assert reader.get() == b""
        data = os.urandom(1_000_000)

        def send() -> None:
            hub.io.sendall(tcp[0], data, 0, None)
            tcp[0].shutdown(socket.SHUT_WR)

        sender = spawn(send)
        assert self.read_all(hub, tcp[1], 65536) == data
        sender.get()
        assert hub.io.recv(tcp[0], 10, 0, None) == b""

    def test_own_end_closed_for_reading_ends_the_read(self, hub: Hub, pair: Pair, tcp: Pair) -> None:
        for sock in (pair[0], tcp[0]):
            reader = spawn(hub.io.recv, sock, 10, 0, None)
            until_parked(reader)
            sock.shutdown(socket.SHUT_RD)
            assert reader.get() == b""

    def test_own_end_closed_for_writing_ends_the_send(self, hub: Hub, tcp: Pair) -> None:
        fill(tcp[0])
        sender = spawn(hub.io.sendall, tcp[0], b"x" * 10_000_000, 0, None)
        until_parked(sender)
        tcp[0].shutdown(socket.SHUT_WR)
        with pytest.raises(BrokenPipeError):
            sender.get()

    # -- datagrams and messages --------------------------------------------------------------------------------

    def test_datagram_longer_than_asked_for_is_cut(self, hub: Hub, udp: Pair) -> None:
        task = spawn(lambda: [hub.io.recv(udp[0], 2, 0, None) for _ in range(2)])
        until_parked(task)
        udp[1].send(b"abcd")
        udp[1].send(b"ef")
        assert task.get() == [b"ab", b"ef"]

    def test_datagrams_go_to_one_reader_each(self, hub: Hub, udp: Pair) -> None:
        tasks = [spawn(hub.io.recv, udp[0], 100, 0, None) for _ in range(20)]
        until_parked(*tasks)
        for number in range(20):
            udp[1].send(b"%d" % number)
        joinall(tasks)
        assert sorted(int(task.get()) for task in tasks) == list(range(20))

    def test_datagram_to_nobody_shows_to_the_reader(self, hub: Hub, udp: Pair) -> None:
        task = spawn(hub.io.recv, udp[0], 100, 0, None)
        until_parked(task)
        udp[1].close()
        udp[0].send(b"x")
        with pytest.raises(ConnectionRefusedError):
            task.get()

    @pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
    def test_messages_wait_for_room_and_keep_their_bounds(self, hub: Hub, kind: int) -> None:
        one, other = socket.socketpair(socket.AF_UNIX, kind)
        with one, other:

            def send() -> None:
                for number in range(2_000):  # more than the kernel queues
                    hub.io.send(one, b"%d" % number, 0, None)

            sender = spawn(send)
            assert [int(hub.io.recv(other, 100, 0, None)) for _ in range(2_000)] == list(range(2_000))
            sender.get()

    def test_message_waits_for_room_and_is_sent_when_there_is_some(self, hub: Hub) -> None:
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with one, other:
            queued = 0
            with pytest.raises(BlockingIOError):
                while True:
                    one.send(b"x", socket.MSG_DONTWAIT)
                    queued += 1
            task = spawn(hub.io.send, one, b"last", 0, None)
            until_parked(task)
            received = [hub.io.recv(other, 100, 0, None) for _ in range(queued + 1)]
            assert received == [b"x"] * queued + [b"last"]
            assert task.get() == 4

    # -- urgent data -------------------------------------------------------------------------------------------

    def test_data_on_both_sides_of_the_urgent_mark(self, hub: Hub, tcp: Pair) -> None:
        def read(count: int) -> bytes:
            data = b""
            while len(data) < count:
                data += hub.io.recv(tcp[0], 100, 0, None)
            return data

        for round_ in range(3):
            task = spawn(read, 6)
            until_parked(task)
            tcp[1].send(b"abc")
            tcp[1].send(b"!", socket.MSG_OOB)
            tcp[1].send(b"def")
            assert task.get() == b"abcdef", round_

    def test_writer_does_not_spin_while_there_is_urgent_data(self, hub: Hub, tcp: Pair) -> None:
        fill(tcp[0])
        writer = spawn(hub.io.sendall, tcp[0], b"x" * 10_000_000, 0, None)
        until_parked(writer)
        tcp[1].send(b"!", socket.MSG_OOB)
        sleep(SOON_SECONDS)
        polls = hub.polls
        sleep(5 * SOON_SECONDS)
        assert hub.polls - polls < 10
        assert not writer.ready()
        writer.kill()

    # -- what is no socket -------------------------------------------------------------------------------------

    def test_regular_file_is_ready_also_at_its_end(self, hub: Hub) -> None:
        with tempfile.TemporaryFile() as file:
            file.write(b"abc")
            file.flush()
            tasks = [spawn(hub.io.wait, file.fileno(), events) for events in (READ, WRITE, READ | WRITE) * 3]
            joinall(tasks)
            assert all(task.get() for task in tasks)
            assert not hub.io.waits()

    def test_terminal(self, hub: Hub) -> None:
        with ExitStack() as stack:
            keyboard, terminal = os.openpty()
            stack.callback(os.close, keyboard)
            stack.callback(os.close, terminal)
            assert not hub.io.wait(terminal, READ, clock.monotonic() + SOON_SECONDS)
            task: Any = spawn(hub.io.wait, terminal, READ)
            until_parked(task)
            turns()
            os.write(keyboard, b"line\n")
            assert task.get()
            assert os.read(terminal, 100) == b"line\n"

    def test_pipe_waits_for_room(self, hub: Hub) -> None:
        with self.pipe() as (reading, writing):
            os.set_blocking(writing, False)
            with pytest.raises(BlockingIOError):
                while True:
                    os.write(writing, bytes(4096))
            task = spawn(hub.io.wait, writing, WRITE)
            until_parked(task)
            turns()
            assert not task.ready()
            os.read(reading, 65_536)
            assert task.get()
