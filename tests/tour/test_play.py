"""A lesson is run in a process of its own: what is shown of it, how it fails, and that nothing is left of it."""

import os
import threading
from pathlib import Path

import pytest

from rimstone.tour import Lesson, LessonFailed, play

pytestmark = pytest.mark.slow


@pytest.fixture
def lesson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lesson:
    """A lesson whose program the test writes: to `lesson.path`."""
    monkeypatch.setattr("rimstone.tour.chapters._LESSONS", str(tmp_path))
    (tmp_path / "odd").mkdir()
    return Lesson("odd", "program", "made up", ("from the lesson",))


def write(lesson: Lesson, code: str) -> None:
    Path(lesson.path).write_text(f'"""Made up."""\n\n{code}\n', encoding="utf-8")


def test_output_and_errors_are_shown_line_by_line(lesson: Lesson) -> None:
    write(lesson, "import sys\nprint('one\\ntwo')\nprint(sys.argv[1:], 'é')\nsys.stderr.write('three')")
    shown: list[str] = []
    measured = play(lesson, shown.append)
    assert shown == ["one", "two", "['from the lesson'] é", "three"]
    assert measured.seconds > 0
    assert measured.cpu_seconds > 0


def test_a_line_is_shown_before_the_program_ends(lesson: Lesson) -> None:
    """It waits for what we do when we have seen its line."""
    flag = Path(lesson.path).with_suffix(".flag")
    os.mkfifo(flag)
    write(lesson, f"print('first')\nopen({str(flag)!r}).read()\nprint('last')")
    shown: list[str] = []

    def show(line: str) -> None:
        shown.append(line)
        if line == "first":
            flag.write_text("go on")

    play(lesson, show)
    assert shown == ["first", "last"]


def test_it_runs_this_very_rimstone(lesson: Lesson) -> None:
    import rimstone

    write(lesson, "import rimstone\nprint(rimstone.__file__)")
    shown: list[str] = []
    play(lesson, shown.append)
    assert shown == [rimstone.__file__]


def test_it_reads_nothing_from_our_stdin(lesson: Lesson) -> None:
    write(lesson, "import sys\nprint(repr(sys.stdin.read()))")
    shown: list[str] = []
    play(lesson, shown.append)
    assert shown == ["''"]


def test_a_program_that_fails(lesson: Lesson) -> None:
    write(lesson, "raise ValueError('odd')")
    shown: list[str] = []
    with pytest.raises(LessonFailed, match="program ended with exit code 1; what it wrote says why"):
        play(lesson, shown.append)
    assert shown[-1] == "ValueError: odd"


def test_a_program_that_does_not_end_is_ended_with_its_children(lesson: Lesson) -> None:
    write(lesson, "import subprocess\nsubprocess.run(['sleep', '600'])")
    with pytest.raises(LessonFailed, match="program was ended after 0"):
        play(lesson, print, limit_seconds=0.5)


def test_an_exception_of_ours_ends_the_program_and_its_workers(lesson: Lesson) -> None:
    write(
        lesson,
        "import time\nfrom rimstone import Pool\npool = Pool()\npool.submit(abs, 1).result()\n"
        "print('under way')\ntime.sleep(600)",
    )

    def show(line: str) -> None:
        assert line == "under way"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play(lesson, show)


def test_a_program_that_ignores_sigterm_is_killed(lesson: Lesson) -> None:
    write(
        lesson,
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('under way')\ntime.sleep(600)",
    )

    def show(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play(lesson, show)


def test_what_the_system_lacks_is_said() -> None:
    assert Lesson("odd", "program", "made up", needs="no_such_call").why_not() == "this system has no no_such_call"
    assert Lesson("odd", "program", "made up").why_not() is None


def test_it_can_be_played_from_any_thread(lesson: Lesson) -> None:
    write(lesson, "print('here')")
    shown: list[str] = []
    thread = threading.Thread(target=play, args=(lesson, shown.append))
    thread.start()
    thread.join()
    assert shown == ["here"]
