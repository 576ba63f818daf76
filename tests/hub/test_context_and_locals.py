"""contextvars are inherited at spawn; `local` holds a task's own values."""

import contextvars
import gc
import threading
import weakref

import pytest

from rimstone.hub import close_hub, joinall, local, sleep, spawn

variable = contextvars.ContextVar("variable", default="unset")


def test_context_is_inherited_as_a_copy():
    variable.set("spawner's")
    seen = []

    def child():
        seen.append(variable.get())
        variable.set("child's")
        sleep(0.001)
        seen.append(variable.get())

    task = spawn(child)
    variable.set("changed after the spawn")
    task.join()
    assert seen == ["spawner's", "child's"]
    assert variable.get() == "changed after the spawn"


def test_context_stays_with_its_task_across_waits():
    def work(value):
        variable.set(value)
        for _ in range(5):
            sleep(0)
            assert variable.get() == value

    joinall([spawn(work, value) for value in range(5)], raise_error=True)


def test_local_is_each_tasks_own():
    storage = local()
    storage.x = "root's"

    def work(value):
        assert not hasattr(storage, "x")
        storage.x = value
        sleep(0)
        assert storage.x == value
        assert storage.__dict__ == {"x": value}
        del storage.x
        with pytest.raises(AttributeError, match="no attribute 'x'"):
            del storage.x

    joinall([spawn(work, value) for value in range(5)], raise_error=True)
    assert storage.x == "root's"


def test_root_has_the_threads_values():
    close_hub()
    storage = local()
    storage.x = 1
    spawn(int).join()
    assert storage.x == 1
    storage.x = 2
    close_hub()
    assert storage.x == 2
    seen = []
    thread = threading.Thread(target=lambda: seen.append(hasattr(storage, "x")))
    thread.start()
    thread.join()
    assert seen == [False]


def test_subclass_is_initialized_anew_in_each_task():
    made = []

    class Storage(local):
        kind = "class's"

        def __init__(self, x, *, y):
            made.append((x, y))
            self.items = [x, y]

        def total(self):
            return sum(self.items)

        @property
        def first(self):
            return self.items[0]

        @first.setter
        def first(self, value):
            self.items[0] = value

    storage = Storage(1, y=2)
    storage.items.append(3)

    def work():
        assert storage.items == [1, 2]
        assert storage.kind == "class's"
        storage.kind = "task's"
        storage.first = 5
        assert storage.first == 5
        assert storage.total() == 7

    joinall([spawn(work) for _ in range(3)], raise_error=True)
    assert made == [(1, 2)] * 4
    assert storage.total() == 6
    assert storage.kind == "class's"


def test_subclass_with_its_own_equality():
    class Storage(local):
        def __eq__(self, other):
            return True

        __hash__ = None

    one, other = Storage(), Storage()
    one.x = 1
    assert not hasattr(other, "x")


def test_arguments_that_nobody_takes():
    with pytest.raises(TypeError, match="arguments are not supported"):
        local(1)


def test_dict_cannot_be_replaced():
    storage = local()
    with pytest.raises(AttributeError, match="read-only"):
        storage.__dict__ = {}
    with pytest.raises(AttributeError, match="read-only"):
        del storage.__dict__


class Thing:
    pass


def test_values_die_with_their_task():
    storage = local()
    alive = []

    def work():
        storage.x = Thing()
        alive.append(weakref.ref(storage.x))
        sleep(0)

    task = spawn(work)
    task.join()
    gc.collect()
    assert alive[0]() is None


def test_values_die_with_their_local():
    storage = local()
    storage.x = Thing()
    alive = weakref.ref(storage.x)
    del storage
    gc.collect()
    assert alive() is None
