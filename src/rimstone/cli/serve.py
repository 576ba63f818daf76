"""`rimstone serve`: a handler of the user's on a TCP or Unix socket, until Ctrl-C or SIGTERM."""

import inspect
import os
import signal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rimstone.cli.functions import load_object
from rimstone.cli.problem import FAILED, Problem
from rimstone.cli.tracebacks import print_users_traceback
from rimstone.errors import IOModelUnavailable, RimstoneError
from rimstone.machine import raise_descriptor_limit

if TYPE_CHECKING:
    from rimstone.server import StreamServer

__all__ = ["serve_command"]


def serve_command(
    handler: Annotated[str, typer.Argument(metavar="HANDLER", help="FILE.py:FUNCTION or MODULE:FUNCTION.")],
    bind: Annotated[
        str, typer.Option("--bind", "-b", metavar="ADDRESS", help="HOST:PORT, :PORT for all interfaces, or unix:PATH.")
    ] = "127.0.0.1:8000",
    processes: Annotated[
        int, typer.Option("--processes", min=1, metavar="N", help="Processes; they share the port.")
    ] = 1,
    threads: Annotated[
        int, typer.Option("--threads", min=1, metavar="N", help="Threads a process, each with a hub.")
    ] = 1,
    io_model: Annotated[
        str | None,
        typer.Option("--io-model", metavar="NAME", help="How to wait; see 'rimstone doctor'. Or: blocking."),
    ] = None,
    max_connections: Annotated[
        int | None,
        typer.Option("--max-connections", min=1, metavar="N", help="Most at once, in all; the rest waits."),
    ] = None,
    stop_timeout: Annotated[
        float, typer.Option("--stop-timeout", min=0, metavar="SECONDS", help="What handlers have to finish at a stop.")
    ] = 10.0,
) -> None:
    """Call a plain, blocking function with each connection: HANDLER(socket, address of the peer).

    \b
        def echo(sock, peer):
            while data := sock.recv(65536):
                sock.sendall(data)

    Blocking calls of the handler let the others go on. Its connection is closed when it returns.

    Ctrl-C and SIGTERM stop in steps: no new connections, handlers may finish, after --stop-timeout they are killed. A
    second one kills them at once, also one that computes, if there is one process with one thread. A third one ends
    the program, whatever its handlers do.

    Exit code: 0 after SIGTERM, 1 the server failed, 2 usage, or the address cannot be had, 130 Ctrl-C; after a third
    SIGTERM the program is killed by it.
    """  # noqa: D301  # that one is not for readers, but for typer: it leaves the lines as they are
    if processes == 1 and io_model != "blocking":
        from rimstone import monkey

        monkey.patch_all()  # before the handler's module is imported; worker processes do it themselves
    raise_descriptor_limit()  # a connection needs one; worker processes do it, too
    function = load_object(handler)
    _refuse_applications(function, handler)

    from rimstone.server import serve

    has_started = False

    def on_start(server: "StreamServer") -> None:
        nonlocal has_started
        has_started = True
        _announce(handler, processes, threads, io_model, server)

    try:
        ended_by = serve(
            bind,
            function,
            stop_timeout=stop_timeout,
            on_start=on_start,
            io_model=io_model,
            processes=processes,
            threads=threads,
            max_connections=max_connections,
        )
    except IOModelUnavailable as error:
        raise Problem(str(error).replace("io_model=", "--io-model ")) from None
    except RimstoneError as error:
        raise Problem(f"{handler} could not be served: {error}", FAILED) from None
    except Exception as error:
        if has_started and isinstance(error, OSError):
            raise Problem(f"{handler} is served no more: {error.strerror or error}", FAILED) from None
        if not has_started and isinstance(error, OSError | TypeError | ValueError):  # the address, the arguments
            raise Problem(getattr(error, "strerror", None) or str(error)) from None
        print_users_traceback(error)
        raise Problem(f"{handler} could not be served; its own error stands above", FAILED) from None
    if ended_by == signal.SIGINT:
        raise typer.Exit(130)


def _announce(handler: str, processes: int, threads: int, io_model: str | None, server: "StreamServer") -> None:
    from rimstone.iomodel import choose

    def count(number: int, noun: str) -> str:
        return f"{number} {noun}{'es' if noun.endswith('s') else 's'}" if number != 1 else f"1 {noun}"

    model = io_model or choose().name
    sizes = f"{model}, {count(processes, 'process')} x {count(threads, 'thread')}"
    typer.echo(f"rimstone: serving {handler} on {server.name} ({sizes}); Ctrl-C stops", err=True)


def _refuse_applications(function: Any, given: str) -> None:
    """Web applications are called with something else than a socket: say where they belong.

    Raises:
        Problem: it is one.
    """
    kind = _kind_of_application(function)
    if kind is None:
        return
    target, _, attribute = given.rpartition(":")
    module = os.path.basename(target).removesuffix(".py") if target.endswith(".py") else target
    server = {"WSGI": "gunicorn", "ASGI": "uvicorn"}[kind]
    raise Problem(
        f"{given} is {'a' if kind == 'WSGI' else 'an'} {kind} application, which needs an HTTP server; "
        f"rimstone serve calls a function of (socket, peer) with plain connections. Run it with: "
        f"{server} {module}:{attribute}"
    )


def _kind_of_application(function: Any) -> str | None:
    """WSGI (PEP 3333) or ASGI, by the names that the two give to their arguments; None for anything else."""
    if not callable(function):
        return None
    called = function if inspect.isroutine(function) else getattr(type(function), "__call__", None)  # noqa: B004 - of the class: the function itself, to look at
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        names = []
    if names[:3] == ["scope", "receive", "send"] or (inspect.iscoroutinefunction(called) and len(names) == 3):
        return "ASGI"
    if names[1:2] == ["start_response"] or names[:1] == ["environ"] or hasattr(function, "wsgi_app"):
        return "WSGI"
    return None
