"""Each lesson's program shows what its first lines claim; in a small size, and without limits on what takes how long.

What is compared is what one run measured, never a figure with a threshold of ours, except where the program itself
sleeps for so long. Where a busy machine may disturb one run, one of three must show it.
"""

import ast
import os
import re
import select
from collections.abc import Callable
from pathlib import Path

import pytest

from rimstone import iomodel
from rimstone.tour import CHAPTERS, Lesson, play

LESSONS = {lesson.name: lesson for chapter in CHAPTERS for lesson in chapter.lessons}
ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "src/rimstone/tour/lessons"

slow = pytest.mark.slow
needs_epoll = pytest.mark.skipif(not hasattr(select, "epoll"), reason="this system has no epoll")


def output_of(name: str, *arguments: object) -> str:
    """What the lesson's program prints. It must end well, and leave nothing (tests/conftest.py)."""
    lines: list[str] = []
    play(LESSONS[name], lines.append, arguments=[str(argument) for argument in arguments])
    return "\n".join(lines)


def number(text: str, pattern: str) -> float:
    """The one figure that *pattern* has in parentheses."""
    found = re.findall(pattern, text, re.MULTILINE)
    assert len(found) == 1, f"{pattern} is not in: {text}"
    return float(found[0].replace(",", ""))


def shown_once_in_three(shown: Callable[[], bool]) -> bool:
    return any(shown() for _ in range(3))


# -- the programs as texts ---------------------------------------------------------------------------------------------


def test_every_program_is_a_lesson_and_every_lesson_a_program() -> None:
    assert sorted(lesson.path for lesson in LESSONS.values()) == sorted(map(str, FOLDER.rglob("*.py")))


def test_names_are_unique() -> None:
    names = [chapter.name for chapter in CHAPTERS] + [lesson.name for chap in CHAPTERS for lesson in chap.lessons]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("lesson", LESSONS.values(), ids=LESSONS)
def test_a_program_is_read_in_one_go(lesson: Lesson) -> None:
    source = Path(lesson.path).read_text(encoding="utf-8")
    assert len([line for line in source.splitlines() if line.strip()]) <= 40
    shows, code = lesson.read()
    assert shows == (ast.get_docstring(ast.parse(source)) or "").strip()
    assert source in {f'"""{shows}\n"""\n\n{code}\n', f'"""{shows}"""\n\n{code}\n'}


def test_examples_that_are_lessons_are_the_same_file() -> None:
    links = [path for path in (ROOT / "examples").iterdir() if path.is_symlink()]
    assert links
    assert {os.path.realpath(path) for path in links} <= {lesson.path for lesson in LESSONS.values()}


# -- pools -------------------------------------------------------------------------------------------------------------


@slow
def test_thread_pool() -> None:
    text = output_of("thread_pool")
    assert len(set(re.findall(r"in process (\d+) thread", text))) == 1
    assert len(set(re.findall(r"thread (\S+)$", text, re.MULTILINE))) <= 5


@slow
def test_process_pool() -> None:
    text = output_of("process_pool")
    workers = set(re.findall(r"ran in process (\d+)", text))
    assert len(workers) <= 5
    assert not workers & set(re.findall(r"the parent is process (\d+)", text))


@slow
def test_bounded_pool() -> None:
    text = output_of("bounded_pool", 60)
    assert "a thread for each call: 60 threads for 60 calls" in text
    assert "workers=20" in text
    assert number(text, r"a pool of 20: (\d+) threads for 60 calls") <= 20


@slow
def test_processes_compute() -> None:
    text = output_of("processes_compute", 0.02)
    assert number(text, r"CPUs of this process: (\d+)") >= 1
    assert number(text, r"one after the other: ([\d.]+) s") >= 0
    assert number(text, r"ThreadPoolExecutor: ([\d.]+) s") >= 0
    assert number(text, r"ProcessPoolExecutor: ([\d.]+) s") >= 0


