"""Says where a result comes from: machine, kernel, Python, core, commit, versions of the rivals."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rimstone.bench.processes import cpus
from rimstone.bench.registry import PURE

__all__ = ["PACKAGE", "describe"]

PACKAGE = Path(__file__).parents[1]  # of rimstone
CHECKOUT = PACKAGE.parents[1] if PACKAGE.parent.name == "src" else None  # installed, it belongs to nobody's repository
LIBRARIES = ("rimstone", "greenlet", "gevent", "uvloop")

# The core is compiled when any module of the hub or of the patched socket comes from a shared object. One that is older
# than its source measures yesterday's code, so that is said too.
PROBE = """
import json, os, sys
from rimstone import monkey
monkey.patch_all()
import rimstone.hub
from rimstone.iomodel import choose
files = [m.__file__ for n, m in list(sys.modules.items()) if n.startswith("rimstone.") and getattr(m, "__file__", None)]
compiled = [file for file in files if file.endswith(".so")]
def is_stale(file):
    stem = file[: file.index(".", len(os.path.dirname(file)))]
    sources = [stem + ending for ending in (".py", ".pyx", ".pxd") if os.path.exists(stem + ending)]
    return any(os.path.getmtime(source) > os.path.getmtime(file) for source in sources)
print(json.dumps({
    "core": "compiled" if compiled else "pure",
    "core_is_stale": any(map(is_stale, compiled)),
    "io_model": choose().name,
    "rimstone_from": os.path.dirname(sys.modules["rimstone"].__file__),
}))
"""


def describe() -> dict[str, Any]:
    """All that a reader of the figures needs in order to compare them with others."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu_model": _cpu_model(),
            "architecture": platform.machine(),
            "cpus": len(os.sched_getaffinity(0)),
            "pinned_to": list(cpus()),
            "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        },
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **_probe(),
        "pure_core": _probe(PURE)["core"],
        "versions": {name: _version(name) for name in LIBRARIES},
        **_commit(),
    }


def _probe(environment: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """What a process of its own finds, for this one must not be patched."""
    command, variables = [sys.executable, "-c", PROBE], {**os.environ, **dict(environment)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    if done.returncode:
        words = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return {"core": f"unknown ({words})", "core_is_stale": False, "io_model": None, "rimstone_from": None}
    return dict(json.loads(done.stdout))


def _cpu_model() -> str:
    with open("/proc/cpuinfo", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or "unknown"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> dict[str, Any]:
    """The commit, and whether files differ from it; None where there is no git or no checkout."""

    def git(*arguments: str) -> str | None:
        if CHECKOUT is None:
            return None
        command = ["git", "-C", str(CHECKOUT), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    changes = git("status", "--porcelain", "--", "src", "pyproject.toml", "setup.py")
    return {"commit": git("rev-parse", "HEAD"), "commit_is_modified": None if changes is None else bool(changes)}
