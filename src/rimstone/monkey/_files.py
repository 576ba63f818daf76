"""open: files whose reads and writes let the other tasks run. Read `_descriptors.py` first.

What `open` returns are subclasses of io.FileIO, BufferedReader and so on. The raw one does the waiting. C calls it from
within a buffered read, so a task may be parked there, and no second task of the thread may come in: a `Buffered...` of
C is locked by its thread, and raises RuntimeError ("reentrant call"); a `TextIOWrapper` has no lock, and would read on
where the first task is about to put its characters. So tasks queue outside; `_turns.py` says how. A thread that runs no
tasks is not parked inside, and the locks of C are made for threads.

A signal handler or a finalizer that must not wait where it struck (see `hub_that_waits`) blocks, as without patching;
and if a task of this thread waits in the file just then, it gets the RuntimeError that C has for it.

`sys.stdin`, `stdout` and `stderr` exist before `open` is patched and stay as they are: `print` never switches, its
lines stay whole, and nothing that is printed from the midst of the scheduler can wait. So do files opened earlier, and
`io.FileIO`, which is not patched. Buffers and texts that others make by hand are ours where it matters; see
`_io_names.py`. What remains: a buffer whose class was imported by name before patching, and `io.BufferedRWPair`. Over a
raw file of ours they let siblings run, but two tasks must not meet in one.
"""

import builtins
import io
import os
import stat
import sys
import warnings
from collections.abc import Callable
from functools import lru_cache, partial, wraps
from typing import Any

from rimstone.hub.files import AT_ONCE_BYTES, call_file, hub_that_waits, raise_interrupt, read_bytes, write_file
from rimstone.hub.offload import forget_jobs
from rimstone.hub.scheduler import here
from rimstone.monkey._arguments import or_refuse, whole_number
from rimstone.monkey._builtin import Builtin
from rimstone.monkey._descriptors import is_on_disk, length_to_read, read_into, write_stream
from rimstone.monkey._io_names import NameInIo, below, may_wait
from rimstone.monkey._turns import Turns

__all__ = ["BufferedRandom", "BufferedReader", "BufferedWriter", "FileIO", "TextIOWrapper", "patch"]

_native_open = io.open
_CALLER = 4  # of `open`, for warnings: above `_open`, `or_refuse` and the object that calls it
_CHUNK_BYTES = 64 * 1024  # of a pipe that is read to its end


