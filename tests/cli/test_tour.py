"""`rimstone tour`: what is listed, what is played, what it shows of a lesson, and how it ends."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from rimstone.tour import CHAPTERS

Run = Callable[..., Any]
NAMES = [lesson.name for chapter in CHAPTERS for lesson in chapter.lessons]
COMMAND = [sys.executable, "-m", "rimstone", "tour"]


def test_the_list_names_every_chapter_and_lesson(in_process: Run) -> None:
    result = in_process("tour", "--list")
    assert (result.code, result.err) == (0, "")
    assert re.findall(r"^(\S+): ", result.out, re.MULTILINE) == ["pools", "coroutines", "io-models"]
    assert re.findall(r"^  (\S+)  ", result.out, re.MULTILINE) == NAMES


def test_the_list_of_one_chapter(in_process: Run) -> None:
    result = in_process("tour", "io-models", "--list")
    assert re.findall(r"^  (\S+)  ", result.out, re.MULTILINE) == [lesson.name for lesson in CHAPTERS[2].lessons]


@pytest.mark.parametrize("name", ["io_models", "epoll", "", "pools/futures"])
def test_an_unknown_name(in_process: Run, name: str) -> None:
    result = in_process("tour", "pools", name)
    assert result.code == 2
    assert result.out == ""  # nothing was played before the mistake was seen
    assert result.err == (
        f"rimstone: {name!r} is neither a chapter nor a lesson of the tour; use one of pools, coroutines, io-models, "
        "or a lesson's name (see 'rimstone tour --list')\n"
    )


def test_a_pause_needs_a_terminal(in_process: Run) -> None:
    result = in_process("tour", "--pause", "switch_by_hand")
    assert result.code == 2
    assert result.out == ""
    assert "--pause waits for Enter, and there is no terminal" in result.err


@pytest.mark.slow
def test_lessons_are_played_in_the_order_given(in_child: Run) -> None:
    result = in_child("tour", "select_one", "switch_by_hand")
    assert (result.code, result.err) == (0, "")
    headings = re.findall(r"^(.+)\n[-=]+$", result.out, re.MULTILINE)
    assert headings == [
        "IO models",
        "IO models 5/10: multiplexing with one connection (select_one)",
        "Coroutines",
        "Coroutines 2/7: switching by hand, and what a switch costs (switch_by_hand)",
    ]


@pytest.mark.slow
def test_a_lesson_says_what_it_shows_shows_its_code_runs_it_and_shows_what_was_measured(in_child: Run) -> None:
    result = in_child("tour", "switch_by_hand")
    assert "\x1b" not in result.out  # no terminal, no colours
    lesson = next(lesson for lesson in CHAPTERS[1].lessons if lesson.name == "switch_by_hand")
    shows, code = lesson.read()
    found = re.search(
        r"\(switch_by_hand\)\n-+\n(.*?)\n\n    (.*)\n\n\$ python switch_by_hand.py\n(.*)"
        r"It took [\d.]+ s, and [\d.]+ s of CPU.\n$",
        result.out,
        re.DOTALL,
    )
    assert found is not None, result.out
    assert found[1].split() == shows.split()
    assert re.sub("^    ", "", found[2], flags=re.MULTILINE) == code
    assert re.fullmatch(r"(  [ab] \d on thread \d+\n){6}  200,000 switches: .*\n", found[3])


@pytest.mark.slow
def test_a_chapter_is_played_from_its_first_lesson_to_its_last(in_process: Run, monkeypatch: Any) -> None:
    played = []

    def play(lesson: Any, show: Any) -> Any:
        from rimstone.tour import Measured

        played.append(lesson.name)
        show("a line of the program")
        return Measured(1.0, 0.5)

    monkeypatch.setattr("rimstone.tour.play", play)
    result = in_process("tour")
    assert (result.code, result.err) == (0, "")
    assert played == NAMES
    assert result.out.count("  a line of the program\nIt took 1.0 s, and 0.5 s of CPU.\n") == len(NAMES)


def test_a_lesson_that_failed_is_told_and_the_others_are_played(in_process: Run, monkeypatch: Any) -> None:
    from rimstone.tour import LessonFailed, Measured

    def play(lesson: Any, show: Any) -> Measured:
        if lesson.name == "timeout":
            raise LessonFailed("timeout ended with exit code 3; what it wrote says why")
        return Measured(1.0, 0.5)

    monkeypatch.setattr("rimstone.tour.play", play)
    result = in_process("tour", "coroutines")
    assert result.code == 1
    assert result.err == "rimstone: timeout ended with exit code 3; what it wrote says why\n"
    assert "Failed: timeout ended with exit code 3" in result.out
    assert result.out.count("It took") == len(CHAPTERS[1].lessons) - 1


def test_a_lesson_that_cannot_run_here_is_shown_all_the_same(in_process: Run, monkeypatch: Any) -> None:
    monkeypatch.delattr(select, "epoll", raising=False)
    result = in_process("tour", "epoll_edges")
    assert (result.code, result.err) == (0, "")
    assert "epoll.register(near" in result.out
    assert result.out.endswith("Not run: this system has no epoll.\n")


@pytest.mark.slow
def test_ctrl_c_ends_it_and_the_lesson_quietly() -> None:
    with subprocess.Popen(
        [*COMMAND, "play_eat", "futures"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as tour:
        assert tour.stdout is not None
        assert tour.stderr is not None
        for line in tour.stdout:
            if line == "  play 1\n":
                break
        tour.send_signal(signal.SIGINT)
        rest, err = tour.communicate(timeout=30)
    assert tour.returncode == 130
    assert err == ""
    assert "play 2" not in rest


@pytest.mark.slow
def test_the_reader_goes_away() -> None:
    with subprocess.Popen([*COMMAND, "coroutines"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as tour:
        assert tour.stdout is not None
        assert tour.stderr is not None
        tour.stdout.readline()
        tour.stdout.close()
        assert tour.wait(30) == 141
        assert tour.stderr.read() == ""


@pytest.mark.slow
def test_on_a_terminal_there_are_colours_and_a_pause_waits_for_enter() -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(
        [*COMMAND, "--pause", "switch_by_hand"], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as tour:
        try:
            os.close(theirs)
            before = read_until(ours, b"Enter runs it ")
            assert b"\x1b[" in before
            assert b"It took" not in before
            os.write(ours, b"\n")
            assert b"It took" in read_until(ours, b"Enter goes on ")
            os.write(ours, b"\n")
            read_until(ours, None)
            assert tour.wait(30) == 0
        finally:
            tour.kill()
            os.close(ours)


def read_until(terminal: int, text: bytes | None) -> bytes:
    """What the terminal shows up to *text*; None: until its other side is closed."""
    shown = b""
    while text is None or text not in shown:
        data = b""
        with suppress(OSError):  # EIO: the other side is closed
            data = os.read(terminal, 65536)
        if not data:
            assert text is None, shown
            break
        shown += data
    return shown