@slow
def test_submit_sync_async() -> None:
    text = output_of("submit_sync_async")
    synchronous, asynchronous = (
        number(text, rf"^{word}: .* in ([\d.]+) s") for word in ("synchronous", "asynchronous")
    )
    assert synchronous > asynchronous


@slow
def test_futures() -> None:
    text = output_of("futures")
    assert number(text, r"in another process: (\d+)") != number(text, r"not (\d+)$")
    assert number(text, r"submit returned after ([\d.]+) s") < number(text, r"result returned 49 after ([\d.]+) s")
    assert "TypeError" in text
    assert re.search(r"callback: 9, called in thread rimstone-pool\S*-callbacks", text)
    assert "map: [0, 1, 4, 9, 16, 25]" in text
    assert sorted(map(int, re.findall(r"\d+", text.partition("as_completed: ")[2]))) == [0, 1, 4, 9, 16, 25]


@slow
def test_pool_levels() -> None:
    text = output_of("pool_levels", 30)
    waits, blocks = (number(text, rf"{name}: .* threads: (\d+)") for name in ("waits", "blocks"))
    assert waits < blocks
    assert number(text, r"waits: ([\d.]+) s") < 30 * 0.05  # one after the other they would take so long
    assert number(text, r"finished=(\d+)") == 90


# -- coroutines --------------------------------------------------------------------------------------------------------


@slow
def test_yield_notices_nothing() -> None:
    text = output_of("yield_notices_nothing", 0.1)
    assert number(text, r"two generators that sleep 0.1 s: ([\d.]+) s") >= 0.2

    def shown() -> bool:
        text = output_of("yield_notices_nothing", 0.1)
        return number(text, r"switching by yield: ([\d.]+) s") > number(text, r"one after the other: ([\d.]+) s")

    assert shown_once_in_three(shown)


@slow
def test_switch_by_hand() -> None:
    *steps, measured = output_of("switch_by_hand", 1000).splitlines()
    assert [step[:3] for step in steps] == ["a 0", "b 0", "a 1", "b 1", "a 2", "b 2"]
    assert len({step.split()[-1] for step in steps}) == 1
    assert number(measured, r"([\d.]+) microseconds each") > 0


@slow
def test_play_eat() -> None:
    text = output_of("play_eat", 0.1)
    assert number(text, r"^not patched: ([\d.]+) s") >= 0.8
    assert shown_once_in_three(lambda: number(output_of("play_eat", 0.1), r"^patched: ([\d.]+) s") < 0.8)


@slow
def test_compute_pair() -> None:
    def shown() -> bool:
        text = output_of("compute_pair", 0.1)
        # On two CPUs the pair would take half the time.
        return number(text, r"as coroutines: ([\d.]+) s") > 0.7 * number(text, r"one after the other: ([\d.]+) s")

    assert shown_once_in_three(shown)


@slow
def test_many_sockets() -> None:
    text = output_of("many_sockets", 50)
    assert "50 connections at once, 1,000 right replies, threads: 1\n" in text
    assert number(text, r"([\d,]+) messages a second") > 0


@slow
def test_timeout() -> None:
    text = output_of("timeout", 0.2)
    assert "left in time, not struck" in text
    assert number(text, r"struck after ([\d.]+) s") >= 0.2


@slow
def test_who_waits() -> None:
    text = output_of("who_waits")
    assert len(re.findall(r"^<Task \S+ of \S+ parked>$", text, re.MULTILINE)) == 5
    assert "waits to read descriptor" in text
    assert "waits for <queue.Queue" in text
    assert "waits for <locked rimstone.sync.Lock, 2 waiting" in text
    assert "in take_lock" in text
    assert text.endswith("after the kill: []")


# -- IO models ---------------------------------------------------------------------------------------------------------


