"""Runs the examples as anybody would: as scripts of their own, in their own process."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run_example() -> Callable[..., str]:
    """`run_example("name.py", *arguments)` returns what the example printed; its exit code must be 0."""

    def run(name: str, *arguments: object, timeout: float = 60) -> str:
        command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
        return done.stdout

    return run


@pytest.fixture
def start_server() -> Iterator[Callable[..., int]]:
    """`start_server("name.py", *arguments)` returns the port that the server prints.

    When the test is over, each server must still be running and must have had nothing to complain about.
    """
    with ExitStack() as stack:

        def start(name: str, *arguments: object) -> int:
            return stack.enter_context(_server(name, *arguments))

        yield start


@contextmanager
def _server(name: str, *arguments: object) -> Iterator[int]:
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        try:
            yield int(server.stdout.readline())
            assert server.poll() is None, f"{name} ended: {server.stderr.read()}"
        finally:
            server.kill()
        assert server.stderr.read() == ""
