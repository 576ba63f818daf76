"""The names of buffers in `io`, for those who make them by hand: gzip, bz2, lzma, subprocess, and users.

A buffer of C is locked by its thread while the file below waits, and a second task of the thread gets RuntimeError. So
what is made under these names over anything that may wait is a class of ours, in which tasks queue. Over what never
does (the standard streams, memory, a native FileIO) it is the native class, and never switches either. It is that, too,
over a socket: the lines of HTTP would each pay for the queue, and that file belongs to one task.

`isinstance` and `issubclass` say what they say of the native class, whoever has made the object, and when.
"""

import io
from abc import ABCMeta
from socket import SocketIO
from typing import Any

__all__ = ["NameInIo", "below", "may_wait"]

_NATIVE_BUFFERS = frozenset({io.BufferedReader, io.BufferedWriter, io.BufferedRandom})
_NATIVE = frozenset({io.BytesIO, io.FileIO, io.BufferedRWPair, SocketIO})


def may_wait(stream: Any) -> bool:
    """Whether tasks have to queue for what lies on *stream*."""
    while type(stream) in _NATIVE_BUFFERS:
        stream = stream.raw
    return type(stream) not in _NATIVE


def below(*args: Any, raw: Any = None, buffer: Any = None, **_: Any) -> Any:
    """What an object made with these arguments lies on: the first one, which has two names."""
    return args[0] if args else raw if buffer is None else buffer


class NameInIo(ABCMeta):
    """What takes the place of a class of `io`, which stands in its body as `_native`.

    A metaclass that is ABCMeta as well, so that a class may inherit from one of these and from an ABC.
    """

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        native = cls.__dict__.get("_native")
        if native is not None and not may_wait(below(*args, **kwargs)):
            return native(*args, **kwargs)
        return super().__call__(*args, **kwargs)

    def __instancecheck__(cls, instance: Any) -> bool:
        native = cls.__dict__.get("_native")
        return super().__instancecheck__(instance) if native is None else isinstance(instance, native)

    def __subclasscheck__(cls, subclass: type) -> bool:
        native = cls.__dict__.get("_native")
        return super().__subclasscheck__(subclass) if native is None else issubclass(subclass, native)
