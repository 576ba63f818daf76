"""`rimstone bench`: the benchmarks, on this machine. All options are those of `rimstone.bench`, which parses them."""

from typing import Any

import typer

__all__ = ["CONTEXT_SETTINGS", "bench_command"]

# Everything behind the command's name belongs to the benchmarks, also --help.
CONTEXT_SETTINGS: dict[str, Any] = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "allow_interspersed_args": False,
    "help_option_names": [],
}


def bench_command(context: typer.Context) -> None:
    """Measure rimstone and others on this machine; rimstone bench --help says what there is."""
    from rimstone.bench.__main__ import main  # noqa: PLC0415  # start-up time

    raise typer.Exit(main(context.args))