class FileIO(io.FileIO):
    """The raw file."""

    _finalizing: bool  # set by C, when nobody has closed it
    _on_disk: bool | None = None
    # Those of the buffers over it: one to read and one to write, or one for both. A raw file alone needs none, for the
    # kernel keeps tasks apart.
    _read_turns: Turns | None = None
    _write_turns: Turns | None = None
    _write_natively = io.FileIO.write  # not `super()`: at the very end there is not even that

    # The defaults are no arguments: a file that nobody closes is closed when the interpreter has cleared this module.
    def _hub(self, _hub: Any = here.get, _ending: Any = sys.is_finalizing) -> Any:
        """The hub that does the waiting; None where the original must act, or complain."""
        return None if _hub() is None or _ending() else hub_that_waits()

    def _operate(self, turns: Turns | None, hub: Any, operation: Any, otherwise: Any, *args: Any) -> Any:
        """`operation(hub, *args)`; None if it is non-blocking and would block. `otherwise()` if it is not our turn."""
        if self._on_disk is None:
            self._on_disk = is_on_disk(self.fileno())
        before = hub.root.pending
        try:
            if turns is not None:
                return turns.operate(hub.current, operation, otherwise, hub, *args)
            result = operation(hub, *args)
        except BlockingIOError:
            result = None
        raise_interrupt(hub, before)  # under a buffer it is the buffer's turn that ends so
        return result

    def readinto(self, buffer: Any) -> Any:
        hub = self._hub()
        native = super().readinto
        if hub is None or self.closed or not self.readable():
            return native(buffer)
        with memoryview(buffer) as view:
            if view.readonly or not view.c_contiguous or not view.nbytes:
                return native(buffer)
            with view.cast("B") as octets:
                return self._operate(self._read_turns, hub, self._read_into, partial(native, buffer), octets)

    def _read_into(self, hub: Any, octets: memoryview) -> int:
        return read_into(hub, self.fileno(), octets, self._on_disk)

    def read(self, size: int | None = -1, /) -> Any:
        hub = self._hub()
        native = super().read
        if hub is None or self.closed or not self.readable():
            return native(size)
        if size is None or (isinstance(size, int) and size < 0):
            return self.readall()
        length = whole_number(size)
        if length <= 0:
            return native(size)
        fd = self.fileno()
        copied = length_to_read(fd, length, self._on_disk)
        if not copied:
            native_read = partial(native, length)
            return self._operate(self._read_turns, hub, read_bytes, native_read, fd, length, -1, native, length)
        buffer = bytearray(copied)
        count = self.readinto(buffer)
        return None if count is None else bytes(memoryview(buffer)[:count])

    def readall(self) -> Any:
        hub = self._hub()
        native = super().readall
        if hub is None or self.closed or not self.readable():
            return native()
        return self._operate(self._read_turns, hub, self._read_all, native, native)

    def _read_all(self, hub: Any, native: Any) -> bytes | None:
        return self._read_file(hub, native) if self._on_disk else self._read_to_end(hub)

    def _read_file(self, hub: Any, native: Any) -> bytes:
        fd = self.fileno()
        status = os.fstat(fd)
        left = status.st_size - os.lseek(fd, 0, os.SEEK_CUR) if stat.S_ISREG(status.st_mode) else 0
        if left <= 0 or (left > AT_ONCE_BYTES and not hub.io.completes_files):
            return call_file(hub, native)  # type: ignore[no-any-return]  # also what does not know its size, as in /proc
        if left > AT_ONCE_BYTES:
            data = read_bytes(hub, fd, left, -1, native)
        else:
            buffer = bytearray(left)
            with memoryview(buffer) as view:
                data = bytes(view[: read_into(hub, fd, view, True)])
        # It may have grown meanwhile; else this finds the end without a wait.
        while more := self.read(AT_ONCE_BYTES):
            data += more
        return data

    def _read_to_end(self, hub: Any) -> bytes | None:
        pieces: list[bytes] = []
        buffer = bytearray(_CHUNK_BYTES)
        with memoryview(buffer) as view:
            while True:
                try:
                    count = read_into(hub, self.fileno(), view, False)
                except BlockingIOError:
                    return b"".join(pieces) if pieces else None
                if not count:
                    return b"".join(pieces)
                pieces.append(bytes(view[:count]))

    def write(self, data: Any, /) -> Any:
        hub = self._hub()
        if hub is None or self.closed or not self.writable():
            return self._write_natively(data)
        try:
            view = memoryview(data)
        except TypeError:
            return self._write_natively(data)
        with view:
            if not view.c_contiguous or not view.nbytes:
                return self._write_natively(data)
            with view.cast("B") as octets:
                write = partial(self._write_natively, data)
                return self._operate(self._write_turns, hub, self._write, write, octets)

    def _write(self, hub: Any, octets: memoryview) -> int:
        finalizing = self._write_turns is not None and self._write_turns.finalizing
        if finalizing and hub.budget <= 0:
            hub.budget = 1  # no turn is given away: what is raised in that would be lost
        if self._on_disk:
            return write_file(hub, self.fileno(), octets)
        return write_stream(hub, self.fileno(), octets, raising_is_lost=finalizing)

    def truncate(self, size: int | None = None, /) -> int:
        hub = self._hub()
        native = super().truncate
        if hub is None or self.closed or not self.writable():
            return native(size)
        return self._operate(self._write_turns, hub, call_file, partial(native, size), native, size)  # type: ignore[no-any-return]

    def close(
        self,
        _hub: Any = here.get,
        _ending: Any = sys.is_finalizing,
        _close: Any = io.FileIO.close,
        _forget_jobs: Any = forget_jobs,
    ) -> None:
        if not _ending():
            if self._finalizing:
                self._finalizing = False
                self._dealloc_warn(self)
            hub = _hub()
            if hub is not None and not self.closed and self.closefd:
                fd = self.fileno()
                if not self._on_disk:
                    hub.io.forget(fd)  # a task that reads it must not go on with the number's next owner
                _forget_jobs(fd)
        _close(self)

    def _dealloc_warn(self, source: Any) -> None:
        """Warn that *source*, which lies on this file, was not closed: as C does, but our own frames do not count."""
        if self.closed or not self.closefd:
            return
        level = 1
        while sys._getframe(level - 1).f_code.co_filename == __file__:
            level += 1
        try:
            warnings.warn(f"unclosed file {source!r}", ResourceWarning, stacklevel=level, source=source)
        except Warning:  # -W error: C says so in its way, since nothing can be raised here
            super()._dealloc_warn(source)  # type: ignore[misc]

    def __repr__(self) -> str:
        return _as_native(self, super().__repr__())

    def __reduce_ex__(self, protocol: Any, /) -> Any:
        return _reduce(self, super().__reduce_ex__, protocol)


