"""The sub-commands by name, and how what ends them becomes an exit code.

Exit codes: 0 all went well, 1 some inputs failed (or the work could not go on), 2 the command was not understood or
cannot start, 130 Ctrl-C, 141 the reader of our output went away.

Start-up stays short because nothing heavy is imported before a command needs it.
"""

import importlib.metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from rimstone.cli import bench as _bench
from rimstone.cli import doctor as _doctor
from rimstone.cli import map as _map
from rimstone.cli import run as _run
from rimstone.cli import serve as _serve
from rimstone.cli import tour as _tour
from rimstone.cli.problem import Problem

__all__ = ["run_command_line"]


class _Commands(TyperGroup):
    """The group of sub-commands: a user's mistake ends in one line on stderr, never in our traceback."""

    def invoke(self, ctx: Any) -> Any:  # the class of ctx has moved between versions of typer
        try:
            return super().invoke(ctx)
        except Problem as problem:
            typer.echo(f"rimstone: {problem}", err=True)
            raise typer.Exit(problem.exit_code) from None
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


# Plain help and plain errors: rich would add 0.1 s to every start.
_app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Run plain, blocking Python functions on processes x threads x coroutines.",
)
_app.command("map")(_map.map_command)
_app.command("run", context_settings=_run.CONTEXT_SETTINGS)(_run.run_command)
_app.command("serve")(_serve.serve_command)
_app.command("tour")(_tour.tour_command)
_app.command("doctor")(_doctor.doctor_command)
_app.command("bench", context_settings=_bench.CONTEXT_SETTINGS)(_bench.bench_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rimstone {importlib.metadata.version('rimstone')}")
        raise typer.Exit


@_app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def run_command_line(arguments: list[str]) -> None:
    """Run the command that *arguments* name, and exit."""
    # Not `_app()`: calling the app replaces sys.excepthook, which a script under `rimstone run` may look at.
    typer.main.get_command(_app).main(args=arguments, prog_name="rimstone")
