"""Code that runs in greenlets of its own inside a task (as SQLAlchemy's and greenback's does) can spawn and wait."""

import socket

import pytest
from greenlet import getcurrent, greenlet

from rimstone._core import core
from rimstone.errors import HubError
from rimstone.hub import current_task, joinall, sleep, spawn


def greenlet_spawn(function, *args):
    """What SQLAlchemy does: run *function* in a child greenlet; `await_only` inside it switches to the parent."""
    child = greenlet(function)
    result = child.switch(*args)
    while not child.dead:
        result = child.switch(result())  # "await" what it asked for, here, in the parent
    return result


def await_only(awaitable):
    return getcurrent().parent.switch(awaitable)


def nap_and(value):
    sleep(0.001)
    return value


def test_spawn_and_wait_inside(hub):
    one, other = socket.socketpair()

    def body(name):
        task = current_task()
        sleep(0.001)
        sleep(0)
        assert spawn(nap_and, name).get() == name
        got = await_only(lambda: nap_and("awaited " + name))
        assert current_task() is task
        return got

    def reader():
        return hub.io.recv(one, 10, 0, None)

    with one, other:
        tasks = [spawn(greenlet_spawn, body, str(number)) for number in range(20)]
        reading = spawn(greenlet_spawn, reader)
        sleep(0)
        other.send(b"abc")
        joinall([*tasks, reading], raise_error=True)
        assert [task.get() for task in tasks] == [f"awaited {number}" for number in range(20)]
        assert reading.get() == b"abc"


def test_inside_the_root():
    def body():
        sleep(0.001)
        return spawn(nap_and, 7).get()

    assert greenlet_spawn(body) == 7


def test_killed_inside():
    ended = []

    def body():
        try:
            sleep(100)
        finally:
            ended.append(current_task())

    task = spawn(greenlet_spawn, body)
    sleep(0)
    task.kill()
    assert ended == [task]
    assert task.successful()


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("occupied", [False, True])
def test_greenlet_that_outlives_its_task(raises, occupied):
    """Its parent is a runner that does something else by now: whoever has switched to it is told, nobody else."""
    if raises and core() == "pure":
        pytest.skip("a try around each switch would cost all others; see `Greenlets.raised`")
    made = []

    def end():
        if raises:
            raise ValueError("of the greenlet")
        return 5

    def switch_to_it(wait):
        if wait:  # so that it runs in another runner than the one that made the greenlet
            sleep(0.001)
        return made[0].switch()

    user = spawn(switch_to_it, True)
    sleep(0)
    spawn(lambda: made.append(greenlet(end))).join()
    other = spawn(nap_and, "other") if occupied else None
    sleep(0)
    with pytest.raises(HubError, match="a task that has ended") as caught:
        user.get(timeout=10)
    assert isinstance(caught.value.__cause__, ValueError) == raises
    if other is not None:
        assert other.get(timeout=10) == "other"
    assert [task.get(timeout=10) for task in [spawn(nap_and, n) for n in range(3)]] == [0, 1, 2]
