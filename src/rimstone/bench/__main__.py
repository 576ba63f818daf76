"""The command line: `rimstone bench`, or `./dev bench`, which installs the rivals first. Read registry.py next."""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from rimstone.bench import machine, report
from rimstone.bench.iomodels.run import compare
from rimstone.bench.iomodels.servers import choose, listing
from rimstone.bench.measure import Round, run_rounds
from rimstone.bench.registry import ROWS, Measurement, Row, measurements_of, select

__all__ = ["main"]

IO_MODELS = "io-models"
ROUNDS, SECONDS = 5, 3.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables, write them down; returns 1 if a measurement failed (a missed limit is no failure)."""
    options = _parser().parse_args(arguments)
    is_comparison = IO_MODELS in options.names
    problem = None
    if is_comparison and len(options.names) > 1:
        problem = f"{IO_MODELS!r} is a run of its own: give no other name beside it"
    elif not is_comparison and (options.quick or options.servers):
        problem = f"--quick and --servers are for {IO_MODELS!r}; elsewhere use --rounds and --seconds"
    try:
        if is_comparison and problem is None:
            if options.list:
                print("\n".join(listing(choose(options.servers or []))))
                return 0
            return compare(
                options.results, _progress, options.servers or [], options.quick, options.rounds, options.seconds
            )
        rows = select(name for name in options.names if name != IO_MODELS)
    except ValueError as error:
        problem = str(error)
    if problem is not None:
        print(f"bench: {problem}", file=sys.stderr)
        return 2
    if options.list:
        for row in rows if options.names else ROWS:
            print(f"{row.name:22} {row.what}{' (only when named)' if row.on_request else ''}")
        if not options.names:
            print(f"{IO_MODELS:22} every IO model under one handler, beside others (only when named)")
            print(f"The servers of {IO_MODELS}: {IO_MODELS} --list", file=sys.stderr)
        return 0
    return _measure_rows(options, rows)


def _measure_rows(options: argparse.Namespace, rows: list[Row]) -> int:
    rounds, seconds = options.rounds or ROUNDS, options.seconds or SECONDS
    measurements = measurements_of(rows)
    origin = {**machine.describe(), "rounds": rounds, "seconds": seconds}
    print(report.headline(origin), file=sys.stderr)
    results = run_rounds(measurements, rounds, seconds, _progress)
    findings = report.find(rows, results)
    print(report.row_table(findings), report.measurement_table(measurements, results), sep="\n\n")
    for note in report.notes(origin, findings, measurements, results):
        print("note:", note)
    for path in report.write(options.results, origin, findings, measurements, results):
        print("wrote", path)
    return int(any("failed" in each for found in results.values() for each in found))


def _progress(number: int, measurement: Measurement, result: Round) -> None:
    if "value" in result:
        said = f"{report.number(result['value'])} {measurement.unit}"
        if "cpu_seconds" in result:
            said += f", {result['cpu_seconds']:.2f} CPU s in {result['wall_seconds']:.2f} s"
    else:
        said = ""
    said += "".join(f"  {outcome}: {result[outcome]}" for outcome in ("skipped", "failed") if outcome in result)
    print(f"round {number + 1}: {measurement.name}: {said}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rimstone bench",
        description="Measure rimstone against its rivals, on this machine, in interleaved rounds.",
        epilog="In a checkout, ./dev bench does it with all rivals installed, and --python 3.13 on another Python.",
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="rows or groups of rows (default: all but those that --list marks 'only when named'), "
        f"or {IO_MODELS}, which is a run of its own",
    )
    parser.add_argument(
        "--rounds", type=_at_least_1, help=f"how often each program is measured (default: {ROUNDS}; {IO_MODELS}: 3)"
    )
    parser.add_argument(
        "--seconds", type=_positive, help=f"measured time of a server in a round (default: 3; {IO_MODELS}: 1)"
    )
    parser.add_argument("--quick", action="store_true", help=f"{IO_MODELS}: some 3 minutes instead of 25")
    parser.add_argument(
        "--servers",
        nargs="+",
        metavar="SERVER",
        help=f"{IO_MODELS}: only these, as in: --servers epoll c-epoll; {IO_MODELS} --list names them",
    )
    parser.add_argument(
        "--list", action="store_true", help=f"show the rows, or after {IO_MODELS} its servers; measure nothing"
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("bench-results"),
        metavar="FOLDER",
        help="where results go (default: bench-results in the working directory; ./dev bench: bench/results)",
    )
    return parser


def _at_least_1(text: str) -> int:
    value = int(text) if text.strip().isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rounds; use a whole number, 1 or more")
    return value


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no measured time; use a number of seconds above 0, as in 0.5")
    return value


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
