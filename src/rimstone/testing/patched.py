"""Runs the body of a test in a child process that is patched first; the test process itself stays unpatched.

    @in_patched_process()
    def test_sleep_lets_siblings_run():
        import time            # everything that the body needs, it imports itself
        ...

Parameters reach the body by their `repr`. What the child prints is in the message when it fails.
"""

import ast
import functools
import inspect
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

__all__ = ["in_patched_process", "run_script"]

TIME_LIMIT_SECONDS = 30.0


def run_script(source: str, *, timeout: float = TIME_LIMIT_SECONDS) -> "subprocess.CompletedProcess[str]":
    """Run *source* with this Python, every warning an error; returns what it left, whatever that is."""
    return subprocess.run(  # noqa: S603 - our own interpreter, and the test's own text
        [sys.executable, "-W", "error", "-X", "faulthandler", "-c", source],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )


def in_patched_process(
    *helpers: Callable[..., Any], before: str = "", files: bool = True
) -> Callable[[Callable[..., None]], Any]:
    """Make the decorated test run in a patched child process.

    Args:
        helpers: Functions and classes that the body uses; their source goes along.
        before: Code that runs before patching.
        files: Given to `patch_all`.
    """

    def decorate(test: Callable[..., None]) -> Any:
        @functools.wraps(test)
        def run(**parameters: Any) -> None:
            arguments = ", ".join(f"{name}={value!r}" for name, value in parameters.items())
            patch = f"import rimstone.monkey\nrimstone.monkey.patch_all(files={files})\n"
            parts = [before, patch, *map(_source, helpers), _source(test), f"{test.__name__}({arguments})\n"]
            done = run_script("\n".join(parts))
            if done.returncode:
                raise AssertionError(f"exit code {done.returncode} in the child\n{done.stdout}\n{done.stderr}")

        return run

    return decorate


def _source(thing: Callable[..., Any]) -> str:
    """The source of *thing* without its decorators."""
    text = textwrap.dedent(inspect.getsource(thing))
    first = ast.parse(text).body[0]
    return "\n".join(text.splitlines()[first.lineno - 1 :])
