"""serve: a StreamServer as the whole of a program, until a signal ends it."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from rimstone.server.address import Address
from rimstone.server.service import Handler
from rimstone.server.stream import STOP_SECONDS, StreamServer, checked_timeout

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
    """Serve until SIGTERM or SIGINT (Ctrl-C), then stop gracefully; a second one and a third one hurry it.

    1. The first: no more connections are accepted, handlers may finish, and are killed after *stop_timeout*.
    2. The second: they are killed at once. One that computes and never waits is killed too if it runs in the main
       thread, that is, with one process and one thread: TaskExit is raised where it computes.
    3. The third does what that signal did before `serve`: SIGTERM ends the process, SIGINT raises KeyboardInterrupt
       here, and no handler is waited for any more. (SIGTERM that was ignored before ends it, too.)

    In a child that a handler forks they do what they did before `serve`.

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
    stop_timeout = checked_timeout("stop_timeout", stop_timeout)
    server = StreamServer(address, handler, **options)
    received: list[signal.Signals] = []
    before: dict[signal.Signals, Any] = {}
    pid = os.getpid()

    def stop(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != pid:  # a child that a handler has forked, and its parent wants to end it
            _do_as_before(number, before)
            return
        received.append(signal.Signals(number))
        if len(received) == 1:
            server.stop(stop_timeout, wait=False)
        elif len(received) == 2:
            server.stop(0, wait=False)
            server._end_interrupted()
        else:
            server._give_up()
            _do_as_before(number, before)

    before.update(_signals_to_handle())
    try:
        for number in before:
            signal.signal(number, stop)
        try:
            server.start()
        except RuntimeError:
            if not received:  # a signal that came before the start has closed the server
                raise
        if not received and on_start is not None:
            on_start(server)
        server.serve_forever()
    finally:
        try:
            server._end()
        finally:
            _put_back(before)
    return received[0] if received else None


def _signals_to_handle() -> dict[signal.Signals, Any]:
    """Both, and how they are handled now. One that is ignored (nohup, `&` in a script) stays so, but for SIGTERM."""
    now = {number: signal.getsignal(number) for number in _SIGNALS}
    return {
        number: handler for number, handler in now.items() if number == signal.SIGTERM or handler is not signal.SIG_IGN
    }


def _do_as_before(number: int, before: dict[signal.Signals, Any]) -> None:
    """What this signal did before `serve`. One that it did not ignore, other than that, ends the process."""
    _put_back(before)
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


def _put_back(before: dict[signal.Signals, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler or signal.SIG_DFL)
