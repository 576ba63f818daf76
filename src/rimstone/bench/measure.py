"""Runs measurements in interleaved rounds. Read registry.py before.

Each round runs every program once, each round begins with another one: what slows the machine down for a while then
falls on all of them. Ratios are formed within a round (see report.py), for the same reason.

What a round of a measurement leaves is a dict of plain numbers that goes into the JSON as it is:

    value            in the measurement's unit, by the wall clock
    value_by_cpu     the same by the CPU seconds of the program instead; absent for sizes
    wall_seconds, cpu_seconds   of the measured part
    mean_us          of a round trip
    idle_cpu_share   of a core, while all connections were silent; only with `hold_seconds`
    bytes_a_connection   growth of the server's memory (PSS) for each: without the kernel's own for a socket
    others           share of the two CPUs that went to other programs meanwhile; wall-clock values suffer from it
    skipped, failed  the reason, instead of a value
    ...              and all that the program or the load generator printed
"""

import importlib.util
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rimstone.bench.compiled import compiled
from rimstone.bench.counting import SIZE_BYTES, said_by_load
from rimstone.bench.instructions import instructions_per_message
from rimstone.bench.processes import Failed, Skipped, cpus, output_of, started
from rimstone.bench.registry import Measurement
from rimstone.bench.syscalls import syscalls_per_message
from rimstone.bench.turns import round_trip_in_turns

__all__ = ["FOLDER", "Round", "command_of", "measure", "run_rounds"]

FOLDER = Path(__file__).parent  # of the sources
SPARE_DESCRIPTORS = 100
START_SECONDS = 30.0
PATIENCE_SECONDS = 150.0  # on top of the measured time: the load generator itself gives up earlier
PROGRAM_SECONDS = 1200.0  # a million tasks take their time

Round = dict[str, Any]


def run_rounds(
    measurements: Iterable[Measurement],
    rounds: int,
    seconds: float,
    progress: Callable[[int, Measurement, Round], None],
) -> dict[str, list[Round]]:
    """Make all measurements, *rounds* times each.

    Returns:
        Each measurement's rounds by its name; where `most_rounds` is less, as many.
    """
    measurements = list(measurements)
    found: dict[str, list[Round]] = {measurement.name: [] for measurement in measurements}
    for number in range(rounds):
        first = number % max(1, len(measurements))
        for measurement in measurements[first:] + measurements[:first]:
            done = found[measurement.name]
            if len(done) >= (measurement.most_rounds or rounds) or (done and _is_void(done[-1])):
                continue  # one round without a value is enough: there will be no figure, see report.py
            result = measure(measurement, seconds)
            done.append(result)
            progress(number, measurement, result)
    return found


def _is_void(result: Round) -> bool:
    return "skipped" in result or "failed" in result


def measure(measurement: Measurement, seconds: float) -> Round:
    """Make one measurement, once; what goes wrong is part of the result."""
    before = _busy_seconds(), _children_seconds(), time.monotonic()
    try:
        result = _HOW[measurement.how](measurement, seconds)
    except Skipped as reason:
        return {"skipped": str(reason)}
    except Failed as reason:
        return {"failed": str(reason)}
    busy, ours = _busy_seconds() - before[0], _children_seconds() - before[1]
    elapsed = (time.monotonic() - before[2]) * len(set(cpus()))
    return {**result, "others": round(max(0.0, busy - ours) / elapsed, 3)}


def command_of(measurement: Measurement) -> list[str]:
    """The program of a measurement, without its arguments.

    Raises:
        Skipped: a library or the compiler is missing, or something else that the measurement says.
    """
    if measurement.unavailable is not None:
        raise Skipped(measurement.unavailable)
    path = FOLDER / "rivals" / measurement.file
    if path.suffix == ".c":
        return [str(compiled(path))]
    if importlib.util.find_spec(measurement.needs) is None:
        raise Skipped(f"{measurement.needs} is not installed (./dev bench installs it)")
    return [sys.executable, str(path)]


