"""What a task leaves behind is finalized where no other task can come to harm, also if a finalizer wants to wait."""

import contextvars

from rimstone.hub import joinall, sleep, spawn


class Waits:
    """Its finalizer waits, which is refused (and printed) where there is no task to wait."""

    def __del__(self):
        sleep(0.001)


def test_value_of_an_ended_task_harms_no_other(monkeypatch):
    monkeypatch.setattr("sys.unraisablehook", lambda _: None)
    spawn(Waits)
    spawn(Waits)
    sleep(0)
    assert spawn(lambda: 5).get(timeout=20) == 5


def test_context_of_an_ended_task_harms_no_other(monkeypatch):
    monkeypatch.setattr("sys.unraisablehook", lambda _: None)
    variable = contextvars.ContextVar("variable")

    def work():
        variable.set(Waits())
        sleep(0)

    tasks = [spawn(work) for _ in range(5)]
    tasks += [spawn(sleep, 0) for _ in range(5)]
    assert joinall(tasks, timeout=20) == tasks


def test_value_that_the_starter_held_is_not_mistaken_for_its_own_wait(monkeypatch):
    monkeypatch.setattr("sys.unraisablehook", lambda _: None)
    woken = []

    def sleeper():
        sleep(0.05)
        woken.append(True)

    spawn(Waits)
    spawn(sleeper).join()
    assert woken == [True]
