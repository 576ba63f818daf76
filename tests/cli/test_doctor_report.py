"""`rimstone doctor`, `--version`, `--help`: what they say, and that they start fast."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from rimstone import machine
from rimstone._core import core
from rimstone.cli import doctor

Run = Callable[..., Any]


@pytest.fixture
def _io_models() -> None:
    pytest.importorskip("rimstone.iomodel", reason="rimstone.iomodel is not there yet")


@pytest.mark.usefixtures("_io_models")
class TestDoctor:
    def test_each_limit_has_its_number_and_source(self, in_process: Run) -> None:
        result = in_process("doctor", "--json")
        report = json.loads(result.out)
        assert result.code == (1 if report["problems"] else 0)
        assert report["limits"]["cpus"] == {"value": machine.cpus().value, "source": machine.cpus().source}
        assert set(report["limits"]) == {
            "cpus",
            "memory_bytes",
            "descriptors_soft",
            "descriptors_hard",
            "descriptors_open",
            "processes",
        }
        assert all(limit["source"] for limit in report["limits"].values())
        assert report["io_model"]["chosen"] in report["io_models"]
        assert report["io_models"]["select"] is None, "select works everywhere"
        assert report["rimstone"] == version("rimstone")
        assert report["core"] == core()
        assert (report["why_pure"] is None) == (core() == "compiled")

    def test_the_text_says_the_same(self, in_process: Run) -> None:
        text = in_process("doctor").out
        report = json.loads(in_process("doctor", "--json").out)
        assert report["python"]["version"] in text
        assert report["libraries"]["greenlet"] in text
        for name in report["io_models"]:
            assert f"  {name} " in text
        for name in ("cpus", "descriptors_hard", "processes"):
            assert report["limits"][name]["source"] in text

    def test_an_io_model_that_does_not_exist_is_a_problem(
        self, in_process: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RIMSTONE_IO_MODEL", "epol")
        result = in_process("doctor")
        assert result.code == 1
        assert "problem: RIMSTONE_IO_MODEL='epol'" in result.out

    @pytest.mark.parametrize(("name", "value"), [("RIMSTONE_STALL_MS", "x"), ("RIMSTONE_BACKOFF_MS", "-3")])
    def test_a_wrong_variable_of_the_environment_is_a_problem(self, name: str, value: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "rimstone", "doctor"],
            env={**os.environ, name: value},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (1, "")
        assert f"problem: {name}='{value}'" in done.stdout

    @pytest.mark.parametrize("model", ["kqueue", "uring"])
    def test_doctor_does_not_send_to_itself(self, in_process: Run, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
        monkeypatch.setenv("RIMSTONE_IO_MODEL", model)
        assert "see 'rimstone doctor'" not in in_process("doctor").out

    def test_an_io_model_asked_for_is_named(self, in_process: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RIMSTONE_IO_MODEL", "select")
        assert json.loads(in_process("doctor", "--json").out)["io_model"] == {
            "chosen": "select",
            "RIMSTONE_IO_MODEL": "select",
        }

    def test_few_descriptors_are_a_problem(self, functions: Path) -> None:
        done = subprocess.run(
            f'ulimit -S -n 256 && "{sys.executable}" -m rimstone doctor',
            shell=True,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (1, "")
        assert "problem: the soft descriptor limit is 256" in done.stdout


def test_tight_limits_are_problems_and_ample_ones_are_not() -> None:
    def problems(**values: int | None) -> list[str]:
        ample: dict[str, int | None] = {
            "descriptors_soft": 4096,
            "descriptors_hard": None,
            "memory_bytes": 1 << 33,
            "processes": None,
        }
        return doctor._limit_problems({name: machine.Reading(value, "") for name, value in {**ample, **values}.items()})

    assert problems() == []
    assert "hard descriptor limit is 512" in problems(descriptors_soft=512, descriptors_hard=512)[0]
    assert "only 100 MiB" in problems(memory_bytes=100 << 20)[0]
    assert "only 10 processes" in problems(processes=10)[0]


def test_version(in_process: Run) -> None:
    result = in_process("--version")
    assert (result.code, result.out) == (0, f"rimstone {version('rimstone')}\n")


def test_help_names_every_command(in_process: Run) -> None:
    result = in_process("--help")
    assert result.code == 0
    for name in ("map", "run", "doctor"):
        assert f"\n  {name} " in result.out


def test_without_arguments_the_help_is_shown(in_process: Run) -> None:
    result = in_process()
    assert "Usage: rimstone" in result.out + result.err


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "import rimstone\n"
        "before = set(sys.modules)\n"
        "from rimstone.cli import main\n"
        "try:\n"
        "    main(['--help'])\n"
        "except SystemExit:\n"
        "    pass\n"
        "heavy = {'rich', 'psutil', 'cloudpickle', 'rimstone.pools', 'rimstone.workers', 'rimstone.hub'}\n"
        "sys.exit(str(heavy & (set(sys.modules) - before) or 0))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr in {"", "0\n"}
