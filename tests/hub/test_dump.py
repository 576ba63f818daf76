"""tasks, stack and dump: what is there, what it waits for, where it is; from any thread and any signal handler."""

import io
import os
import signal
import socket
import sys
import threading

import pytest

from rimstone import clock
from rimstone.hub import TaskGroup, close_hub, current_task, dump, dump_on_signal, get_hub, sleep, spawn, tasks, waiter
from rimstone.hub.dump import waits_for
from rimstone.iomodel.base import READ
from rimstone.sync import Lock, SimpleQueue


def dumped():
    file = io.StringIO()
    dump(file)
    return file.getvalue()


def lines_of(task):
    """The line and the stack of one task in a dump."""
    lines = dumped().splitlines()
    first = next(n for n, line in enumerate(lines) if task.name in line)
    last = next((n for n in range(first + 1, len(lines)) if not lines[n].startswith("    ")), len(lines))
    return lines[first], "\n".join(lines[first + 1 : last])


def outer_function():
    inner_function()


def inner_function():
    sleep(60)


@pytest.fixture
def parked():
    task = spawn(outer_function)
    sleep(0)
    yield task
    task.kill()


def test_tasks_of_this_thread(parked):
    new = spawn(int)
    assert tasks() == [parked, new]
    assert [task.state for task in tasks()] == ["parked", "created"]
    assert current_task() not in tasks()
    new.join()
    assert tasks() == [parked]


@pytest.fixture
def elsewhere():
    """A thread that runs a parked and a computing task, and its hub."""
    made, computing, leave = [], threading.Event(), threading.Event()

    def compute():
        computing.set()
        leave.wait()  # a wait in C, as far as the hub can tell

    def program():
        made.extend([spawn(outer_function), spawn(compute)])
        made[1].join()
        made[0].kill()
        close_hub()

    thread = threading.Thread(target=program, name="elsewhere")
    thread.start()
    computing.wait()
    yield made
    leave.set()
    thread.join()


def test_tasks_of_another_thread(elsewhere):
    assert tasks() == elsewhere
    assert [task.state for task in elsewhere] == ["parked", "running"]


def functions_in(task):
    return [frame.name for frame in task.stack()]


def test_stack_of_a_parked_task(parked):
    names = functions_in(parked)
    assert names[-2:] == ["outer_function", "inner_function"] or names[-3:-1] == ["outer_function", "inner_function"]
    assert not {"_switch_away", "park", "_run_task", "run"} & set(names)


def test_stack_of_the_running_task():
    def work():
        return functions_in(current_task())

    names = spawn(work).get()
    assert "work" in names
    assert "test_stack_of_the_running_task" not in names


def test_stack_in_another_thread(elsewhere):
    assert "inner_function" in functions_in(elsewhere[0])
    names = functions_in(elsewhere[1])
    assert "compute" in names
    assert "program" not in names


def test_no_stack_before_the_start_and_after_the_end():
    task = spawn(int)
    assert functions_in(task) == []
    task.join()
    assert functions_in(task) == []


def test_dump_names_state_parent_and_stack(parked):
    parked.name = "the-parked-one"
    line, stack = lines_of(parked)
    assert "parked; sleeps, at most" in line
    assert "spawned by root" in line
    assert "in inner_function" in stack
    assert "sleep(60)" in stack


def test_dump_of_threads(elsewhere):
    text = dumped()
    assert "thread MainThread" in text
    assert "thread elsewhere" in text
    assert ": 2 tasks\n" in text
    assert "in compute" in text
    assert "main program: parked; waits for the end of compute-" in text


def test_dump_of_a_thread_that_runs_no_tasks():
    ready, leave = threading.Event(), threading.Event()

    def just_waits():
        ready.set()
        leave.wait()

    thread = threading.Thread(target=just_waits, name="plain")
    thread.start()
    ready.wait()
    text = dumped()
    leave.set()
    thread.join()
    assert "thread plain" in text
    assert ": runs no tasks\n" in text
    assert "in just_waits" in text


@pytest.mark.parametrize(
    ("wait", "what"),
    [
        (lambda lock: lock.acquire(), "rimstone.sync.Lock"),
        (lambda _: SimpleQueue().get(), "SimpleQueue"),
        (lambda _: waiter().park(), "unparked"),
        (lambda _: waiter().park(clock.monotonic() + 60), "at most 60 s more"),
    ],
    ids=["lock", "queue", "waiter", "deadline"],
)
def test_what_a_task_waits_for(wait, what):
    lock = Lock()
    lock.acquire()
    task = spawn(wait, lock)
    sleep(0)
    assert what in waits_for(task)
    task.kill()


