"""The wire between a pool and one worker process: whole messages over a SOCK_SEQPACKET socketpair.

Why packets and not a stream: sending one is a single system call, so an interrupt between two bytecodes can leave
nothing half-written, and a reader gets a whole message or none. A message larger than `INLINE_BYTES` is written to an
anonymous memory file whose descriptor is passed instead: nothing is named, so nothing can be left behind.

A process may run out of descriptors while its calls hold them all. Each end therefore keeps one in reserve, which it
gives up for the moment in which a memory file needs it. A file is first received with MSG_PEEK, since a message that is
read while there is no descriptor free is lost: the kernel drops what it cannot install (unix(7), SCM_RIGHTS).

Everything here uses the original, unpatched sockets, and never waits unless the name says so.
"""

import array
import enum
import errno
import os
import pickle
import socket
from typing import Any

from rimstone._originals import RawSocket, os_pread, os_write, sleep, socketpair

__all__ = ["Channel", "ChannelClosed", "Kind", "channel_pair"]

INLINE_BYTES = 64 * 1024  # below the smallest send buffer a kernel gives (208 KiB by default)
_SEND_BUFFER_BYTES = 1024 * 1024
_FD_BYTES = array.array("i").itemsize
_IN_FILE = b"F"  # the message is in the file that comes along
_HERE = b"M"
# The kernel or this process is short of something that others will give back. Nothing tells when, so ask again.
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS})
_SHORTAGE_SECONDS = 0.01


class Kind(enum.IntEnum):
    """What a message is about. The first group goes to the worker, the second comes from it."""

    SETUP = 1  # Setup: everything a worker needs before its first call
    CALLS = 2  # (functions, forgotten ids, calls)
    STOP = 3  # finish what you have, then exit

    READY = 10  # limit: set up, initializer done
    BROKEN = 11  # error, pickled: the initializer raised
    REPORT = 12  # (limit, results, returned slots, learned)


class ChannelClosed(OSError):
    """The other side has closed its end."""


class Channel:
    """One end of the wire. One thread at a time may send, one may receive."""

    def __init__(self, sock: RawSocket) -> None:
        self._sock = sock
        self.fd = sock.fileno()
        self._reserve = -1
        self._refill_reserve()

    def try_send(self, kind: Kind, content: Any) -> bool:
        """Send without waiting; False when the other side has not made room yet.

        Raises:
            ChannelClosed: nobody is there to read it.
        """
        return self._send(kind, content, socket.MSG_DONTWAIT)

    def send(self, kind: Kind, content: Any) -> None:
        """Send, blocking the thread until there is room.

        Raises:
            ChannelClosed: nobody is there to read it.
        """
        while not self._send(kind, content, 0):
            pass  # short of something, and has paused

    def _send(self, kind: Kind, content: Any, flags: int) -> bool:
        message = bytes((kind,)) + pickle.dumps(content, pickle.HIGHEST_PROTOCOL)
        try:
            if len(message) <= INLINE_BYTES:
                self._sock.send(_HERE + message, flags)
            else:
                self._send_file(message, flags)
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionError) as error:
            raise ChannelClosed(error.errno, "the other side of the wire is closed") from error
        except OSError as error:
            if error.errno not in _SHORTAGES:
                raise
            sleep(_SHORTAGE_SECONDS)
            return False
        return True

    def _send_file(self, message: bytes, flags: int) -> None:
        self._release_reserve()
        try:
            file = _memory_file(message)
            try:
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file]).tobytes())
                self._sock.sendmsg([_IN_FILE], [rights], flags)
            finally:
                os.close(file)
        finally:
            self._refill_reserve()

    def receive(self, *, block: bool) -> tuple[Kind, Any] | None:
        """The next message; None when there is none now (only with `block=False`).

        Raises:
            ChannelClosed: the other side is closed and everything it sent has been read.
        """
        flags = 0 if block else socket.MSG_DONTWAIT
        while True:
            try:
                first = self._sock.recv(1, flags | socket.MSG_PEEK)
                data = self._sock.recv(INLINE_BYTES + 2, flags) if first == _HERE else b""
            except BlockingIOError:
                return None
            except ConnectionResetError:
                # It was closed before it had read all that we sent. The kernel says so once, and first; what the other
                # side had sent is still there.
                continue
            except ConnectionError as error:
                raise ChannelClosed(error.errno, "the other side of the wire is closed") from error
            if not first:
                raise ChannelClosed(0, "the other side of the wire is closed")
            message = memoryview(data)[1:] if data else self._receive_file()
            if message is not None:
                return Kind(message[0]), pickle.loads(message[1:])
            if not block:
                return None

    def _receive_file(self) -> memoryview | None:
        """The message in the file that comes next; None, after a pause, while no descriptor is free for it."""
        self._release_reserve()
        try:
            flags = socket.MSG_CMSG_CLOEXEC | socket.MSG_PEEK
            _, ancillary, _, _ = self._sock.recvmsg(1, socket.CMSG_SPACE(_FD_BYTES), flags)
            file = _passed_descriptor(ancillary)
            if file is None:
                sleep(_SHORTAGE_SECONDS)
                return None
            message = memoryview(_read_file(file))
            self._sock.recv(1)  # now it is ours; the kernel closes the file that it would have come with again
            return message
        finally:
            self._refill_reserve()

    def _release_reserve(self) -> None:
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1

    def _refill_reserve(self) -> None:
        try:
            self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._reserve = -1  # next time, then

    def close(self) -> None:
        """Close this end; the other one reads what is under way and then finds it closed. Idempotent."""
        self._release_reserve()
        self._sock.close()


def channel_pair() -> tuple[Channel, RawSocket]:
    """A channel for the pool, and the socket that its worker process is to inherit."""
    if not hasattr(socket, "SOCK_SEQPACKET"):
        raise OSError("worker processes need SOCK_SEQPACKET Unix sockets, which this system does not have (Linux does)")
    ours, theirs = socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    return Channel(ours), theirs


def _memory_file(content: bytes) -> int:
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("rimstone-message", os.MFD_CLOEXEC)
    else:
        import tempfile

        with tempfile.TemporaryFile() as unnamed:
            file = os.dup(unnamed.fileno())
    try:
        view = memoryview(content)
        while view:
            view = view[os_write(file, view) :]
    except BaseException:
        os.close(file)
        raise
    return file


def _passed_descriptor(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS and len(data) >= _FD_BYTES:
            return array.array("i", data[:_FD_BYTES])[0]
    return None


def _read_file(file: int) -> bytes:
    try:
        size = os.fstat(file).st_size
        parts = []
        offset = 0
        while offset < size:
            part = os_pread(file, size - offset, offset)
            if not part:
                break
            parts.append(part)
            offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)
    finally:
        os.close(file)
