"""`rimstone tour`: the three chapters as programs, one after the other: what it shows, the code, what it prints.

Nothing here knows what a lesson will print; the figures are measured by the lesson's program (`tour/lessons`), then and
there. On a terminal the code has colours; elsewhere all is plain text.
"""

import os
import shlex
import sys
import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from rimstone.cli.problem import FAILED, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rimstone.tour import Chapter, Lesson

__all__ = ["tour_command"]

_READER_GONE = 141  # as a shell says it of SIGPIPE
_WIDTH = 100  # of text; the code is shown as it is


def tour_command(
    wanted: Annotated[
        list[str] | None,
        typer.Argument(metavar="CHAPTER|LESSON", help="pools, coroutines, io-models, or a lesson's name."),
    ] = None,
    only_list: Annotated[bool, typer.Option("--list", help="Print the chapters and their lessons, and exit.")] = False,
    pause: Annotated[
        bool, typer.Option("--pause", help="Wait for Enter before each program runs, and after it.")
    ] = False,
) -> None:
    """Three chapters of small programs: pools, coroutines, IO models.

    Each lesson says what it shows, shows its code, runs it, and shows what was measured. Without arguments all are
    played, one after the other; each takes a few seconds, and everything stays on this machine. Ctrl-C ends it.

    Exit code: 0 all lessons ran, 1 one failed, 2 usage, 130 Ctrl-C, 141 the reader of the output went away.
    """
    lessons = list(_chosen(wanted))
    if only_list:
        _print_list(lessons)
        return
    if pause and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Problem("--pause waits for Enter, and there is no terminal to press it on; leave it out")
    try:
        failures = _play_all(lessons, pause=pause)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered has nowhere to go
        raise typer.Exit(_READER_GONE) from None
    if failures:
        raise Problem("; ".join(failures), FAILED)


def _chosen(wanted: list[str] | None) -> "Iterator[tuple[Chapter, Lesson]]":
    """Every lesson that *wanted* names, in the order of the names; all of them if there are none.

    Raises:
        Problem: a name is none.
    """
    from rimstone.tour import CHAPTERS

    by_name: dict[str, list[tuple[Chapter, Lesson]]] = {}
    for chapter in CHAPTERS:
        by_name[chapter.name] = [(chapter, lesson) for lesson in chapter.lessons]
        by_name.update({lesson.name: [(chapter, lesson)] for lesson in chapter.lessons})
    for name in wanted or [chapter.name for chapter in CHAPTERS]:
        if name not in by_name:
            chapters = ", ".join(chapter.name for chapter in CHAPTERS)
            raise Problem(
                f"{name!r} is neither a chapter nor a lesson of the tour; use one of {chapters}, or a lesson's name "
                "(see 'rimstone tour --list')"
            )
        yield from by_name[name]


# -- what is shown -----------------------------------------------------------------------------------------------------


def _play_all(lessons: "list[tuple[Chapter, Lesson]]", *, pause: bool) -> list[str]:
    """Play them one after the other; what went wrong, in words."""
    failures = []
    before: Chapter | None = None
    for chapter, lesson in lessons:
        if chapter is not before:
            _print_chapter(chapter)
            before = chapter
        failure = _play(chapter, lesson, pause=pause)
        if failure is not None:
            failures.append(failure)
    return failures


def _play(chapter: "Chapter", lesson: "Lesson", *, pause: bool) -> str | None:
    """Play one lesson; what went wrong, in words, or None."""
    from rimstone.tour import LessonFailed, play

    shows, code = lesson.read()
    number = chapter.lessons.index(lesson) + 1
    _print_heading(f"{chapter.title} {number}/{len(chapter.lessons)}: {lesson.title} ({lesson.name})", "-")
    _print_text(shows)
    _print_code(code)
    why_not = lesson.why_not()
    if why_not is not None:
        print(f"Not run: {why_not}.")
        return None
    if pause:
        input("Enter runs it ")
    print(f"$ python {shlex.join([f'{lesson.name}.py', *lesson.arguments])}", flush=True)
    try:
        measured = play(lesson, lambda line: print(f"  {line}", flush=True))
    except LessonFailed as failure:
        print(f"Failed: {failure}", flush=True)
        return str(failure)
    print(f"It took {measured.seconds:.1f} s, and {measured.cpu_seconds:.1f} s of CPU.", flush=True)
    if pause:
        input("Enter goes on ")
    return None


def _print_list(lessons: "list[tuple[Chapter, Lesson]]") -> None:
    width = max(len(lesson.name) for _, lesson in lessons)
    before: Chapter | None = None
    for chapter, lesson in lessons:
        if chapter is not before:
            print(f"{chapter.name}: {chapter.claim}")
            before = chapter
        print(f"  {lesson.name:{width}}  {lesson.title}")


def _print_chapter(chapter: "Chapter") -> None:
    _print_heading(chapter.title, "=")
    print(chapter.claim)


def _print_heading(text: str, underline: str) -> None:
    print(f"\n{text}\n{underline * len(text)}")


def _print_text(text: str) -> None:
    for paragraph in text.split("\n\n"):
        print(textwrap.fill(" ".join(paragraph.split()), _WIDTH), end="\n\n")


def _print_code(code: str) -> None:
    if not sys.stdout.isatty():
        print(textwrap.indent(code, "    "), end="\n\n", flush=True)
        return
    from rich.console import Console
    from rich.padding import Padding
    from rich.syntax import Syntax

    shown = Syntax(code, "python", theme="ansi_dark", background_color="default", word_wrap=True)
    Console().print(Padding(shown, (0, 4)))
    print(flush=True)
