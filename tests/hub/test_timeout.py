"""Timeout: strikes where the task waits, in nested blocks, in time or never; and loses no grant."""

import math
import queue
import threading
import traceback

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rimstone import clock
from rimstone.hub import Timeout, close_hub, current_hub, current_task, get_hub, sleep, spawn, waiter
from rimstone.sync import Lock, SimpleQueue


class Boom(Exception):
    pass


def test_strikes_with_itself():
    timeout = Timeout(0.01)
    with pytest.raises(Timeout) as caught, timeout:
        sleep(60)
    assert caught.value is timeout
    assert not timeout.pending


def test_block_that_is_left_in_time():
    with Timeout(0.01) as timeout:
        assert timeout.pending
    assert not timeout.pending
    sleep(0.02)


def test_false_ends_the_block_in_silence():
    went_on = []
    with Timeout(0.01, False):
        sleep(60)
        went_on.append(1)
    assert not went_on


def test_false_lets_other_exceptions_pass():
    with pytest.raises(Boom), Timeout(60, False):
        raise Boom


def test_own_exception():
    with pytest.raises(Boom), Timeout(0.01, Boom):
        sleep(60)
    error = Boom("slow")
    with pytest.raises(Boom) as caught, Timeout(0.01, error):
        sleep(60)
    assert caught.value is error


def test_none_never_strikes():
    with Timeout(None) as timeout, Timeout() as other:
        assert not timeout.pending
        assert not other.pending
        sleep(0.01)


def test_zero_strikes_at_the_next_wait():
    with pytest.raises(Timeout), Timeout(0):
        sleep(60)
    with Timeout(0):
        pass
    sleep(0.001)


def test_infinity_never_strikes():
    with Timeout(math.inf):
        sleep(0.01)


@pytest.mark.parametrize("seconds", [-1, math.nan, -math.inf])
def test_seconds_out_of_range(seconds):
    with pytest.raises(ValueError, match="non-negative"):
        Timeout(seconds)


@pytest.mark.parametrize("seconds", ["5", [], Boom])
def test_seconds_that_are_none(seconds):
    with pytest.raises(TypeError, match="number of seconds"):
        Timeout(seconds)


@pytest.mark.parametrize("exception", [True, "text", int, 3])
def test_what_cannot_be_raised(exception):
    with pytest.raises(TypeError, match="not"):
        Timeout(1, exception)


def test_except_exception_does_not_swallow_it():
    with pytest.raises(Timeout), Timeout(0.01):
        try:
            sleep(60)
        except Exception:
            pytest.fail("swallowed")


def test_texts():
    assert str(Timeout(2.5)) == "timed out after 2.5 s"
    assert repr(Timeout()) == "<Timeout of never>"
    with Timeout(5) as timeout:
        assert repr(timeout) == "<Timeout of 5 s, pending>"


# -- start and cancel ----------------------------------------------------------------------------------------------


def test_start_and_cancel():
    timeout = Timeout(0.01)
    timeout.start()
    assert timeout.pending
    timeout.cancel()
    timeout.close()
    assert not timeout.pending
    sleep(0.02)
    timeout.start()
    with pytest.raises(Timeout):
        sleep(60)
    assert not timeout.pending
    timeout.start()  # what has struck may be started again
    with pytest.raises(Timeout):
        sleep(60)
    timeout.cancel()


def test_started_twice():
    timeout = Timeout(60)
    timeout.start()
    with pytest.raises(RuntimeError, match="cancel"):
        timeout.start()
    timeout.cancel()


def test_started_before_the_block():
    timeout = Timeout(0.01)
    timeout.start()
    with pytest.raises(Timeout), timeout:
        sleep(60)


def test_pending_in_one_task_and_entered_by_another():
    timeout = Timeout(60)
    timeout.start()
    with pytest.raises(RuntimeError, match="its own Timeout"):
        spawn(timeout.__enter__).get()
    timeout.cancel()


def test_used_again_and_again():
    timeout = Timeout(0.002)
    lengths = set()
    for _ in range(3):
        with pytest.raises(Timeout), timeout:
            sleep(60)
        lengths.add(len(traceback.extract_tb(timeout.__traceback__)))
    assert len(lengths) == 1  # the tracebacks of earlier strikes are not kept


def test_each_task_has_its_own():
    order = []

    def work(seconds):
        with Timeout(seconds, False):
            sleep(60)
        order.append(seconds)

    made = [spawn(work, seconds) for seconds in (0.03, 0.01, 0.02)]
    for task in made:
        task.get()
    assert order == [0.01, 0.02, 0.03]


def test_ended_task_is_left_alone():
    timeout = Timeout(0.001)
    spawn(timeout.start).get()
    sleep(0.01)
    assert not timeout.pending or timeout._task.ready()
    timeout.cancel()


# -- nesting -------------------------------------------------------------------------------------------------------


def test_inner_strikes_and_the_outer_goes_on():
    with pytest.raises(Timeout) as caught, Timeout(0.03) as outer:
        with pytest.raises(Timeout), Timeout(0.01):
            sleep(60)
        assert outer.pending
        sleep(60)
    assert caught.value is outer


