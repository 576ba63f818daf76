"""The chapters of the tour, and their lessons in order. A lesson is a program in the folder `lessons`.

The programs are scripts, not modules of this package: they lie here so that they are there wherever rimstone is. Some
are among the repository's `examples/` too, by a link. Each begins with a docstring: its first paragraph says what it
shows. Each prints what it measures; nothing of its output is known before. To add one: a file, and a line below.
"""

import ast
import os
import select
from dataclasses import dataclass

__all__ = ["CHAPTERS", "Chapter", "Lesson"]

_LESSONS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lessons")


@dataclass(frozen=True)
class Lesson:
    """One program of the tour.

    Attributes:
        folder: Of its chapter, under `lessons`.
        name: Of its file, without the ending; unique in the tour.
        title: What it is about, in a few words.
        arguments: For the program: such that it takes a few seconds.
        needs: A name that the standard library's `select` must have for it; None if it runs everywhere.
    """

    folder: str
    name: str
    title: str
    arguments: tuple[str, ...] = ()
    needs: str | None = None

    @property
    def path(self) -> str:
        """The program's file."""
        return os.path.join(_LESSONS, self.folder, f"{self.name}.py")

    def why_not(self) -> str | None:
        """Why it cannot be run here, in words; None if it can."""
        return None if self.needs is None or hasattr(select, self.needs) else f"this system has no {self.needs}"

    def read(self) -> tuple[str, str]:
        """What the program says it shows, and the code below that."""
        with open(self.path, encoding="utf-8") as file:
            source = file.read()
        docstring = ast.parse(source).body[0]
        assert isinstance(docstring, ast.Expr)
        assert isinstance(docstring.value, ast.Constant)
        code = source.splitlines()[docstring.end_lineno :]
        return str(docstring.value.value).strip(), "\n".join(code).strip("\n")


@dataclass(frozen=True)
class Chapter:
    """Lessons that belong together.

    Attributes:
        name: As the command line takes it.
        title: For people.
        claim: What the chapter is about, in a sentence.
        lessons: In order.
    """

    name: str
    title: str
    claim: str
    lessons: tuple[Lesson, ...]


CHAPTERS = (
    Chapter(
        "pools",
        "Pools",
        "Workers are made once, used again and again, and never more than the machine can take.",
        (
            Lesson("pools", "thread_pool", "who runs where: threads of one process"),
            Lesson("pools", "process_pool", "who runs where: processes"),
            Lesson("pools", "bounded_pool", "a pool has a bound"),
            Lesson("pools", "processes_compute", "computing takes processes"),
            Lesson("pools", "submit_sync_async", "wait for each call, or submit all first"),
            Lesson("pools", "futures", "submit, result, callback, map"),
            Lesson("pools", "pool_levels", "a Pool finds the level of a function by itself"),
        ),
    ),
    Chapter(
        "coroutines",
        "Coroutines",
        "One thread runs many functions: it saves the state of one and switches to another.",
        (
            Lesson("coroutines", "yield_notices_nothing", "yield saves the state, and notices no wait", ("0.4",)),
            Lesson("coroutines", "switch_by_hand", "switching by hand, and what a switch costs"),
            Lesson("coroutines", "play_eat", "a wait that is noticed by itself", ("0.3",)),
            Lesson("coroutines", "compute_pair", "computing is not made faster", ("0.3",)),
            Lesson("coroutines", "many_sockets", "500 conversations on one thread"),
            Lesson("coroutines", "timeout", "a wait with an end"),
            Lesson("coroutines", "who_waits", "who waits for what"),
        ),
    ),
    Chapter(
        "io-models",
        "IO models",
        "Four ways to wait for data: blocking, non-blocking, multiplexing, asynchronous.",
        (
            Lesson("io_models", "blocking_server", "blocking: one client at a time"),
            Lesson("io_models", "thread_per_connection", "blocking: a thread for each connection"),
            Lesson("io_models", "nonblocking_recv", "non-blocking: ask again"),
            Lesson("io_models", "nonblocking_server", "non-blocking: ask everybody again"),
            Lesson("io_models", "select_one", "multiplexing with one connection", needs="select"),
            Lesson("io_models", "select_many", "multiplexing with many connections", needs="select"),
            Lesson("io_models", "idle_connections", "select, poll and epoll with many who are silent", needs="epoll"),
            Lesson("io_models", "epoll_edges", "epoll: level or edge", needs="epoll"),
            Lesson("io_models", "two_phases", "the two phases of a read, in each family"),
            Lesson("io_models", "every_model", "one blocking handler under every IO model"),
        ),
    ),
)
