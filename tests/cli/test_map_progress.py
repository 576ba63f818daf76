"""The progress of `rimstone map`: on stderr, on a terminal only, one summary line at the end."""

import io
import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rimstone.cli.pipeline import Counts
from rimstone.cli.progress import PipelineProgress


def shown(counts: Counts, total_bytes: int | None) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    progress = PipelineProgress(counts, total_bytes, console)
    with console.capture() as capture:
        for renderable in progress.get_renderables():
            console.print(renderable)
    return capture.get()


def test_the_bar_shows_the_counts() -> None:
    text = shown(Counts(done=1234, failed=5, in_flight=67, done_bytes=250), 1000)
    for word in ("25%", "1,234 done", "/s", "67 in flight", "5 failed", "left"):
        assert word in text


@pytest.mark.parametrize("total_bytes", [None, 0])
def test_without_a_known_size_there_is_no_share(total_bytes: int | None) -> None:
    text = shown(Counts(done=3, done_bytes=30), total_bytes)
    assert "3 done" in text
    assert "100%" not in text


def test_nothing_is_shown_where_stderr_is_no_terminal(in_process: Callable[..., Any]) -> None:
    assert in_process("map", "work.py:upper", stdin=b"a\n").err == ""


@pytest.mark.slow
@pytest.mark.usefixtures("real_pool")
def test_on_a_terminal_the_summary_stays(functions: Path) -> None:
    (functions.parent / "in.txt").write_text("5\n0\n")
    ours, theirs = pty.openpty()
    seen = bytearray()

    def watch() -> None:
        try:
            while data := os.read(ours, 4096):
                seen.extend(data)
        except OSError:  # what a Linux terminal answers when its last user has gone
            pass

    watcher = threading.Thread(target=watch)
    watcher.start()
    done = subprocess.run(
        [sys.executable, "-m", "rimstone", "map", "work.py:divide", "in.txt"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        cwd=functions.parent,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        check=False,
        timeout=60,
    )
    os.close(theirs)
    watcher.join()
    os.close(ours)
    assert done.returncode == 1
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 2
    lines = seen.decode().splitlines()
    assert "2 done, 1 failed" in lines[-1]
    assert "in flight" in seen.decode(), "the bar has been there"
    assert "\x1b" not in lines[-1].split("2 done")[1]


def test_a_missing_input_on_a_terminal_is_said(functions: Path) -> None:
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "rimstone", "map", "work.py:upper"],
        stdin=theirs,
        capture_output=True,
        text=True,
        cwd=functions.parent,
        check=False,
        timeout=60,
    )
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 2
    assert "INPUTS is missing and standard input is a terminal" in done.stderr
