"""The demo in a small size: its table, its JSON, its verdict, and what it leaves behind when it is ended early."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"
SMALL = ["--urls", "500", "--sample", "60", "--clients", "50", "--messages", "5"]


def run_demo(folder: Path, *arguments: str, stderr: int = subprocess.PIPE) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(DEMO), *SMALL, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "COLUMNS": "100"},
    )


def test_it_prints_a_table_and_writes_the_same_numbers_as_json(tmp_path: Path) -> None:
    done = run_demo(tmp_path, "--require", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""

    report = json.loads((tmp_path / "demo.json").read_text())
    assert {"machine", "kernel", "python", "core", "io_model", "commit", "rows"} == set(report)
    mapped, default, served = report["rows"]

    assert (mapped["what"], mapped["calls"]) == ("rimstone map", 500)
    assert mapped["processes"] >= 1
    assert mapped["threads"] >= mapped["processes"]
    assert mapped["coroutines"] == mapped["in_flight"] > default["in_flight"]
    assert mapped["ratio"] == pytest.approx(mapped["calls_per_second"] / default["calls_per_second"], rel=0.01)

    assert (default["what"], default["calls"]) == ("ThreadPoolExecutor()", 60)
    assert (default["processes"], default["coroutines"], default["ratio"]) == (1, None, 1)
    assert 1 <= default["in_flight"] <= default["threads"] <= 32
    # 50 ms a page: a thread cannot have had more than twenty a second.
    assert default["calls_per_second"] <= 20 * default["threads"]

    assert (served["what"], served["calls"]) == ("upper-case server", 50 * 5)
    assert (served["processes"], served["threads"], served["coroutines"], served["ratio"]) == (1, 1, 50, None)

    for row in report["rows"]:
        assert 0 < row["seconds"] <= row["total_seconds"]
        cells = [row["what"], f"{row['calls']:,}", f"{row['calls_per_second']:,.0f}", f"{row['in_flight']:,}"]
        assert re.search(r"\s+".join(map(re.escape, cells)), done.stdout), done.stdout


def test_too_small_a_ratio_is_a_failure_that_is_said_and_still_written(tmp_path: Path) -> None:
    done = run_demo(tmp_path, "--urls", "50", "--require", "100000", "--out", "numbers.json")
    assert done.returncode == 1
    assert re.fullmatch(r"demo: rimstone map was [\d.]+ x .* at least 100000 x is required .*\n", done.stderr)
    assert json.loads((tmp_path / "numbers.json").read_text())["rows"][0]["rounds"] == 3


def test_a_wrong_page_is_a_failure_that_is_said(tmp_path: Path) -> None:
    for name in ("demo.py", "slow_http_server.py", "fetch.py"):
        text = (DEMO.parent / name).read_text()
        (tmp_path / name).write_text(text.replace('f"page {path[1:]}"', 'f"page {path[1:]}".replace("42", "24")'))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "demo.py"), *SMALL],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1
    assert re.fullmatch(
        r"demo: 1 of 60 pages are missing, wrong or too many; "
        r"the first: http://127\.0\.0\.1:\d+/42 gave 'page 24', expected 'page 42'\n",
        done.stderr,
    )


def test_on_a_terminal_there_is_a_progress_bar(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        done = run_demo(tmp_path, "--require", "1", stderr=theirs)
        shown = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 0, shown
    assert "in flight" in shown


def test_the_slow_server_ends_when_nobody_holds_its_stdin() -> None:
    command = [sys.executable, str(DEMO.parent / "slow_http_server.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdin is not None
            assert server.stdout is not None
            assert int(server.stdout.readline()) > 0
            server.stdin.close()
            assert server.wait(20) == 0
        finally:
            server.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ended_early_it_ends_its_children(tmp_path: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, str(DEMO), "--urls", "100000", "--sample", "6"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    ) as demo:
        try:
            assert demo.stdout is not None
            wait_for_workers(demo)
            children = psutil.Process(demo.pid).children(recursive=True)
            demo.send_signal(number)
            assert demo.wait(20) == 128 + number
        finally:
            demo.kill()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


def wait_for_workers(demo: "subprocess.Popen[str]") -> None:
    """Return when `rimstone map` has started a worker, the deepest of all processes that the demo leads to."""
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith("rimstone map"):
            break
    for _ in range(400):
        for child in psutil.Process(demo.pid).children():
            with suppress(psutil.Error):
                if child.children():
                    return
        with suppress(subprocess.TimeoutExpired):
            demo.wait(0.05)
    raise AssertionError("no worker was started")