def test_what_a_join_waits_for(parked):
    joining = spawn(parked.join)
    sleep(0)
    assert waits_for(joining) == f"waits for the end of {parked.name}"
    assert waits_for(current_task()) == ""
    joining.kill()


def test_what_a_group_waits_for():
    def parent():
        with TaskGroup() as group:
            group.spawn(sleep, 60)

    task = spawn(parent)
    sleep(0)
    assert "<TaskGroup open, 1 tasks>" in waits_for(task)
    task.kill()


def test_what_a_socket_waits_for(hub):
    left, right = socket.socketpair()
    with left, right:
        by_socket = spawn(hub.io.recv, left, 10, 0, None)
        by_number = spawn(hub.io.wait, right.fileno(), READ)
        sleep(0)
        assert waits_for(by_socket) == f"waits to read descriptor {left.fileno()}"
        assert waits_for(by_number) == f"waits to read descriptor {right.fileno()}"
        by_socket.kill()
        by_number.kill()
        hub.io.forget(left.fileno())


def test_dump_by_a_task_and_to_stderr(capsys):
    spawn(dump).get()
    text = capsys.readouterr().err
    assert "main program: parked" in text
    dump()
    assert "main program: running" in capsys.readouterr().err


NOT_READ = "a task could not " + "be read"  # in two parts: this very line is in the dump


def test_while_tasks_come_and_go_in_another_thread():
    stop = []

    def churn():
        get_hub()
        while not stop:
            for task in [spawn(outer_function) for _ in range(5)]:
                sleep(0)
                task.kill()
        close_hub()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(30):
            assert NOT_READ not in dumped()
    finally:
        stop.append(1)
        sys.setswitchinterval(interval)
        thread.join()


@pytest.fixture
def on_signal():
    before = dump_on_signal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


def test_signal_while_the_hub_polls(on_signal, parked, capsys):
    hub = get_hub()

    def on_idle():
        hub.on_idle = None
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        return False

    mine = waiter()
    before = signal.signal(signal.SIGALRM, lambda *_: (os.kill(os.getpid(), signal.SIGUSR1), mine.unpark()))
    hub.on_idle = on_idle
    try:
        assert mine.park(clock.monotonic() + 30)
    finally:
        signal.signal(signal.SIGALRM, before)
    text = capsys.readouterr().err
    assert "in inner_function" in text
    assert "in test_signal_while_the_hub_polls" in text


def test_signal_while_a_task_computes(on_signal, capsys):
    def compute():
        signal.raise_signal(signal.SIGUSR1)

    spawn(compute).get()
    assert "in compute" in capsys.readouterr().err


def test_signal_while_somebody_writes_to_stderr(on_signal, capfd, monkeypatch):
    class Reentrant:
        def write(self, text):
            raise RuntimeError("reentrant call inside a writer")

    monkeypatch.setattr(sys, "stderr", Reentrant())
    signal.raise_signal(signal.SIGUSR1)
    monkeypatch.undo()
    assert "thread MainThread" in capfd.readouterr().err


def test_many_tasks_with_the_same_stack():
    made = [spawn(outer_function) for _ in range(200)]
    other = spawn(SimpleQueue().get)
    sleep(0)
    sleep(0)
    text = dumped()
    assert text.count("in inner_function") == 1
    assert text.count("of outer_function parked") == 10
    assert "... and 190 more with the same stack\n" in text
    assert f"{made[9].name} of" in text
    assert f"{made[10].name} of" not in text
    assert f"{other.name} of" in text
    for task in (*made, other):
        task.kill()


def test_limit_of_different_stacks():
    def deep(left):
        if left:
            deep(left - 1)
        else:
            sleep(60)

    made = [spawn(deep, number) for number in range(5) for _ in range(11)]
    sleep(0)
    few, all_of_them = io.StringIO(), io.StringIO()
    dump(few, limit=3)
    dump(all_of_them, limit=None)
    assert "  ... and 22 more tasks, with 2 other stacks; dump(limit=None) prints all\n" in few.getvalue()
    assert few.getvalue().count(".deep parked:") == 30
    assert all(f"{task.name} of" in all_of_them.getvalue() for task in made)
    assert "..." not in all_of_them.getvalue()
    with pytest.raises(ValueError, match="limit of 0 stacks or more"):
        dump(limit=-1)
    for task in made:
        task.kill()
