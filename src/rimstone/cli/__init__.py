"""The command line. commands.py names the sub-commands; each has a file of its own. Read map.py, then pipeline.py."""

import sys

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line, and exit.

    Args:
        arguments: What stands behind the program's name; None means that we are the program: takes it from `sys.argv`,
            and takes the launcher's folder off `sys.path`.
    Raises:
        SystemExit: always; its code is the exit code (see commands.py).
    """
    try:
        if arguments is None and not sys.flags.safe_path:
            # The working directory (python -m) or .../bin. While our own libraries load it must not be in front: a
            # user's random.py would be taken for the standard one. Each command puts back what its user expects.
            del sys.path[0]
        # In here, because a Ctrl-C while this loads must end quietly, too.
        from rimstone.cli.commands import run_command_line  # noqa: PLC0415

        run_command_line(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        sys.exit(130)
