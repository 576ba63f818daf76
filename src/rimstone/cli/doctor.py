"""`rimstone doctor`: what rimstone finds on this machine, where each number comes from, and what is wrong with it."""

import importlib.metadata
import json
import os
import platform
import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer

from rimstone import machine
from rimstone._core import core, why_pure
from rimstone.errors import IOModelUnavailable

__all__ = ["doctor_command"]

_FEW_DESCRIPTORS = 1024
_FEW_PROCESSES = 64
_LITTLE_MEMORY_BYTES = 256 << 20


def doctor_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print the same as one JSON object.")] = False,
) -> None:
    """Show Python, the IO models, and this machine's limits with their sources; exit code 1 if there is a problem."""
    report = _report()
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        typer.echo("\n".join(_lines(report)))
    if report["problems"]:
        raise typer.Exit(1)


def _report() -> dict[str, Any]:
    from rimstone import iomodel  # noqa: PLC0415  # start-up time
    from rimstone.hub import watchdog  # noqa: PLC0415
    from rimstone.iomodel import nonblocking  # noqa: PLC0415

    soft, hard = machine.descriptors()
    limits = {
        "cpus": machine.cpus(),
        "memory_bytes": machine.memory_bytes(),
        "descriptors_soft": soft,
        "descriptors_hard": hard,
        "descriptors_open": machine.open_descriptors(),
        "processes": machine.processes(),
    }
    problems = _limit_problems(limits)
    try:
        chosen: str | None = iomodel.choose().name
    except IOModelUnavailable as error:
        chosen = None
        problems.append(_without_advice(str(error)))
    for read_environment in (watchdog.read_environment, nonblocking.read_environment):
        try:
            read_environment()
        except ValueError as error:
            problems.append(str(error))
    return {
        "python": {
            "version": platform.python_version(),
            "implementation": platform.python_implementation(),
            "executable": sys.executable,
            "platform": platform.platform(),
        },
        "rimstone": importlib.metadata.version("rimstone"),
        "core": core(),
        "why_pure": why_pure(),
        "libraries": {name: importlib.metadata.version(name) for name in ("greenlet", "cloudpickle", "psutil")},
        "io_models": dict(iomodel.available()),
        "io_model": {"chosen": chosen, "RIMSTONE_IO_MODEL": os.environ.get("RIMSTONE_IO_MODEL")},
        "limits": {name: asdict(reading) for name, reading in limits.items()},
        "problems": problems,
    }


def _limit_problems(limits: dict[str, machine.Reading]) -> list[str]:
    problems = []
    soft, hard = limits["descriptors_soft"].value, limits["descriptors_hard"].value
    if hard is not None and hard < _FEW_DESCRIPTORS:
        problems.append(
            f"the hard descriptor limit is {hard}: no more connections than that can be open in one process; "
            f"have it raised (limits.conf, LimitNOFILE=, docker run --ulimit nofile=)"
        )
    elif soft is not None and soft < _FEW_DESCRIPTORS:
        problems.append(
            f"the soft descriptor limit is {soft}: workers raise theirs to {hard or 'the hard one'}, "
            f"but this process stays at {soft}; raise it with: ulimit -n {hard or _FEW_DESCRIPTORS}"
        )
    memory = limits["memory_bytes"].value
    if memory is not None and memory < _LITTLE_MEMORY_BYTES:
        problems.append(f"only {memory >> 20} MiB of memory are left; use fewer worker processes (processes=)")
    processes = limits["processes"].value
    if processes is not None and processes < _FEW_PROCESSES:
        problems.append(f"only {processes} processes and threads are allowed; use fewer (processes=, threads=)")
    return problems


def _lines(report: dict[str, Any]) -> list[str]:
    python, libraries, limits = report["python"], report["libraries"], report["limits"]
    asked = report["io_model"]["RIMSTONE_IO_MODEL"]
    rows = [
        ("rimstone", f"{report['rimstone']}, core: {report['core']}", report["why_pure"] or ""),
        ("Python", f"{python['implementation']} {python['version']}", python["executable"]),
        ("system", python["platform"], ""),
        *((name, version, "") for name, version in libraries.items()),
        (
            "IO model",
            report["io_model"]["chosen"] or "none",
            "RIMSTONE_IO_MODEL is not set" if asked is None else f"RIMSTONE_IO_MODEL={asked}",
        ),
        *(
            (f"  {name}", "works" if why_not is None else f"not here: {_without_advice(why_not)}", "")
            for name, why_not in report["io_models"].items()
        ),
        *((_LABELS[name], _shown(name, limit["value"]), limit["source"]) for name, limit in limits.items()),
    ]
    wide_label, wide_value = (max(len(row[column]) for row in rows if row[2]) for column in (0, 1))
    lines = [f"{label:{wide_label}}  {value:{wide_value}}  {source}".rstrip() for label, value, source in rows]
    lines.append("")
    lines += [f"problem: {problem}" for problem in report["problems"]] or ["No problems found."]
    return lines


def _without_advice(text: str) -> str:
    """Whoever reads it here has come to the doctor."""
    return text.replace("; see 'rimstone doctor'", "").replace(" (see 'rimstone doctor')", "")


_LABELS = {
    "cpus": "CPUs",
    "memory_bytes": "memory",
    "descriptors_soft": "descriptors",
    "descriptors_hard": "  at most",
    "descriptors_open": "  open now",
    "processes": "processes",
}


def _shown(name: str, value: int | None) -> str:
    if value is None:
        return "unlimited" if name != "descriptors_open" else "unknown"
    return f"{value / (1 << 30):.1f} GiB" if name == "memory_bytes" else str(value)
