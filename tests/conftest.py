"""Every test, wherever it stands, leaves no thread, process, descriptor or task behind; the fixture here proves it.

It compares what the process has before a test and after it, so what a fixture of wider scope or pytest itself opened
before is not counted. The first look costs some 0.2 ms and is all that a clean test pays. Only when something is new
does it collect garbage and wait a little, for threads that are just ending.
"""

import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress

# By name and now: a test may patch the modules.
from time import monotonic, sleep
from typing import Any

import pytest

GRACE_SECONDS = 3.0

# Started in the background (`&` in a script, nohup), the run ignores Ctrl-C, and so would every test about it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> list[str]:
    """Say at the top of a run what is tested."""
    from rimstone import iomodel
    from rimstone._core import core, why_pure

    why = why_pure()
    return [f"rimstone core: {core()}" + (f" ({why})" if why else ""), f"IO model: {iomodel.choose().name}"]


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """Fail a test that leaves a thread, process, descriptor or task behind. There is no exemption."""
    before = everything()
    had_hub = hub_of_this_thread() is not None
    yield
    left = wait_for_nothing_new(before, close_hub=not had_hub)
    if left:
        pytest.fail("the test left behind:\n" + "\n".join(f"  {line}" for line in left), pytrace=False)


def wait_for_nothing_new(before: dict[Any, str], close_hub: bool) -> list[str]:
    """What is there now and was not before, described; waits up to GRACE_SECONDS for it to go away."""
    tasks = new(live_tasks(), before)
    if close_hub and not tasks:
        end_hub()  # a thread keeps its hub, and so two descriptors, until it ends: the main thread's ends here
    if not new(everything(), before):
        return []
    deadline = monotonic() + GRACE_SECONDS
    gc.collect()  # a socket in a cycle is closed late, but not lost
    while new(everything(), before) and monotonic() < deadline:
        sleep(0.01)
    gc.collect()  # what ending threads have let go
    left = new(everything(), before)
    if close_hub and tasks:
        end_hub()  # the next test is not to be troubled by them
    return left


def new(now: dict[Any, str], before: dict[Any, str]) -> list[str]:
    return [text for key, text in now.items() if key not in before]


def everything() -> dict[Any, str]:
    """All threads, child processes, descriptors and tasks: a key that tells them apart, and a text for people."""
    return {**threads(), **processes(), **descriptors(), **live_tasks()}


def threads() -> dict[Any, str]:
    """Threads of Python, and those started in C, which only the kernel knows."""
    named = {thread.native_id: thread.name for thread in threading.enumerate()}
    for entry in entries("/proc/self/task"):
        named.setdefault(int(entry), "not a threading.Thread")
    return {("thread", native_id): f"thread {native_id}: {name}" for native_id, name in named.items()}


def processes() -> dict[Any, str]:
    """Children and their children, those that have ended and were never waited for included."""
    found: dict[Any, str] = {}
    parents = ["self"]
    for parent in parents:  # grows as it goes
        for task in entries(f"/proc/{parent}/task"):
            for pid in read(f"/proc/{parent}/task/{task}/children").split():
                if ("process", pid) not in found:
                    found["process", pid] = f"process {pid}: {describe_process(pid)}"
                    parents.append(pid)
    return found


def describe_process(pid: str) -> str:
    command = read(f"/proc/{pid}/cmdline").replace("\0", " ").strip()
    # A zombie has no command line any more, only its name, in brackets as ps shows it.
    return command or f"[{read(f'/proc/{pid}/comm').strip()}], ended but not waited for"


def descriptors() -> dict[Any, str]:
    """Open descriptors by number and by what they lead to: a number that is used anew for something else counts."""
    found: dict[Any, str] = {}
    for number in entries("/proc/self/fd"):
        with suppress(OSError):  # the one that listed this very folder
            target = os.readlink(f"/proc/self/fd/{number}")
            found["descriptor", number, target] = f"descriptor {number}: {target}"
    return found


def live_tasks() -> dict[Any, str]:
    """Tasks of this thread's hub that have not ended; other threads' tasks end with their threads."""
    tasks = getattr(sys.modules.get("rimstone.hub"), "live_tasks", list)()
    return {("task", id(task)): f"task: {task!r}" for task in tasks}


def hub_of_this_thread() -> Any:
    return getattr(sys.modules.get("rimstone.hub"), "current_hub", lambda: None)()


def end_hub() -> None:
    getattr(sys.modules.get("rimstone.hub"), "close_hub", lambda: None)()


def entries(folder: str) -> list[str]:
    """Names in a folder of /proc; none where it has gone meanwhile, or there is no /proc (then it is not checked)."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


def read(file: str) -> str:
    """A file of /proc; empty when its process has gone meanwhile."""
    try:
        with open(file, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""
