"""TaskGroup: its tasks end before the block does, whatever fails, kills or interrupts."""

import os
import threading
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rimstone.errors import HubError, TaskExit
from rimstone.hub import TaskGroup, Timeout, close_hub, current_task, get_hub, live_tasks, sleep, spawn, tasks, waiter
from rimstone.sync import Lock
from rimstone.testing.patched import run_script


class Boom(Exception):
    pass


class Crash(BaseException):
    pass


def fail(error=None):
    raise Boom if error is None else error


@contextmanager
def failures(*kinds):
    """The block raises a group of exactly these."""
    with pytest.raises(BaseExceptionGroup) as caught:
        yield caught
    assert [type(error) for error in caught.value.exceptions] == list(kinds)


# -- success -------------------------------------------------------------------------------------------------------


def test_block_waits_for_its_tasks():
    done = []

    def work(n):
        sleep(0.01)
        done.append(n)
        return n * n

    with TaskGroup() as group:
        made = [group.spawn(work, n) for n in range(3)]
        assert not done
    assert done == [0, 1, 2]
    assert [task.value for task in made] == [0, 1, 4]


def test_empty_group():
    with TaskGroup():
        pass


def test_keyword_arguments_arrive():
    with TaskGroup() as group:
        task = group.spawn(dict, a=1, function=2)
    assert task.value == {"a": 1, "function": 2}


def test_child_spawns_into_the_group_after_the_body_has_ended():
    order = []

    def child(depth):
        sleep(0)
        order.append(depth)
        if depth:
            group.spawn(child, depth - 1)

    with TaskGroup() as group:
        group.spawn(child, 3)
    assert order == [3, 2, 1, 0]


def test_killed_child_is_no_failure():
    with TaskGroup() as group:
        first = group.spawn(sleep, 60)
        second = group.spawn(lambda: "went on")
        sleep(0)
        first.kill()
    assert isinstance(first.value, TaskExit)
    assert second.value == "went on"


def test_get_in_the_block():
    with TaskGroup() as group:
        assert group.spawn(lambda: 42).get() == 42


# -- failures ------------------------------------------------------------------------------------------------------


def test_first_failure_kills_the_others_and_interrupts_the_body():
    seen = []

    def sibling():
        try:
            sleep(60)
        except TaskExit:
            seen.append("sibling killed")
            raise

    with failures(Boom), TaskGroup() as group:
        task = group.spawn(sibling)
        group.spawn(fail)
        try:
            sleep(60)
        finally:
            seen.append("body interrupted")
        seen.append("body went on")
    assert sorted(seen) == ["body interrupted", "sibling killed"]
    assert task.successful()


def test_failure_while_the_block_waits_for_its_tasks():
    with failures(Boom), TaskGroup() as group:
        slow = group.spawn(sleep, 60)
        group.spawn(fail)
    assert isinstance(slow.value, TaskExit)


def test_several_failures_in_the_order_in_which_they_happened():
    def fails_in_its_cleanup():
        try:
            sleep(60)
        finally:
            raise KeyError("cleanup")

    with failures(Boom, KeyError), TaskGroup() as group:
        group.spawn(fails_in_its_cleanup)
        sleep(0)
        group.spawn(fail)


def test_body_alone_fails_in_a_group():
    with failures(Boom), TaskGroup() as group:
        task = group.spawn(sleep, 60)
        raise Boom
    assert isinstance(task.value, TaskExit)
    with failures(Boom), TaskGroup():
        raise Boom


def test_body_and_child_fail():
    with failures(Boom, ZeroDivisionError), TaskGroup() as group:
        group.spawn(fail)
        try:
            sleep(60)
        except TaskExit:
            _ = 1 / 0


def test_exception_group_unless_a_failure_is_no_exception():
    with failures(Boom) as caught, TaskGroup() as group:
        group.spawn(fail)
    assert isinstance(caught.value, ExceptionGroup)
    with failures(Crash) as caught, TaskGroup() as group:
        group.spawn(fail, Crash())
    assert not isinstance(caught.value, ExceptionGroup)


def test_failures_are_not_printed(capsys):
    with failures(Boom), TaskGroup() as group:
        group.spawn(fail)
    assert capsys.readouterr().err == ""


def test_body_that_swallows_the_interruption_is_waited_for():
    with failures(Boom), TaskGroup() as group:
        group.spawn(fail)
        with pytest.raises(TaskExit):
            sleep(60)
        sleep(0)


def test_interruption_of_a_body_that_does_not_wait_is_taken_back():
    with failures(Boom), TaskGroup() as group:
        task = group.spawn(sleep, 60)
        task.kill(Boom, block=False)  # it has not started, so it fails here and now
    sleep(0)  # and not here