def _is_ours(file: Any) -> bool:
    """False for a user's subclass, which speaks of itself."""
    return type(file) is FileIO or "_native" in type(file).__dict__


def _as_native(file: Any, text: str) -> str:
    """A file's own repr, with the name of the class that people know."""
    return f"<_io.{text[1:]}" if _is_ours(file) and not text.startswith("<_io.") else text


def _reduce(file: Any, native: Any, protocol: Any) -> Any:
    if _is_ours(file):
        raise TypeError(f"cannot pickle '_io.{type(file).__name__}' object")
    return native(protocol)


class _Queued:
    """What files with a buffer have in common: one task at a time."""

    _reads = _writes = True
    _turns: Any = None
    _taken: Any = bool  # False, as long as there are no turns

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        stream = below(*args, **kwargs)
        if may_wait(stream):  # else it is a user's subclass over what is native: it stays as it is
            turns = None
            if isinstance(stream, FileIO):  # perhaps another buffer reads it, and this one writes: each for itself
                turns = (self._reads and stream._read_turns) or (self._writes and stream._write_turns)
            elif isinstance(stream, _Queued):
                turns = stream._turns
            self._turns = turns or Turns()
            self._taken = self._turns.taken
        super().__init__(*args, **kwargs)
        if isinstance(stream, FileIO):
            self._lend(stream, self._turns)

    def detach(self) -> Any:
        stream: Any = super().detach()  # type: ignore[misc]
        if isinstance(stream, FileIO):
            self._lend(stream, None)
        return stream

    def _lend(self, raw: FileIO, turns: Turns | None) -> None:
        if self._reads:
            raw._read_turns = turns
        if self._writes:
            raw._write_turns = turns

    def __repr__(self) -> str:
        return _as_native(self, super().__repr__())

    def __reduce_ex__(self, protocol: Any, /) -> Any:
        return _reduce(self, super().__reduce_ex__, protocol)


def _queued(original: Any) -> Any:
    """*original*, a method of C, for one task at a time, for the whole of the call.

    A call may make several raw operations that wait, and no other task may come in between. In a thread without tasks
    that costs a look, which is paid for each line.
    """

    @wraps(original)
    def method(
        self: Any,
        *args: Any,
        _hub: Any = here.get,
        _ending: Any = sys.is_finalizing,  # finalizers run when the names of this module are gone
        _waits: Any = hub_that_waits,
    ) -> Any:
        ending = _ending()  # then nobody leaves any more
        hub = None if _hub() is None or ending else _waits()
        if hub is not None or (self._taken() and not ending):
            turns = self._turns
            if turns is not None:
                return turns.call(hub, self, original, args)
        return original(self, *args)

    return method


def _closing(original: Any) -> Any:
    """The same for `close`, which queues only if somebody is inside.

    It is what a finalizer calls, of a file that nobody else has, and whose warning is about the line that dropped it.
    """

    @wraps(original)
    def close(self: Any, _hub: Any = here.get, _ending: Any = sys.is_finalizing, _waits: Any = hub_that_waits) -> None:
        turns = self._turns
        if turns is None:  # it has not even come to `__init__`, or it needs none
            original(self)
            return
        if self._finalizing:
            turns.finalizing = True
        ending = _ending()
        hub = None if _hub() is None or ending else _waits()
        if turns.taken() and not ending:
            turns.call(hub, self, original, ())
            return
        before = None if hub is None else hub.root.pending
        original(self)
        if not turns.finalizing and hub is not None:
            raise_interrupt(hub, before)

    return close


