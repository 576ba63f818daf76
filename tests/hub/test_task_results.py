"""Task: join, get, ready, successful, value, exception, and what is said of a failure nobody waits for."""

import gc
import threading
import time
import weakref

import pytest

from rimstone.errors import HubError, TaskExit
from rimstone.hub import Task, close_hub, current_task, joinall, live_tasks, sleep, spawn


def fail(message="no"):
    raise KeyError(message)


def test_get_returns_what_the_function_returned():
    task = spawn(lambda x, y=0: x + y, 1, y=2)
    assert not task.ready()
    assert not task.successful()
    assert task.value is None
    assert task.get() == 3
    assert task.ready()
    assert task.successful()
    assert (task.value, task.exception) == (3, None)
    assert task.get() == 3


def test_get_raises_what_the_function_raised(capsys):
    task = spawn(fail)
    with pytest.raises(KeyError, match="no"):
        task.get()
    assert task.ready()
    assert not task.successful()
    assert isinstance(task.exception, KeyError)
    assert task.value is None
    assert capsys.readouterr().err == ""  # somebody saw it


def test_join_raises_nothing(capsys):
    task = spawn(fail)
    assert task.join() is None
    assert isinstance(task.exception, KeyError)


def test_failure_that_nobody_waits_for_is_reported_and_the_others_go_on(capsys):
    spawn(fail, "unheard")
    sibling = spawn(lambda: (sleep(0.01), "fine")[1])
    assert sibling.get() == "fine"
    err = capsys.readouterr().err
    assert "nobody waits for its result" in err
    assert "Traceback (most recent call last)" in err
    assert "KeyError: 'unheard'" in err
    assert "in fail" in err


def test_failure_is_reported_without_a_stderr(monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    spawn(fail)
    assert spawn(lambda: 1).get() == 1


def test_get_that_gives_up():
    task = spawn(sleep, 5)
    with pytest.raises(TimeoutError, match=r"is not done after 0.01 s"):
        task.get(timeout=0.01)
    with pytest.raises(TimeoutError, match="is not done"):
        task.get(block=False)
    task.kill()


def test_failure_after_a_get_that_gave_up_is_reported(capsys):
    task = spawn(lambda: (sleep(0.02), fail())[0])
    with pytest.raises(TimeoutError):
        task.get(timeout=0.001)
    task.join()
    assert "KeyError" in capsys.readouterr().err


def test_join_that_gives_up():
    task = spawn(sleep, 5)
    began = time.monotonic()
    task.join(timeout=0.01)
    assert time.monotonic() - began < 2
    assert not task.ready()
    task.kill()


def test_many_wait_for_one():
    task = spawn(lambda: (sleep(0.01), 7)[1])
    getters = [spawn(task.get) for _ in range(10)]
    joinall(getters)
    assert [getter.value for getter in getters] == [7] * 10


def test_task_cannot_wait_for_itself():
    with pytest.raises(HubError, match="cannot wait for itself"):
        spawn(lambda: current_task().join()).get()


def test_thread_without_hub_waits_for_a_task():
    task = spawn(lambda: (sleep(0.05), 7)[1])
    got = []
    thread = threading.Thread(target=lambda: got.append(task.get()))
    thread.start()
    task.join()
    sleep(0.01)
    thread.join()
    assert got == [7]


def test_task_of_another_hub_waits_for_a_task():
    task = spawn(lambda: (sleep(0.05), 7)[1])
    got = []

    def other():
        ticks = []

        def tick():
            while True:
                ticks.append(1)
                sleep(0.001)

        ticker = spawn(tick)
        got.append(spawn(task.get).get())
        ticker.kill()
        got.append(len(ticks) > 3)

    thread = threading.Thread(target=other)
    thread.start()
    task.join()
    while thread.is_alive():
        sleep(0.001)
    thread.join()
    assert got == [7, True]


def test_joinall_gives_what_is_done_in_order():
    tasks = [spawn(sleep, seconds) for seconds in (0.01, 5, 0)]
    assert joinall(tasks, timeout=0.1) == [tasks[0], tasks[2]]
    tasks[1].kill()
    assert joinall(tasks) == tasks
    assert joinall([]) == []


def test_joinall_takes_any_iterable():
    assert len(joinall(spawn(sleep, 0) for _ in range(3))) == 3


def test_joinall_raises_as_soon_as_one_has_failed(capsys):
    slow = spawn(sleep, 5)
    bad = spawn(lambda: (sleep(0.01), fail())[0])
    with pytest.raises(KeyError):
        joinall([slow, bad], raise_error=True)
    assert slow.state == "parked"
    slow.kill()
    assert capsys.readouterr().err == ""


def test_joinall_that_raises_errors_and_has_none():
    tasks = [spawn(sleep, 0.01) for _ in range(3)]
    assert joinall(tasks, raise_error=True) == tasks
    slow = spawn(sleep, 5)
    assert joinall([slow], timeout=0.01, raise_error=True) == []
    slow.kill()


def test_spawn_of_a_result_instead_of_a_function():
    with pytest.raises(TypeError, match=r"write spawn\(f, x\), not spawn\(f\(x\)\)"):
        spawn(sleep(0))


def test_names_and_states():
    task = spawn(sleep, 0.01)
    assert repr(task).startswith("<Task sleep-")
    assert "created" in repr(task)
    sleep(0)
    assert task.state == "parked"
    task.join()
    assert task.state == "done"
    bad = spawn(fail)
    bad.join()
    assert "failed with KeyError" in repr(bad)
    states = []
    spawn(lambda: states.append(current_task().state)).join()
    assert states == ["running"]


def test_root_is_a_task():
    assert current_task().name == "root"
    assert isinstance(current_task(), Task)
    assert current_task() not in live_tasks()


def test_live_tasks_are_those_not_done():
    task = spawn(sleep, 5)
    assert live_tasks() == [task]
    task.kill()
    assert live_tasks() == []


def test_what_a_task_was_called_with_does_not_outlive_it():
    class Thing:
        pass

    thing = Thing()
    alive = weakref.ref(thing)

    def use(thing):
        raise KeyError

    task = spawn(use, thing)
    with pytest.raises(KeyError):
        task.get()
    task.exception.__traceback__ = None
    del thing
    gc.collect()
    assert alive() is None
    assert task.ready()


def test_finished_task_is_garbage():
    task = spawn(lambda: [1])
    alive = weakref.ref(task)
    task.join()
    sleep(0)
    del task
    gc.collect()
    assert alive() is None


def test_system_exit_and_interrupt_reach_the_root():
    for kind in (SystemExit, KeyboardInterrupt):

        def leave(kind=kind):
            raise kind

        task = spawn(leave)
        with pytest.raises(kind):
            sleep(5)
        assert isinstance(task.exception, kind)


def test_returned_task_exit_is_a_success():
    def leave():
        raise TaskExit

    task = spawn(leave)
    assert isinstance(task.get(), TaskExit)
    assert task.successful()


def test_hub_is_closed_only_by_the_main_program():
    with pytest.raises(HubError, match="cannot close its own hub"):
        spawn(close_hub).get()


def test_closing_kills_every_task():
    ended = []

    def work():
        try:
            sleep(100)
        finally:
            sleep(0)
            ended.append(1)

    for _ in range(3):
        spawn(work)
    sleep(0)
    close_hub()
    assert live_tasks() == []
    close_hub()


@pytest.mark.slow
def test_closing_leaves_behind_who_will_not_die():
    def stubborn():
        while True:
            try:
                sleep(100)
            except TaskExit:
                pass

    spawn(stubborn)
    sleep(0)
    close_hub()
