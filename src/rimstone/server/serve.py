"""serve: a StreamServer as the whole of a program, until a signal ends it."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from rimstone.server.address import Address
from rimstone.server.service import Handler
from rimstone.server.stream import STOP_SECONDS, StreamServer

__all__ = ["serve"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def serve(
    address: Address,
    handler: Handler,
    *,
    stop_timeout: float | None = STOP_SECONDS,
    on_start: Callable[[StreamServer], object] | None = None,
    **options: Any,
) -> signal.Signals | None:
    """Serve until SIGTERM or SIGINT (Ctrl-C), then stop gracefully; at a second one, at once.

    Args:
        address: See `StreamServer`; so are *handler* and *options*.
        handler: Called with (socket, address of the peer).
        stop_timeout: Seconds that handlers have to finish, see `StreamServer.stop`.
        on_start: Called with the server when it accepts connections.
        options: `io_model`, `processes`, `threads`, `backlog`, `max_connections`.
    Returns:
        The first signal; None if *on_start* or a handler stopped the server.
    Raises:
        RuntimeError: called outside of the main thread, where signals cannot be handled.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "serve() handles signals, which only the main thread can; elsewhere use StreamServer(...).serve_forever()"
        )
    server = StreamServer(address, handler, **options)
    received: list[signal.Signals] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        received.append(signal.Signals(number))
        server.stop(stop_timeout if len(received) == 1 else 0, wait=False)

    with _handling(stop):
        try:
            try:
                server.start()
            except RuntimeError:
                if not received:  # a signal that came before the start has closed the server
                    raise
            if not received and on_start is not None:
                on_start(server)
            server.serve_forever()
        finally:
            server.stop(0)
    return received[0] if received else None


@contextlib.contextmanager
def _handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Signals that were ignored (nohup, `&` in a script) stay ignored, but for SIGTERM."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    taken = [number for number in _SIGNALS if number == signal.SIGTERM or before[number] is not signal.SIG_IGN]
    for number in taken:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number] or signal.SIG_DFL)