def test_failing_group_does_not_kill_a_task_twice():
    cleaned = []

    def careful():
        try:
            sleep(60)
        finally:
            sleep(0.02)
            cleaned.append(1)

    def fails_later():
        try:
            sleep(60)
        finally:
            raise Boom("second")

    with failures(Boom, Boom), TaskGroup() as group:
        for function in (careful, fails_later):
            group.spawn(function)
        sleep(0)
        group.spawn(fail)
    assert cleaned == [1]


def test_many_tasks_that_never_started():
    with failures(Boom), TaskGroup() as group:
        group.spawn(fail)
        made = [group.spawn(sleep, 60) for _ in range(3000)]
        made[-1].kill(block=False)
    assert all(task.ready() for task in made)


def test_task_spawned_while_the_group_ends_never_starts():
    ran = []
    late = []

    def cleanup():
        try:
            sleep(60)
        finally:
            late.append(group.spawn(ran.append, 1))

    with failures(Boom), TaskGroup() as group:
        group.spawn(cleanup)
        sleep(0)
        group.spawn(fail)
    assert isinstance(late[0].value, TaskExit)
    assert not ran


def test_child_with_a_timeout_about_to_strike_is_killed_all_the_same():
    went_on = []

    def child(turn):
        with Timeout(0, False):
            turn.park()
        went_on.append(1)
        sleep(60)

    with failures(Boom), TaskGroup() as group:
        turn = waiter()
        task = group.spawn(child, turn)
        sleep(0)
        # Whichever of the two comes first, the child does not stay.
        task.kill(block=False)
        group.spawn(fail)


# -- kills and timeouts from outside -------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [TaskExit("out"), Boom("out"), Crash("out")])
@pytest.mark.parametrize("waits_in", ["body", "end"])
def test_kill_of_the_parent_kills_the_tasks_and_goes_on_as_it_is(error, waits_in):
    order = []

    def child():
        try:
            sleep(60)
        finally:
            sleep(0.01)
            order.append("child")

    def parent():
        try:
            with TaskGroup() as group:
                group.spawn(child)
                if waits_in == "body":
                    sleep(60)
        except BaseException as caught:
            order.append(caught)

    task = spawn(parent)
    sleep(0.005)
    task.kill(error)
    assert order == ["child", error]


@pytest.mark.parametrize("error", [TaskExit("me"), Boom("me")])
def test_parent_kills_itself_before_the_tasks_have_started(error):
    ran = []

    def parent():
        with TaskGroup() as group:
            group.spawn(ran.append, 1)
            current_task().kill(error)

    task = spawn(parent)
    task._getters += 1
    task.join()
    assert error in {task.value, task.exception}
    assert not ran


def test_exception_of_a_timeout_that_is_over_is_the_bodys_own():
    error = Boom()
    with pytest.raises(Boom), Timeout(0.001, error):
        sleep(60)
    with failures(Boom), TaskGroup():
        raise error


def test_child_that_was_just_killed_with_something_it_catches_is_killed_all_the_same():
    seen = []

    def child():
        for _ in range(2):
            try:
                sleep(60)
            except (KeyError, TaskExit) as error:
                seen.append(type(error))

    with failures(Boom), TaskGroup() as group:
        task = group.spawn(child)
        sleep(0)
        task.kill(KeyError, block=False)
        group.spawn(int).kill(Boom, block=False)
    assert seen == [KeyError, TaskExit]


def test_further_kill_waits_until_the_tasks_have_ended():
    order = []
    turn = []

    def child():
        try:
            sleep(60)
        finally:
            turn.append(waiter())
            turn[0].park()
            order.append("child")

    def parent():
        with pytest.raises(TaskExit), TaskGroup() as group:
            group.spawn(child)
        order.append("first")
        with pytest.raises(Boom):
            sleep(60)
        order.append("second")
        sleep(0)

    task = spawn(parent)
    sleep(0)
    sleep(0)
    task.kill(block=False)
    while not turn:
        sleep(0)
    task.kill(Boom, block=False)
    for _ in range(5):
        sleep(0)
    assert order == []
    turn[0].unpark()
    task.get()
    assert order == ["child", "first", "second"]


def test_kill_after_a_failure_is_raised_at_the_next_wait():
    turn = []

    def slow():
        try:
            sleep(60)
        finally:
            turn.append(waiter())
            turn[0].park()

    def parent():
        with failures(Boom), TaskGroup() as group:
            group.spawn(slow)
            sleep(0)
            group.spawn(fail)
        with pytest.raises(KeyError):
            sleep(60)
        return "both"

    task = spawn(parent)
    while not turn:
        sleep(0)
    task.kill(KeyError, block=False)
    for _ in range(5):
        sleep(0)
    turn[0].unpark()
    assert task.get() == "both"


