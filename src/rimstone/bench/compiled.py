"""Compiles the C programs at need, into a folder of the user's cache: the load generator and the rivals in C."""

import atexit
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from rimstone.bench.processes import Failed, Skipped

__all__ = ["build_folder", "compiled"]


@functools.cache
def build_folder() -> Path:
    """Where programs and profiles go: `rimstone/bench` in XDG_CACHE_HOME or ~/.cache, else a temporary folder.

    Never beside the sources: an installed package is not for its user to write into. The temporary folder is a new one
    for each run, since what lies under a name that others can guess must not be executed.
    """
    home = os.environ.get("XDG_CACHE_HOME", "")
    try:
        cache = Path(home) if os.path.isabs(home) else Path.home() / ".cache"
        folder = cache / "rimstone" / "bench"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    except (OSError, RuntimeError):  # a home that is not there, or nobody's
        pass
    temporary = tempfile.mkdtemp(prefix="rimstone-bench-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return Path(temporary)


def compiled(source: Path) -> Path:
    """The program made from *source*, which may include headers of its own folder; compiled if there is none yet.

    The name holds a hash of all that it is made from, for the times of files say nothing once they came out of a wheel.

    Raises:
        Skipped: there is no C compiler.
        Failed: it does not compile.
    """
    compiler = os.environ.get("CC", "cc")
    flags = ["-O2", "-Wall", "-pthread"]
    origin = hashlib.sha256(repr((compiler, flags)).encode())
    for file in (source, *sorted(source.parent.glob("*.h"))):
        origin.update(file.read_bytes())
    program = build_folder() / f"{source.stem}-{origin.hexdigest()[:12]}"
    if program.exists():
        return program
    if shutil.which(compiler) is None:
        raise Skipped(f"no C compiler {compiler!r} for {source.name} (Debian, Ubuntu: apt install gcc)")
    made = program.with_name(f"{program.name}.{os.getpid()}")  # renamed when whole: another run may do the same
    done = subprocess.run([compiler, *flags, "-o", str(made), str(source)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{source.name} does not compile: {done.stderr.strip()}")
    os.replace(made, program)
    return program
