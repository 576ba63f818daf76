"""Part of the contract of every IO model: a wait that ends early loses nothing. Kill, timeout, close, wake and fork.

What a killed or timed-out task did not return must be there for the next one, whether the model only waited for it or
had the operation done for it already. So all is received through the model's operations, never behind its back.
"""

import errno
import os
import random
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from rimstone import clock
from rimstone.hub import Hub, Task, close_hub, get_hub, joinall, sleep, spawn
from rimstone.iomodel.base import READ, WRITE
from rimstone.testing.iomodel_suite import PATIENCE_SECONDS, SOON_SECONDS, IOModelSuite, Pair, fill, turns, until_parked

__all__ = ["CancelContract"]

Read = Callable[[Hub, socket.socket, float | None], bytes]


def recv(hub: Hub, sock: socket.socket, timeout: float | None) -> bytes:
    return hub.io.recv(sock, 10, 0, timeout)


def recv_with_flags(hub: Hub, sock: socket.socket, timeout: float | None) -> bytes:
    return hub.io.recv(sock, 10, socket.MSG_NOSIGNAL, timeout)  # which means nothing here


def recv_into(hub: Hub, sock: socket.socket, timeout: float | None) -> bytes:
    buffer = bytearray(10)
    return bytes(buffer[: hub.io.recv_into(sock, buffer, 0, 0, timeout)])


def recvfrom(hub: Hub, sock: socket.socket, timeout: float | None) -> bytes:
    data: bytes = hub.io.call(sock, READ, "recvfrom", (10, socket.MSG_DONTWAIT), timeout)[0]
    return data


def peek_first(hub: Hub, sock: socket.socket, timeout: float | None) -> bytes:
    hub.io.recv(sock, 10, socket.MSG_PEEK, timeout)
    return hub.io.recv(sock, 10, 0, timeout)


READS: tuple[Read, ...] = (recv, recv_with_flags, recv_into, recvfrom, peek_first)
each_read = pytest.mark.parametrize("read", READS)