def test_failure_after_a_kill_is_printed(capsys):
    def fails_in_its_cleanup():
        try:
            sleep(60)
        finally:
            raise Boom("nobody sees this")

    def parent():
        with TaskGroup() as group:
            group.spawn(fails_in_its_cleanup)

    task = spawn(parent)
    sleep(0)
    sleep(0)
    task.kill()
    assert task.successful()
    assert "Boom: nobody sees this" in capsys.readouterr().err


@pytest.mark.parametrize("waits_in", ["body", "end"])
@pytest.mark.parametrize("error", [None, False, Boom])
def test_timeout_strikes_the_block(waits_in, error):
    ended = []

    def child():
        try:
            sleep(60)
        finally:
            sleep(0.01)
            ended.append(1)

    timeout = Timeout(0.01, error)
    caught = None
    try:
        with timeout, TaskGroup() as group:
            group.spawn(child)
            if waits_in == "body":
                sleep(60)
    except BaseException as raised:
        caught = raised
    assert ended == [1]
    if error is Boom:
        assert type(caught) is Boom
    else:
        assert caught is (timeout if error is None else None)


def test_timeouts_that_strike_while_the_tasks_end_are_all_raised_or_taken_back():
    turn = []

    def child():
        try:
            sleep(60)
        finally:
            turn.append(waiter())
            turn[0].park()

    order = []

    def parent():
        with Timeout(0.03, False):
            with Timeout(0.02, False):
                with Timeout(0.01, False), TaskGroup() as group:
                    group.spawn(child)
                order.append("inner")
                sleep(60)
            order.append("middle")
            sleep(60)
        order.append("outer")
        sleep(0)

    task = spawn(parent)
    while not turn:
        sleep(0.005)
    sleep(0.05)  # by now all three have struck
    turn[0].unpark()
    task.get()
    assert order == ["inner", "middle", "outer"]


def test_killed_from_another_thread():
    def parent():
        with TaskGroup() as group:
            group.spawn(sleep, 60)

    task = spawn(parent)
    sleep(0)
    thread = threading.Thread(target=task.kill)
    thread.start()
    task.join()
    thread.join()
    assert isinstance(task.value, TaskExit)


# -- the end of the program ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("waits_in", ["body", "end"])
@pytest.mark.parametrize("others", [0, 1])
def test_child_that_ends_the_program(kind, waits_in, others):
    error = kind()
    with pytest.raises(kind) as caught, TaskGroup() as group:
        made = [group.spawn(sleep, 60) for _ in range(others)]
        group.spawn(fail, error)
        if waits_in == "body":
            sleep(60)
    assert caught.value is error
    assert all(task.ready() for task in made)
    sleep(0)  # it is raised once


def test_child_that_ends_the_program_while_another_task_runs_the_block():
    error = KeyboardInterrupt()
    seen = []

    def parent():
        try:
            with TaskGroup() as group:
                group.spawn(fail, error)
                sleep(60)
        except KeyboardInterrupt as caught:
            seen.append(caught)

    task = spawn(parent)
    with pytest.raises(KeyboardInterrupt):
        task.join()
    task.join()
    assert seen == [error]


def test_child_that_ends_the_program_reaches_the_root_once():
    """Not once as the child's, and once more as that of the task that has the group, and of one that is in `get`."""

    def parent():
        with TaskGroup() as group:
            group.spawn(fail, KeyboardInterrupt())

    task = spawn(spawn(parent).get)
    with pytest.raises(KeyboardInterrupt):
        task.join()
    while not task.ready():
        sleep(0)
    sleep(0)
    assert isinstance(task.exception, KeyboardInterrupt)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_body_that_ends_the_program(kind):
    with pytest.raises(kind), TaskGroup() as group:
        task = group.spawn(sleep, 60)
        raise kind
    assert task.ready()


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="a deadlock is certain only where threads are counted")
def test_task_that_refuses_to_end_in_a_deadlock():
    """Else the block would wait for ever, and take the same error again and again."""
    done = run_script("""
import os
from rimstone.errors import Deadlock
from rimstone.hub import TaskGroup, sleep
from rimstone.sync import Lock

lock = Lock()
lock.acquire()

def refuses():
    try:
        lock.acquire()
    finally:
        lock.acquire()

try:
    with TaskGroup() as group:
        group.spawn(refuses)
        group.spawn(lock.acquire)
except Deadlock:
    os._exit(7)
""")
    assert done.returncode == 7, done.stderr


def test_close_of_the_hub_ends_the_group():
    ended = []

    def child():
        try:
            sleep(60)
        finally:
            ended.append("child")

    def parent():
        try:
            with TaskGroup() as group:
                group.spawn(child)
        finally:
            ended.append("parent")

    spawn(parent)
    sleep(0)
    sleep(0)
    close_hub()
    assert ended == ["child", "parent"]


