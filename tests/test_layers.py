"""The layering is kept: import-linter's contracts hold, and each of them notices a breach."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINT_IMPORTS = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"

pytestmark = pytest.mark.slow


def lint_imports(checkout: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LINT_IMPORTS, "--no-cache", "--config", "pyproject.toml"],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout / "src")},  # before the path of the installed package
        capture_output=True,
        text=True,
        check=False,
    )


def test_imports_go_downward_only() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("file", "line", "told"),
    [
        ("errors.py", "import rimstone.hub", "rimstone.errors -> rimstone.hub"),
        ("clock.py", "import rimstone.errors", "rimstone.clock -> rimstone.errors"),
        ("sync/lock.py", "import rimstone.monkey", "rimstone.sync.lock -> rimstone.monkey"),
        ("hub/task.py", "import rimstone.testing", "rimstone.hub.task -> rimstone.testing"),
        ("hub/task.py", "import rich", "rimstone.hub.task -> rich"),
        ("pools/pool.py", "import rimstone.bench", "rimstone.pools.pool -> rimstone.bench"),
        ("bench/report.py", "import rimstone.cli", "rimstone.bench.report -> rimstone.cli"),
        ("bench/report.py", "import rich", "rimstone.bench.report -> rich"),
        ("monkey/_dns.py", "import typer", "rimstone.monkey._dns -> typer"),
        ("hub/task.py", "import psutil", "rimstone.hub.task -> psutil"),
        ("homeless.py", "", "homeless"),
    ],
)
def test_a_breach_is_noticed(tmp_path: Path, file: str, line: str, told: str) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "src/rimstone", tmp_path / "src/rimstone", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "src/rimstone" / file).open("a") as module:
        module.write(f"\n{line}\n")
    result = lint_imports(tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    assert told in result.stdout.replace("\n", " ")