class CancelContract(IOModelSuite):
    # -- killed ------------------------------------------------------------------------------------------------

    @each_read
    @pytest.mark.parametrize("polled", [False, True], ids=["unseen", "seen"])
    def test_killed_read_leaves_what_has_come(self, hub: Hub, pair: Pair, read: Read, polled: bool) -> None:
        got = []
        task = spawn(lambda: got.append(read(hub, pair[0], None)))
        until_parked(task)
        pair[1].send(b"abc")
        if polled:
            hub.io.poll(0)  # the model knows of it, and the task has not run yet
        task.kill()
        assert task.ready()
        if not got:
            got.append(hub.io.recv(pair[0], 10, 0, PATIENCE_SECONDS))
        assert got == [b"abc"]
        with pytest.raises(TimeoutError):
            hub.io.recv(pair[0], 10, 0, 0.0)

    @pytest.mark.skipif(not hasattr(socket, "MSG_WAITALL"), reason="this system has no MSG_WAITALL")
    def test_killed_read_of_all_returns_what_it_has(self, hub: Hub, pair: Pair) -> None:
        got = []
        went_on = []

        def read_all() -> None:
            got.append(hub.io.recv(pair[0], 10, socket.MSG_WAITALL, None))
            sleep(0)
            went_on.append("the kill did not strike at the next wait")

        task = spawn(read_all)
        until_parked(task)
        pair[1].send(b"abc")
        turns(3)
        task.kill()
        assert task.ready()
        assert not went_on
        if not got:  # nothing was taken from the socket
            got.append(hub.io.recv(pair[0], 10, 0, PATIENCE_SECONDS))
        assert got == [b"abc"]

    @each_read
    def test_read_that_is_killed_before_anything_comes_takes_nothing_later(
        self, hub: Hub, pair: Pair, read: Read
    ) -> None:
        task = spawn(read, hub, pair[0], None)
        until_parked(task)
        task.kill()
        turns()
        pair[1].send(b"abc")
        turns()
        assert hub.io.recv(pair[0], 10, 0, PATIENCE_SECONDS) == b"abc"

    @each_read
    def test_deadline_and_data_at_one_time(self, hub: Hub, pair: Pair, read: Read) -> None:
        got = []

        def try_read() -> None:
            try:
                got.append(read(hub, pair[0], SOON_SECONDS))
            except TimeoutError:
                pass

        task = spawn(try_read)
        until_parked(task)
        pair[1].send(b"abc")
        time.sleep(2 * SOON_SECONDS)  # the whole thread: both are there when the hub looks
        task.join()
        if not got:
            got.append(hub.io.recv(pair[0], 10, 0, PATIENCE_SECONDS))
        assert got == [b"abc"]

    @pytest.mark.parametrize("seed", range(3))
    def test_readers_that_are_killed_or_time_out_at_any_moment_lose_no_byte(
        self, hub: Hub, pair: Pair, seed: int
    ) -> None:
        rng = random.Random(seed)  # noqa: S311 - the same moves for the same seed, that is all
        numbers = iter(range(1_000_000))
        got, sent = [], []

        def attempt(read: Read, timeout: float | None) -> None:
            try:
                got.append(read(hub, pair[0], timeout))
            except TimeoutError:
                pass

        def send() -> None:
            data = b"".join(b"%d " % next(numbers) for _ in range(rng.randrange(1, 4)))
            sent.append(data)
            pair[1].send(data)

        moves: list[Callable[[], object]] = [
            send,
            lambda: sleep(0),
            lambda: sleep(0.000_1),
            lambda: hub.io.poll(0),
        ]
        for _ in range(300):
            timeout = rng.choice([None, None, 0.0, 0.000_1])
            task = spawn(attempt, rng.choice(READS), timeout)
            for _ in range(rng.randrange(5)):
                rng.choice(moves)()
            task.kill()
        pair[1].close()
        got.append(self.read_all(hub, pair[0], 1000))
        assert b"".join(got) == b"".join(sent)

    @pytest.mark.parametrize("polled", [False, True], ids=["unseen", "seen"])
    def test_killed_accept_leaves_the_connection(self, hub: Hub, polled: bool) -> None:
        accepted = []
        with socket.create_server(("127.0.0.1", 0)) as listener:
            task = spawn(lambda: accepted.append(hub.io.accept(listener, None)[0]))
            until_parked(task)
            with socket.create_connection(listener.getsockname()):
                if polled:
                    hub.io.poll(0)
                task.kill()
                if not accepted:
                    accepted.append(hub.io.accept(listener, PATIENCE_SECONDS)[0])
                os.close(*accepted)

    @pytest.mark.parametrize("seed", range(2))
    def test_accepts_that_are_killed_or_time_out_at_any_moment_lose_no_connection(self, hub: Hub, seed: int) -> None:
        rng = random.Random(seed)  # noqa: S311 - see above
        connected, accepted = [], []
        with socket.create_server(("127.0.0.1", 0), backlog=200) as listener, ExitStack() as stack:

            def accept(timeout: float | None) -> None:
                try:
                    fd, address = hub.io.accept(listener, timeout)
                except TimeoutError:
                    return
                accepted.append(address)
                os.close(fd)

            def connect() -> None:
                client = stack.enter_context(socket.create_connection(listener.getsockname()))
                connected.append(client.getsockname())

            moves: list[Callable[[], object]] = [connect, lambda: sleep(0), lambda: sleep(0.000_1)]
            for _ in range(100):
                task = spawn(accept, rng.choice([None, 0.0, 0.000_1]))
                for _ in range(rng.randrange(4)):
                    rng.choice(moves)()
                task.kill()
            while len(accepted) < len(connected):
                accept(PATIENCE_SECONDS / 2)
        assert accepted == connected

    def test_killed_sendall_has_sent_a_beginning_and_sends_nothing_more(self, hub: Hub, pair: Pair) -> None:
        data = os.urandom(2_000_000)
        sender = spawn(hub.io.sendall, pair[0], data, 0, None)
        until_parked(sender)
        sender.kill()
        reader = spawn(self.read_all, hub, pair[1], 65536)
        turns()
        hub.io.sendall(pair[0], b"END", 0, None)
        pair[0].shutdown(socket.SHUT_WR)
        received = reader.get()
        assert received.endswith(b"END")
        assert data.startswith(received[:-3])
        assert len(received) < len(data)

    def test_killed_connect_lets_go_of_its_socket(self, hub: Hub) -> None:
        with self.full_listener() as address:
            client = socket.socket()
            task = spawn(hub.io.connect, client, address, None)
            until_parked(task)
            task.kill()
            assert os.get_blocking(client.fileno())
            hub.io.forget(client.fileno())
            client.close()
            turns()
            assert not hub.io.waits()

    def test_connect_ex_raises_what_it_is_killed_with(self, hub: Hub) -> None:
        with self.full_listener() as address, socket.socket() as client:
            task = spawn(hub.io.connect_ex, client, address, None)
            until_parked(task)
            task.kill(ConnectionResetError(errno.ECONNRESET, "mine"), block=False)
            with pytest.raises(ConnectionResetError, match="mine"):
                task.get()
            hub.io.forget(client.fileno())

    def test_killed_wait_leaves_nothing_behind(self, hub: Hub) -> None:
        with self.pipe() as (reading, writing):
            for direction in (READ, READ | WRITE):
                task = spawn(hub.io.wait, reading, direction)
                until_parked(task)
                task.kill()
                assert not hub.io.waits()
            os.write(writing, b"x")
            polls = hub.polls
            sleep(5 * SOON_SECONDS)
            assert hub.polls - polls < 10
            assert hub.io.wait(reading, READ, clock.monotonic() + PATIENCE_SECONDS)

    @pytest.mark.parametrize("operation", ["recv", "recv_into", "recvfrom", "send", "sendall", "wait_socket", "wait"])
    @pytest.mark.parametrize("error", [TimeoutError, PermissionError, BlockingIOError, ConnectionResetError])
    def test_kill_with_an_error_that_a_socket_might_raise(
        self, hub: Hub, pair: Pair, operation: str, error: type[OSError]
    ) -> None:
        """It comes out as it is, and is not taken for the socket's own."""
        operations: dict[str, Callable[[], object]] = {
            "recv": lambda: hub.io.recv(pair[0], 10, 0, None),
            "recv_into": lambda: hub.io.recv_into(pair[0], bytearray(10), 0, 0, None),
            "recvfrom": lambda: hub.io.call(pair[0], READ, "recvfrom", (10, socket.MSG_DONTWAIT), None),
            "send": lambda: hub.io.send(pair[0], bytes(2_000_000), 0, None),
            "sendall": lambda: hub.io.sendall(pair[0], bytes(2_000_000), 0, None),
            "wait_socket": lambda: hub.io.wait_socket(pair[0], READ),
            "wait": lambda: hub.io.wait(pair[0].fileno(), READ),
        }
        thrown = error("thrown in")
        task = spawn(operations[operation])
        until_parked(task)
        task.kill(thrown, block=False)
        with pytest.raises(OSError) as caught:
            task.get()
        assert caught.value is thrown

    @pytest.mark.skipif(not hasattr(socket, "MSG_WAITALL"), reason="this system has no MSG_WAITALL")
    def test_read_of_all_that_an_error_of_the_users_cuts_short(self, hub: Hub, pair: Pair) -> None:
        """It returns what it has, and the error is not lost with it."""
        got = []

        def read_all() -> None:
            got.append(hub.io.recv(pair[0], 10, socket.MSG_WAITALL, None))
            sleep(PATIENCE_SECONDS)

        thrown = ConnectionResetError("thrown in")
        task = spawn(read_all)
        until_parked(task)
        pair[1].send(b"abc")
        turns(3)
        task.kill(thrown, block=False)
        with pytest.raises(ConnectionResetError) as caught:
            task.get()
        assert caught.value is thrown
        if not got:  # nothing was taken from the socket
            got.append(hub.io.recv(pair[0], 10, 0, PATIENCE_SECONDS))
        assert got == [b"abc"]

    # -- closed while somebody waits ---------------------------------------------------------------------------

    @pytest.mark.parametrize("operation", ["recv_into", "sendall", "wait_socket", "connect", "peek"])
    def test_forget_shows_any_waiter_a_bad_descriptor(self, hub: Hub, pair: Pair, operation: str) -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as stack:
            for _ in range(3):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(listener.getsockname())
            fill(pair[0])
            sock = stack.enter_context(socket.socket()) if operation == "connect" else pair[0]
            operations: dict[str, Callable[[], object]] = {
                "recv_into": lambda: hub.io.recv_into(sock, bytearray(10), 0, 0, None),
                "sendall": lambda: hub.io.sendall(sock, b"x", 0, None),
                "wait_socket": lambda: hub.io.wait_socket(sock, READ),
                "connect": lambda: hub.io.connect(sock, listener.getsockname(), None),
                "peek": lambda: hub.io.recv(sock, 10, socket.MSG_PEEK, None),
            }
            task = spawn(operations[operation])
            until_parked(task)
            hub.io.forget(sock.fileno())
            sock.close()
            with pytest.raises(OSError) as caught:
                task.get()
            assert caught.value.errno == errno.EBADF

    def test_forget_wakes_all_who_wait_and_the_killed_one_too(self, hub: Hub, pair: Pair) -> None:
        fill(pair[0])
        tasks: list[Task[Any]] = [spawn(hub.io.recv, pair[0], 10, 0, None) for _ in range(3)]
        tasks += [spawn(hub.io.sendall, pair[0], b"x", 0, None) for _ in range(3)]
        until_parked(*tasks)
        tasks[0].kill(block=False)
        hub.io.forget(pair[0].fileno())
        pair[0].close()
        joinall(tasks)
        assert not hub.io.waits()
        for task in tasks[1:]:
            with pytest.raises(OSError) as caught:
                task.get()
            assert caught.value.errno == errno.EBADF

    def test_data_that_came_before_the_close_of_the_peer_is_read_first(self, hub: Hub, tcp: Pair) -> None:
        task = spawn(hub.io.recv, tcp[0], 10, 0, None)
        until_parked(task)
        tcp[1].send(b"abc")
        tcp[1].close()
        hub.io.poll(0)
        task.kill()
        got = task.get() if isinstance(task.value, bytes) else b""
        assert got + self.read_all(hub, tcp[0], 2) == b"abc"

    # -- wake --------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("somebody_waits", [False, True])
    def test_wake_ends_a_poll_from_any_thread(self, hub: Hub, pair: Pair, somebody_waits: bool) -> None:
        if somebody_waits:
            until_parked(spawn(hub.io.recv, pair[0], 10, 0, None))
        turn = threading.Semaphore(0)

        def wake() -> None:
            for _ in range(50):
                turn.acquire()
                hub.io.wake()

        threads = [threading.Thread(target=wake) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(100):
                turn.release()
                hub.io.poll(None)
        finally:
            turn.release(100)
            for thread in threads:
                thread.join()

    @pytest.mark.parametrize("somebody_waits", [False, True])
    def test_wake_ends_a_poll_from_a_signal_handler(self, hub: Hub, pair: Pair, somebody_waits: bool) -> None:
        if somebody_waits:
            until_parked(spawn(hub.io.recv, pair[0], 10, 0, None))
        before = signal.signal(signal.SIGALRM, lambda *_: hub.io.wake())
        try:
            signal.setitimer(signal.ITIMER_REAL, SOON_SECONDS)
            hub.io.poll(None)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    # -- fork --------------------------------------------------------------------------------------------------

    def in_child(self, hub: Hub, body: Callable[[], None]) -> None:
        """Run *body* in a forked child, which must end well, while this process's tasks go on."""
        with self.pipe() as (reading, writing):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and later: of threads, such as pytest's
                pid = os.fork()
            if pid == 0:
                try:
                    body()
                    close_hub()
                    os.write(writing, b"done")
                except BaseException as error:  # whatever it is, the child must not go on with the tests
                    os.write(writing, repr(error).encode()[:1000])
                finally:
                    os._exit(0)
            try:
                assert hub.io.wait(reading, READ, clock.monotonic() + PATIENCE_SECONDS / 2), "the child hangs"
            except BaseException:
                os.kill(pid, signal.SIGKILL)
                raise
            finally:
                os.waitpid(pid, 0)
            assert os.read(reading, 1000) == b"done"

    def test_forked_child_waits_by_itself_and_leaves_the_parents_waits_alone(self, hub: Hub, pair: Pair) -> None:
        sockets = socket.socketpair()
        task = spawn(hub.io.recv, pair[0], 10, 0, None)
        until_parked(task)

        def body() -> None:
            own = get_hub()
            assert type(own.io) is self.model
            assert own is not hub
            reader = spawn(own.io.recv, sockets[0], 10, 0, None)
            until_parked(reader)
            sockets[1].send(b"child")
            assert reader.get() == b"child"
            with pytest.raises(TimeoutError):
                own.io.recv(pair[0], 10, 0, SOON_SECONDS)  # the parent's, too
            for sock in (*pair, *sockets):
                own.io.forget(sock.fileno())
                sock.close()

        with sockets[0], sockets[1]:
            self.in_child(hub, body)
        assert not task.ready()
        pair[1].send(b"abc")
        assert task.get() == b"abc"
        task = spawn(hub.io.recv, pair[0], 10, 0, None)
        until_parked(task)
        pair[1].send(b"d")
        assert task.get() == b"d"

    def test_what_comes_while_a_child_runs_is_the_parents(self, hub: Hub, pair: Pair) -> None:
        task = spawn(hub.io.recv, pair[0], 10, 0, None)
        until_parked(task)

        def body() -> None:
            pair[1].send(b"from the child"[:10])
            hub.io.wake()  # the parent's, which is closed here

        self.in_child(hub, body)
        assert task.get() == b"from the c"