def test_outer_passes_through_the_inner():
    with pytest.raises(Timeout) as caught, Timeout(0.01) as outer, Timeout(60, False) as inner:
        sleep(60)
    assert caught.value is outer
    assert not inner.pending


@pytest.mark.parametrize("inner_first", [True, False])
def test_both_due_at_the_same_moment(inner_first):
    """The thread computes until both are due; the first that strikes is swallowed, the other strikes all the same."""
    order = []
    with Timeout(0.002 if inner_first else 0.001, False):
        with Timeout(0.001 if inner_first else 0.002, False):
            busy_for(0.005)
            sleep(60)
        order.append("inner")
        sleep(60)
    assert order == (["inner"] if inner_first else [])
    sleep(0.01)


def busy_for(seconds):
    until = clock.monotonic() + seconds
    while clock.monotonic() < until:
        pass


def test_many_due_at_once_each_strikes_its_block():
    struck = []

    def nest(depth):
        if depth == 0:
            busy_for(0.01)
            sleep(60)
        timeout = Timeout(depth / 1000)
        try:
            with timeout:
                nest(depth - 1)
        except Timeout as error:
            struck.append((depth, error is timeout))
            if depth < 5:
                sleep(60)

    nest(5)
    assert struck == [(depth, True) for depth in (1, 2, 3, 4, 5)]
    sleep(0.01)


SECONDS = st.sampled_from([None, 0, 0.001, 0.002, 0.004, 60])


@settings(max_examples=60, deadline=None)
@given(st.lists(SECONDS, min_size=1, max_size=5), st.booleans())
def test_nested_blocks_end_as_the_shortest_says(seconds, computes):
    """Every silent block ends at the latest when its own time or that of an outer one is up; none strikes later."""
    began = clock.monotonic()
    ended = []

    def nest(depth):
        with Timeout(seconds[depth], False):
            if depth + 1 < len(seconds):
                nest(depth + 1)
            elif computes:
                busy_for(0.005)
            wait_for_the_end()
        ended.append(depth)

    def wait_for_the_end():
        if any(one is not None and one < 60 for one in seconds):
            sleep(0.05)

    nest(0)
    assert ended[-1] == 0
    assert ended == sorted(ended, reverse=True)
    assert clock.monotonic() - began < 30
    assert current_task().pending is None
    sleep(0.005)


# -- grants --------------------------------------------------------------------------------------------------------


def test_grant_that_came_first_is_returned_and_the_block_is_left():
    mine = waiter()
    with Timeout(0.001):
        spawn(mine.unpark)
        spawn(busy_for, 0.005)  # both before we run again
        assert mine.park()
    sleep(0.005)


def test_grant_that_came_first_and_then_another_wait():
    lock = Lock()
    lock.acquire()

    def gives():
        busy_for(0.005)
        lock.release()

    spawn(gives)
    with pytest.raises(Timeout), Timeout(0.001):
        assert lock.acquire()
        sleep(60)
    assert lock.locked()
    lock.release()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([0, 0.0005, 0.001, 0.002]), min_size=1, max_size=6))
def test_no_item_is_lost_between_a_put_and_a_timeout(delays):
    items = SimpleQueue()
    got = []

    def get(seconds):
        with Timeout(seconds, False):
            got.append(items.get())
            sleep(0.001)

    getters = [spawn(get, seconds) for seconds in delays]
    for n, seconds in enumerate(delays):
        sleep(seconds)
        items.put(n)
    for task in getters:
        task.get()
    while True:
        try:
            got.append(items.get_nowait())
        except queue.Empty:
            break
    assert sorted(got) == list(range(len(delays)))


def test_kill_that_overtakes_a_timeout_does_not_lose_it():
    """Both come before the task runs: the kill is raised first, and is caught; the timeout ends the block."""
    seen = []

    def work():
        with Timeout(60, False) as timeout:
            timeouts.append(timeout)
            try:
                sleep(60)
            except Boom:
                seen.append("kill")
            sleep(60)
            seen.append("went on")
        seen.append("left")

    timeouts = []
    task = spawn(work)
    sleep(0)
    timeouts[0]._strike()
    task.kill(Boom, block=False)
    task.join(5)
    assert seen == ["kill", "left"]


def test_timeout_that_comes_after_a_kill_waits_for_it():
    seen = []

    def work():
        with Timeout(60, False) as timeout:
            timeouts.append(timeout)
            try:
                sleep(60)
            except Boom:
                seen.append("kill")
            sleep(60)
        seen.append("left")

    timeouts = []
    task = spawn(work)
    sleep(0)
    task.kill(Boom, block=False)
    timeouts[0]._strike()
    assert timeouts[0].pending
    task.join(5)
    assert seen == ["kill", "left"]


# -- threads -------------------------------------------------------------------------------------------------------


def test_thread_without_a_hub_gets_one():
    seen = []

    def elsewhere():
        assert current_hub() is None
        with Timeout(0.01) as timeout:
            try:
                SimpleQueue().get()
            except Timeout as error:
                seen.append(error is timeout)
        close_hub()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [True]


def test_timers_do_not_pile_up(hub):
    for _ in range(5000):
        with Timeout(3600):
            pass
    assert len(get_hub()._timers if hasattr(hub, "_timers") else []) < 1000
