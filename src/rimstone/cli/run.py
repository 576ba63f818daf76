"""`rimstone run`: a script, as `python SCRIPT` would run it, in a process that is patched first."""

import builtins
import importlib.util
import os
import runpy
import sys
from types import ModuleType
from typing import Annotated, Any

import typer

from rimstone.cli.problem import FAILED, Problem, reason
from rimstone.cli.tracebacks import print_users_traceback, users_traceback

__all__ = ["CONTEXT_SETTINGS", "run_command"]

# From SCRIPT on, everything belongs to the script, also --help.
CONTEXT_SETTINGS: dict[str, Any] = {"allow_interspersed_args": False}


def run_command(
    script: Annotated[str, typer.Argument(metavar="SCRIPT", help="A Python file, or with -m a module's name.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="ARGS", help="Handed to the script as they are.")
    ] = None,
    as_module: Annotated[bool, typer.Option("-m", help="SCRIPT is a module's name, as in python -m.")] = False,
) -> None:
    """Make the standard library's blocking calls cooperative, then run SCRIPT.

    What waits on sockets, sleeps or locks in one task lets the others run. The exit code is the script's own.
    """
    # Refuse a misspelt name before anything is patched.
    if as_module:
        _put_first(os.getcwd())
        _check_module(script)
    else:
        source = _read_script(script)

    from rimstone import monkey  # noqa: PLC0415  # start-up time

    monkey.patch_all()
    sys.argv = [script, *(arguments or [])]
    try:
        if as_module:
            runpy.run_module(script, run_name="__main__", alter_sys=True)
        else:
            _run_file(script, source)
    except SystemExit:
        raise
    except KeyboardInterrupt as interrupt:
        print_users_traceback(interrupt)
        sys.exit(130)
    except ImportError as error:
        if as_module and users_traceback(error) is None:
            raise Problem(str(error)) from None  # a package without __main__
        print_users_traceback(error)
        sys.exit(FAILED)
    except BaseException as error:
        print_users_traceback(error)
        sys.exit(FAILED)


def _read_script(script: str) -> bytes:
    try:
        with open(script, "rb") as file:
            return file.read()
    except OSError as error:
        raise Problem(f"cannot run {script!r}: {reason(error)}") from None


def _check_module(name: str) -> None:
    try:
        found = importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        found = False
    if not found:
        raise Problem(f"there is no module {name!r} in the working directory or on the module search path")


def _run_file(script: str, source: bytes) -> None:
    """Run *source* as `__main__`.

    Not `runpy.run_path`: it takes the module away when the script's last line has run, and threads, callbacks at exit
    and pickles still need it.
    """
    path = os.path.abspath(script)
    _put_first(os.path.dirname(os.path.realpath(script)))
    main = ModuleType("__main__")
    main.__file__ = path
    main.__dict__.update(__builtins__=builtins, __cached__=None)
    sys.modules["__main__"] = main
    exec(compile(source, path, "exec", dont_inherit=True), main.__dict__)  # noqa: S102  # running the user's script is what it is for


def _put_first(folder: str) -> None:
    """Make *folder* `sys.path[0]`, as Python does for what it runs, unless told not to (-P)."""
    if not sys.flags.safe_path:
        sys.path.insert(0, folder)