def _load(measurement: Measurement, seconds: float) -> Round:
    needed, hard = measurement.connections + SPARE_DESCRIPTORS, resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise Skipped(f"needs {needed:,} descriptors in one process, and the hard limit is {hard:,} (ulimit -Hn)")
    command = [*command_of(measurement), "0", *measurement.arguments]
    generator = str(compiled(FOLDER / "load.c"))
    with started(command, cpus()[0], dict(measurement.environment)) as server:
        port = server.line(START_SECONDS)
        warmup = min(1.0, seconds / 3)
        load = [generator, port, str(measurement.connections), str(SIZE_BYTES), str(warmup), str(seconds)]
        load += ["--pid", str(server.pid), *_load_options(measurement)]
        raw = said_by_load(load, seconds + measurement.hold_seconds + PATIENCE_SECONDS, server)
        if raw["errors"] or raw["unanswered"]:
            lost = f"{raw['errors']} wrong replies or lost connections, {raw['unanswered']} messages unanswered"
            raise Failed(lost + server.last_words())
        if not raw["messages"]:
            raise Failed("no message was answered in the measured time" + server.last_words())
    wall, cpu = raw.pop("seconds"), raw.pop("server_cpu_seconds")
    active = raw["answered"] if measurement.active is None else min(measurement.active, raw["answered"])
    raw["mean_us"] = active * wall / raw["messages"] * 1e6  # each of them has one message under way, always
    if raw["idle_seconds"]:
        raw["idle_cpu_share"] = raw["idle_cpu_seconds"] / raw["idle_seconds"]
    if raw["pss_before"] >= 0:
        raw["bytes_a_connection"] = (raw["pss_after"] - raw["pss_before"]) / measurement.connections
    return {
        "value": raw["messages"] / wall,
        "value_by_cpu": raw["messages"] / cpu,
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "load_cpu_seconds": raw.pop("cpu_seconds"),
        **raw,
    }


def _load_options(measurement: Measurement) -> list[str]:
    options: dict[str, float | None] = {
        "--active": measurement.active,
        "--hold": measurement.hold_seconds or None,
        "--patience": measurement.patience_seconds,
    }
    return [word for name, value in options.items() if value is not None for word in (name, str(value))]


def _print(measurement: Measurement, _seconds: float) -> Round:
    command = [*command_of(measurement), *measurement.arguments]
    raw = json.loads(output_of(command, cpus()[0], PROGRAM_SECONDS, dict(measurement.environment)))
    if "skipped" in raw:
        raise Skipped(raw["skipped"])
    value = raw[measurement.value]
    result = {"value": value, **raw}
    if measurement.unit.startswith("ns"):
        result["value_by_cpu"] = value * raw["cpu_seconds"] / raw["wall_seconds"]
    if raw.get("problems"):
        result["failed"] = "; ".join(raw["problems"])
    return result


def _count(measurement: Measurement, _seconds: float) -> Round:
    name, command = measurement.name.replace(" ", "-"), [*command_of(measurement), "0", *measurement.arguments]
    return instructions_per_message(
        name, command, dict(measurement.environment), str(compiled(FOLDER / "load.c")), measurement.connections
    )


def _count_calls(measurement: Measurement, _seconds: float) -> Round:
    command, environment = [*command_of(measurement), "0", *measurement.arguments], dict(measurement.environment)
    active = measurement.connections if measurement.active is None else measurement.active
    generator = str(compiled(FOLDER / "load.c"))
    return syscalls_per_message(command, environment, generator, measurement.connections, active)


def _in_turns(measurement: Measurement, seconds: float) -> Round:
    assert measurement.rival is not None
    own, rival = (
        ([*command_of(each), "0", *each.arguments], dict(each.environment)) for each in (measurement, measurement.rival)
    )
    return round_trip_in_turns(own, rival, str(compiled(FOLDER / "load.c")), seconds)


_HOW: dict[str, Callable[[Measurement, float], Round]] = {
    "server": _load,
    "program": _print,
    "instructions": _count,
    "syscalls": _count_calls,
    "turns": _in_turns,
}


# --- What else the machine does meanwhile


def _busy_seconds() -> float:
    """CPU seconds that our CPUs have spent on anything, since the start of the machine."""
    wanted, total = {f"cpu{cpu}" for cpu in cpus()}, 0
    with open("/proc/stat") as file:
        for line in file:
            name, *ticks = line.split()
            if name in wanted:
                user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, ticks[:8])
                total += user + nice + system + irq + softirq + steal
    return total / os.sysconf("SC_CLK_TCK")


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN), resource.getrusage(resource.RUSAGE_SELF)
    return sum(usage.ru_utime + usage.ru_stime for usage in used)
