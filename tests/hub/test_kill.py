"""Task.kill: before the start, in each kind of wait, from elsewhere; and what it must not destroy."""

import os
import socket
import threading

import pytest

from rimstone.errors import TaskExit
from rimstone.hub import current_task, joinall, sleep, spawn, waiter
from rimstone.hub.offload import offload
from rimstone.iomodel.base import READ
from rimstone.sync import Lock, RLock, SimpleQueue


class Boom(Exception):
    pass


def test_killed_before_it_starts_it_never_runs():
    ran = []
    task = spawn(ran.append, 1)
    task.kill(block=False)
    assert task.ready()
    assert task.successful()
    assert isinstance(task.value, TaskExit)
    sleep(0)
    assert ran == []


def test_killed_before_it_starts_with_an_error(capsys):
    task = spawn(int)
    task.kill(Boom("early"), block=False)
    assert not task.successful()
    with pytest.raises(Boom):
        task.get()
    assert "Boom: early" in capsys.readouterr().err


def test_kill_is_raised_where_the_task_waits():
    seen = []

    def work():
        try:
            sleep(100)
        except TaskExit as error:
            seen.append(error)
            raise

    task = spawn(work)
    sleep(0)
    task.kill()
    assert len(seen) == 1
    assert task.ready()
    assert task.get() is seen[0]


def test_kill_waits_for_the_task_to_clean_up():
    done = []

    def work():
        try:
            sleep(100)
        finally:
            sleep(0.01)
            done.append(1)

    task = spawn(work)
    sleep(0)
    task.kill()
    assert done == [1]


def test_kill_gives_up_waiting():
    def work():
        try:
            sleep(100)
        finally:
            sleep(0.05)

    task = spawn(work)
    sleep(0)
    task.kill(timeout=0.001)
    assert not task.ready()
    task.join()


def test_task_may_catch_it_and_go_on():
    def work():
        try:
            sleep(100)
        except Boom:
            return "caught"

    task = spawn(work)
    sleep(0)
    task.kill(Boom, block=False)
    assert task.get() == "caught"


def test_except_exception_does_not_catch_it():
    def work():
        try:
            sleep(100)
        except Exception:
            return "caught"

    task = spawn(work)
    sleep(0)
    task.kill()
    assert isinstance(task.value, TaskExit)


def test_killing_a_finished_task_does_nothing():
    task = spawn(lambda: 7)
    task.join()
    task.kill()
    assert task.get() == 7


def test_task_kills_itself():
    def work():
        current_task().kill()

    task = spawn(work)
    assert isinstance(task.get(), TaskExit)


def test_killed_twice():
    task = spawn(sleep, 100)
    sleep(0)
    task.kill(block=False)
    task.kill(block=False)
    assert isinstance(task.get(), TaskExit)


def test_kill_from_another_thread():
    task = spawn(sleep, 100)
    sleep(0)
    thread = threading.Thread(target=task.kill)
    thread.start()
    task.join(timeout=10)
    thread.join()
    assert task.successful()


def test_killed_while_it_yields():
    def spin():
        while True:
            sleep(0)

    task = spawn(spin)
    sleep(0)
    task.kill()
    assert task.successful()


WAITS = {
    "sleep": lambda things: sleep(100),
    "join": lambda things: things["sleeper"].join(),
    "get": lambda things: things["sleeper"].get(),
    "joinall": lambda things: joinall([things["sleeper"]], raise_error=True),
    "lock": lambda things: things["lock"].acquire(),
    "lock in a with": lambda things: things["lock"].__enter__(),
    "rlock": lambda things: things["rlock"].acquire(),
    "queue": lambda things: things["queue"].get(),
    "waiter": lambda things: waiter().park(),
    "offload": lambda things: offload(things["event"].wait),
    "pipe": lambda things: things["hub"].io.wait(things["pipe"], READ),
    "recv": lambda things: things["hub"].io.recv(things["socket"], 10, 0, None),
}


@pytest.mark.parametrize("where", WAITS)
def test_killed_in_each_kind_of_wait(hub, where):
    pipe = os.pipe()
    one, other = socket.socketpair()
    things = {
        "hub": hub,
        "sleeper": spawn(sleep, 100),
        "lock": Lock(),
        "rlock": RLock(),
        "queue": SimpleQueue(),
        "event": threading.Event(),
        "pipe": pipe[0],
        "socket": one,
    }
    things["lock"].acquire()
    things["rlock"].acquire()
    task = spawn(WAITS[where], things)
    for _ in range(100):
        sleep(0)
        if task.state == "parked":
            break
    sleep(0.005)
    assert task.state == "parked"
    task.kill(Boom("now"), block=False)
    with pytest.raises(Boom):
        task.get()
    # and everything still works for the others
    things["event"].set()
    things["sleeper"].kill()
    things["lock"].release()
    things["rlock"].release()
    assert things["lock"].acquire(timeout=1)
    assert things["rlock"].acquire(timeout=1)
    things["queue"].put(1)
    assert things["queue"].get(timeout=1) == 1
    other.send(b"x")
    assert hub.io.recv(one, 10, 0, 5) == b"x"
    one.close()
    other.close()
    for fd in pipe:
        os.close(fd)


@pytest.mark.parametrize("first", ["grant", "kill"])
def test_grant_is_not_lost_with_the_killed(first):
    """Whichever came first, as long as the task had not gone on: it returns with what it was given, then it dies."""
    got = []
    given = []

    def wait():
        given.append(waiter())
        got.append(given[0].park())
        sleep(100)

    task = spawn(wait)
    sleep(0)
    for step in ("grant", "kill") if first == "grant" else ("kill", "grant"):
        if step == "grant":
            given[0].unpark()
        else:
            task.kill(block=False)
    task.join()
    assert got == [True]
    assert task.successful()


def test_waiter_may_be_parked_after_other_waits_and_need_not_be_parked():
    mine = waiter()
    waiter()
    mine.unpark()
    sleep(0)
    sleep(0.001)
    spawn(int).get()
    assert mine.park()
    late = waiter()
    sleep(0.001)
    assert not late.park(0)
    late.unpark()
    began = waiter()
    assert not began.park(0)  # the late grant was not for this one


def test_stale_timer_ends_no_other_wait():
    queue = SimpleQueue()

    def work():
        queue.get(timeout=0.01)
        queue.get()

    task = spawn(work)
    sleep(0)
    queue.put(1)
    sleep(0.03)
    assert task.state == "parked"
    task.kill()