@slow
def test_blocking_server() -> None:
    text = output_of("blocking_server", 0.2)
    assert [line.partition(":")[0] for line in text.splitlines()] == ["I AM THE FIRST", "I AM THE SECOND"]
    assert number(text, r"I AM THE SECOND: answered after ([\d.]+) s") >= 0.19  # not before the first has spoken


@slow
def test_thread_per_connection() -> None:
    text = output_of("thread_per_connection", 0.2, 20)
    second, first = (number(text, rf"THE {who}: answered after ([\d.]+) s") for who in ("SECOND", "FIRST"))
    assert second < first
    assert "22 connections: 22 threads beside the main one" in text


@slow
def test_nonblocking_recv() -> None:
    text = output_of("nonblocking_recv", 0.2)
    blocking, spinning, pausing = (
        number(text, rf"^{label}: asked ([\d,]+) times")
        for label in ("blocking", "non-blocking", "with a pause of 50 ms")
    )
    assert blocking == 1
    assert spinning > pausing > 1


@slow
def test_nonblocking_server_asks_in_vain_and_select_does_not() -> None:
    spinning, waiting = output_of("nonblocking_server", 5, 0.2), output_of("select_many", 5, 0.2)
    assert spinning.startswith("10 replies in ")
    assert waiting.startswith("10 replies in ")
    assert number(spinning, r"asked in vain ([\d,]+) times") > number(waiting, r"asked (\d+) times")
    # Of select: each connection, each message and each end, at most.
    assert number(waiting, r"asked (\d+) times") <= 5 * 4

    def shown() -> bool:
        cpu = [number(output_of(name, 5, 0.5), r"^([\d.]+) s of CPU") for name in ("nonblocking_server", "select_many")]
        return cpu[0] > cpu[1]

    assert shown_once_in_three(shown)


@slow
def test_select_one() -> None:
    def shown() -> bool:
        text = output_of("select_one", 5000)
        assert "ready without data: ([], [], [])" in text
        return number(text, r"^blocking: ([\d.]+)") < number(text, r"^multiplexed: ([\d.]+)")

    assert shown_once_in_three(shown)


@slow
@needs_epoll
def test_idle_connections() -> None:
    def shown() -> bool:
        few, *_, many = output_of("idle_connections", 200).splitlines()
        assert "filedescriptor out of range in select()" in many
        poll = number(many, r" poll ([\d.]+) us") / number(few, r" poll ([\d.]+) us")
        epoll = number(many, r"epoll ([\d.]+) us") / number(few, r"epoll ([\d.]+) us")
        return poll > epoll

    assert shown_once_in_three(shown)


@slow
@needs_epoll
def test_epoll_edges() -> None:
    text = output_of("epoll_edges")
    events = {name: re.findall(rf"^{name}: .*: (\d) events", text, re.MULTILINE) for name in ("level", "edge")}
    assert events == {"level": ["1", "1", "1", "0"], "edge": ["1", "0", "1", "0"]}


@slow
def test_two_phases() -> None:
    text = output_of("two_phases", 0.2)
    for family in ("blocking", "non-blocking", "multiplexing"):
        waiting = number(text, rf"^{family}: ([\d.]+) s to wait")
        assert waiting >= 0.19
        assert waiting * 1e6 > number(text, rf"^{family}: .* (\d+) us to copy")
    in_place = number(text, r"bytes in place after ([\d.]+) s")
    assert in_place >= 0.19
    assert number(text, r"^asynchronous: free after (\d+) us") < in_place * 1e6


@slow
def test_every_model_that_works_here_is_measured() -> None:
    text = output_of("every_model", 0.1)
    working = [name for name, why_not in iomodel.available().items() if why_not is None]
    assert re.findall(r"^(\S+): [\d,]+ messages/s", text, re.MULTILINE) == [*working, "blocking"]
    for name in (*working, "blocking"):
        assert number(text, rf"^{name}: ([\d,]+) messages/s") > 0
