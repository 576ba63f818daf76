"""Compiles the C programs at need, into bench/build/: the load generator and the C rival."""

import os
import shutil
import subprocess
from pathlib import Path

from bench.processes import Failed, Skipped

__all__ = ["BUILD", "compiled"]

BUILD = Path(__file__).parent / "build"


def compiled(source: Path) -> Path:
    """The program made from *source*; compiled when there is none yet, or an older one.

    Raises:
        Skipped: there is no C compiler.
        Failed: it does not compile.
    """
    program = BUILD / source.stem
    if program.exists() and program.stat().st_mtime > source.stat().st_mtime:
        return program
    compiler = os.environ.get("CC", "cc")
    if shutil.which(compiler) is None:
        raise Skipped(f"no C compiler {compiler!r} for {source.name} (Debian, Ubuntu: apt install gcc)")
    BUILD.mkdir(exist_ok=True)
    made = BUILD / f"{source.stem}.{os.getpid()}"  # renamed when whole: another run may do the same
    command = [compiler, "-O2", "-Wall", "-o", str(made), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{source.name} does not compile: {done.stderr.strip()}")
    os.replace(made, program)
    return program
