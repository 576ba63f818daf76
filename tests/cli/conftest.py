"""What the command line tests share: running `rimstone` in a child and in this process."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

COMMAND = [sys.executable, "-m", "rimstone"]

FUNCTIONS = """\
import os, sys, time

CONSTANT = 5

class Shape:
    @staticmethod
    def area(text):
        return int(text) ** 2

def upper(text):
    return text.upper()

def same(value):
    return value

def divide(text):
    return 100 // int(text)

def talk(text):
    print("talking about", text)
    os.system("echo a child process talks")
    return text

def returns_a_set(text):
    return {1}

def nan(text):
    return [float("nan")]

def linger(text):
    time.sleep(float(text))
    return text

def raises_base(text):
    raise SystemExit(text)

def takes_two(a, b):
    return a

async def waits(text):
    return text
"""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than 0.25 s")


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of functions, alone in the working directory."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "work.py"
    file.write_text(FUNCTIONS)
    return file


@pytest.fixture
def real_pool() -> None:
    """For tests that run worker processes."""
    pytest.importorskip("rimstone.pools", reason="rimstone.pools is not there yet")
    if not hasattr(__import__("rimstone"), "Pool"):
        pytest.skip("rimstone.Pool is not there yet")


@pytest.fixture
def fresh_imports(tmp_path: Path) -> Iterator[None]:
    """Put `sys.path` and `sys.modules` back: the command makes folders importable and imports user files."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


class Result:
    """What one run of the command line left behind."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def records(self) -> list[dict[str, Any]]:
        """The output lines, in the order of the inputs where those sort."""
        return sorted(map(json.loads, self.out.splitlines()), key=lambda record: json.dumps(record["input"]))


@pytest.fixture
def in_process(
    functions: Path, fresh_imports: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Run the command line here, with threads of this process in place of the pool."""
    from rimstone.cli import main  # noqa: PLC0415
    from rimstone.cli import map as map_module  # noqa: PLC0415

    monkeypatch.setattr(map_module, "_opened_pool", lambda *_sizes: ThreadPoolExecutor(4))

    def run(*arguments: str, stdin: bytes = b"") -> Result:
        if stdin:
            (functions.parent / "stdin.txt").write_bytes(stdin)
            arguments = (*arguments, "stdin.txt")
        with pytest.raises(SystemExit) as leaving:
            main(list(arguments))
        code = leaving.value.code
        captured = capfd.readouterr()
        return Result(code if isinstance(code, int) else 0 if code is None else 1, captured.out, captured.err)

    return run


@pytest.fixture
def in_child(functions: Path) -> Callable[..., Result]:
    """Run the command line as a user does, to its end."""

    def run(*arguments: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> Result:
        done = subprocess.run(
            [*COMMAND, *arguments],
            input=stdin,
            capture_output=True,
            timeout=60,
            check=False,
            cwd=functions.parent,
            env={**os.environ, **(env or {})},
        )
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run