def test_forked_child_leaves_the_block_at_once():
    with TaskGroup() as group:
        task = group.spawn(sleep, 60)
        sleep(0)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                group.__exit__(None, None, None)
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert not task.ready()
        task.kill()


# -- nesting -------------------------------------------------------------------------------------------------------


def test_failure_of_the_outer_group_ends_the_inner_one():
    inner_task = None
    with failures(Boom), TaskGroup() as outer:
        outer.spawn(fail)
        with TaskGroup() as inner:
            inner_task = inner.spawn(sleep, 60)
    assert isinstance(inner_task.value, TaskExit)


def test_failure_of_the_inner_group_fails_the_outer_one():
    with failures(ExceptionGroup) as caught, TaskGroup() as outer:
        task = outer.spawn(sleep, 60)
        with TaskGroup() as inner:
            inner.spawn(fail)
    assert [type(error) for error in caught.value.exceptions[0].exceptions] == [Boom]
    assert isinstance(task.value, TaskExit)


def test_caught_failure_of_the_inner_group_leaves_the_outer_one_alone():
    with TaskGroup() as outer:
        task = outer.spawn(lambda: sleep(0.01))
        with failures(Boom), TaskGroup() as inner:
            inner.spawn(fail)
        sleep(0)
    assert task.value is None


TREES = st.recursive(
    st.sampled_from(["sleep", "return", "fail", "crash"]),
    lambda trees: st.tuples(
        st.sampled_from(["wait", "leave", "fail", "catch", "timeout"]), st.lists(trees, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(TREES, st.integers(0, 12))
def test_nested_groups_always_end_and_leave_nothing(tree, turns):
    """Whatever the tree of groups does and whenever it is killed: all tasks end, each within its group."""
    open_groups = set()

    def run(tree, within):
        assert within is None or within in open_groups
        if tree == "sleep":
            try:
                sleep(60)
            finally:
                sleep(0)
                assert within is None or within in open_groups
        elif tree == "fail":
            raise Boom
        elif tree == "crash":
            raise Crash
        elif tree != "return":
            me = object()
            kind, children = tree
            open_groups.add(me)
            try:
                with Timeout(0.001 if kind == "timeout" else None, False), TaskGroup() as group:
                    for child in children:
                        group.spawn(run, child, me)
                    if kind == "fail":
                        sleep(0)
                        raise Boom
                    if kind == "wait":
                        sleep(0)
                        sleep(0)
            except BaseExceptionGroup:
                if kind != "catch":
                    raise
            finally:
                open_groups.remove(me)

    before = set(live_tasks())
    task = spawn(run, tree, None)
    task._getters += 1
    for _ in range(turns):
        sleep(0)
    task.kill()
    assert task.ready()
    assert not open_groups
    assert set(live_tasks()) == before
    if task.exception is not None:
        assert not any(isinstance(error, AssertionError) for error in leaves(task.exception))


def leaves(error):
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from leaves(one)
    else:
        yield error


# -- misuse --------------------------------------------------------------------------------------------------------


def test_spawn_outside_of_the_block():
    group = TaskGroup()
    with pytest.raises(HubError, match="not been entered"):
        group.spawn(int)
    with group:
        pass
    with pytest.raises(HubError, match="has ended"):
        group.spawn(int)


def test_group_is_used_once():
    group = TaskGroup()
    with group, pytest.raises(HubError, match="one block only"), group:
        pass
    with pytest.raises(HubError, match="one block only"), group:
        pass


def test_spawn_from_another_thread():
    seen = []

    def elsewhere():
        get_hub()
        try:
            group.spawn(int)
        except HubError as error:
            seen.append(str(error))

    with TaskGroup() as group:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert "another" in seen[0] or "belongs to thread" in seen[0]


def test_spawn_by_a_task_that_is_not_of_the_group():
    with TaskGroup() as group:
        made = spawn(lambda: group.spawn(int)).get()
    assert made.value == 0


def test_granted_wait_of_the_body_is_not_lost():
    """The lock was given to the body before a task failed: it has it, and is interrupted at its next wait."""
    lock = Lock()
    lock.acquire()
    got = []

    def gives_and_fails():
        lock.release()
        raise Boom

    with failures(Boom), TaskGroup() as group:
        group.spawn(gives_and_fails)
        got.append(lock.acquire())
        with pytest.raises(TaskExit):
            sleep(60)
        lock.release()
    assert got == [True]
    assert not lock.locked()


def test_nothing_is_kept_after_the_end():
    with TaskGroup() as group:
        group.spawn(int)
    assert not tasks()
    assert repr(group) == "<TaskGroup closed, 0 tasks>"