def _queue_for(*names: str) -> Callable[[type], type]:
    """Class decorator: tasks queue for the methods *names*, which the class inherits from C."""

    def decorate(cls: type) -> type:
        for name in names:
            setattr(cls, name, (_closing if name == "close" else _queued)(getattr(cls, name)))
        return cls

    return decorate


_READING = ("read", "read1", "readinto", "readinto1", "readline", "peek")
_WRITING = ("write", "flush")
_BOTH = ("seek", "tell", "truncate", "close", "detach")


@_queue_for(*_READING, "flush", *_BOTH)
class BufferedReader(_Queued, io.BufferedReader, metaclass=NameInIo):
    """A file that is read in pieces of its buffer's size."""

    _writes = False
    __module__ = "io"
    _native = io.BufferedReader


@_queue_for(*_WRITING, *_BOTH)
class BufferedWriter(_Queued, io.BufferedWriter, metaclass=NameInIo):
    """A file that is written in such pieces."""

    _reads = False
    __module__ = "io"
    _native = io.BufferedWriter


@_queue_for(*_READING, *_WRITING, *_BOTH)
class BufferedRandom(_Queued, io.BufferedRandom, metaclass=NameInIo):
    """A file that is read and written."""

    __module__ = "io"
    _native = io.BufferedRandom


@_queue_for("read", "readline", *_WRITING, *_BOTH)
class TextIOWrapper(_Queued, io.TextIOWrapper, metaclass=NameInIo):
    """A text file over one of these."""

    __module__ = "io"
    _native = io.TextIOWrapper

    def reconfigure(self, **changes: Any) -> None:
        native = super().reconfigure
        if self._taken():
            self._turns.call(hub_that_waits(), self, lambda _: native(**changes), ())
        else:
            native(**changes)


# What `open` makes of a mode, `b` and `t` left out; the raw file's mode is the same.
_BUFFERED: dict[str, Any] = {"r": BufferedReader, "w": BufferedWriter, "x": BufferedWriter, "a": BufferedWriter}


@lru_cache(maxsize=64)
def _layers(mode: str) -> tuple[str, bool] | None:
    """The raw file's mode, and whether there is text on top; None if `open` refuses *mode*."""
    if len(mode) != len(set(mode)) or set(mode) - set("rwxabt+"):
        return None
    kind = set(mode) & set("rwxa")
    if len(kind) != 1 or {"b", "t"} <= set(mode):
        return None
    return kind.pop() + ("+" if "+" in mode else ""), "b" not in mode


def _open(
    file: Any,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Any = None,
) -> Any:
    layers = _layers(mode) if isinstance(mode, str) else None
    is_text = layers is not None and layers[1]
    of_text = [argument for argument in (encoding, errors, newline) if argument is not None]
    if (
        layers is None
        or not isinstance(buffering, int)
        or (buffering == 0 and is_text)
        or (of_text and not is_text)
        or not all(isinstance(argument, str) for argument in of_text)
    ):
        # The original says what is wrong.
        return _native_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
    raw_mode = layers[0]
    if buffering == 1 and not is_text:
        warnings.warn(
            "line buffering (buffering=1) isn't supported in binary mode, the default buffer size will be used",
            RuntimeWarning,
            stacklevel=_CALLER,
        )
    opened: Any = FileIO(file, raw_mode, closefd, opener)
    try:
        line_buffering = is_text and (buffering == 1 or (buffering < 0 and opened.isatty()))
        if buffering == 0:
            return opened
        size = buffering if buffering > 1 else opened._blksize
        opened = (BufferedRandom if "+" in raw_mode else _BUFFERED[raw_mode])(opened, size)
        if is_text:
            if sys.flags.warn_default_encoding:
                encoding = io.text_encoding(encoding, _CALLER)
            opened = TextIOWrapper(opened, encoding, errors, newline, line_buffering)
            opened.mode = mode
    except BaseException:
        opened.close()
        raise
    return opened


def patch() -> None:
    builtins.open = io.open = Builtin("io", _native_open, or_refuse(_open, _native_open), everywhere=True)
    for name in ("BufferedReader", "BufferedWriter", "BufferedRandom", "TextIOWrapper"):
        setattr(io, name, globals()[name])
