"""Future and its condition: a concurrent.futures.Future in every respect, and its lock is never left held."""

import asyncio
import concurrent.futures
import gc
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import pytest

from rimstone.pools.future import CallbackThread, Condition, Future, shielded

PATIENCE = 30.0


def in_thread(fn: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=fn)
    thread.start()
    return thread


def test_result_and_exception_of_a_done_future() -> None:
    good: Future[int] = Future()
    assert not good.done()
    assert good.set_running_or_notify_cancel()
    assert good.running()
    good.set_result(5)
    assert (good.result(), good.exception(), good.done()) == (5, None, True)
    assert "finished" in repr(good)
    bad: Future[int] = Future()
    bad.set_exception(KeyError("x"))
    assert isinstance(bad.exception(), KeyError)
    with pytest.raises(KeyError):
        bad.result()
    with pytest.raises(concurrent.futures.InvalidStateError):
        bad.set_result(1)


def test_result_waits_for_another_thread() -> None:
    future: Future[int] = Future()
    thread = in_thread(lambda: future.set_result(7))
    assert future.result(PATIENCE) == 7
    thread.join()


def test_all_waiters_are_woken() -> None:
    future: Future[int] = Future()
    seen: list[int] = []
    threads = [in_thread(lambda: seen.append(future.result(PATIENCE))) for _ in range(5)]
    while len(future._changed._sleepers) < 5:
        time.sleep(0.001)
    future.set_result(1)
    for thread in threads:
        thread.join()
    assert seen == [1] * 5
    assert future._changed._sleepers == []


def test_a_timeout_forgets_its_waiter() -> None:
    future: Future[int] = Future()
    for timeout in (0, 0.001, -1):
        with pytest.raises(TimeoutError):
            future.result(timeout)
        with pytest.raises(TimeoutError):
            future.exception(timeout)
    assert future._changed._sleepers == []


def test_cancel_wakes_those_who_wait() -> None:
    future: Future[int] = Future()
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            future.result(PATIENCE)
        except CancelledError as error:
            errors.append(error)

    thread = in_thread(wait)
    while not future._changed._sleepers:
        time.sleep(0.001)
    assert future.cancel()
    thread.join()
    assert len(errors) == 1
    assert future.cancelled()
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.exception()


def test_a_running_or_finished_future_is_not_cancelled() -> None:
    future: Future[int] = Future()
    future.set_running_or_notify_cancel()
    assert not future.cancel()
    future.set_result(1)
    assert not future.cancel()


def test_the_pool_is_told_of_a_cancellation() -> None:
    told: list[Future[int]] = []
    future: Future[int] = Future(None, told.append)
    future.cancel()
    assert told == [future]
    assert not future.set_running_or_notify_cancel()
    assert not future.set_running_or_notify_cancel()
    running: Future[int] = Future(None, told.append)
    running.set_running_or_notify_cancel()
    running.cancel()
    assert told == [future]


def test_an_interrupted_cancel_is_completed_when_the_pool_comes_to_the_call() -> None:
    called: list[Any] = []

    def interrupt(_: Future[int]) -> None:
        raise KeyboardInterrupt

    future: Future[int] = Future(None, interrupt)
    future.add_done_callback(called.append)
    with pytest.raises(KeyboardInterrupt):
        future.cancel()
    assert future.cancelled()
    assert not called
    assert not future.set_running_or_notify_cancel()
    assert called == [future]


def test_wait_learns_of_a_cancellation_at_once_before_and_after() -> None:
    callbacks = CallbackThread("test")
    before: Future[int] = Future(callbacks)
    before.cancel()
    assert concurrent.futures.wait([before], PATIENCE).done == {before}
    after: Future[int] = Future(callbacks)
    done: list[object] = []
    thread = in_thread(lambda: done.append(concurrent.futures.wait([after], PATIENCE).done))
    while not after._waiters:
        time.sleep(0.001)
    after.cancel()
    thread.join(PATIENCE / 2)
    assert done == [{after}]
    callbacks.close()
    callbacks.wait()


def test_attached_listeners_hear_of_each_end_once() -> None:
    class Listener:
        def __init__(self) -> None:
            self.heard: list[tuple[str, Future[Any]]] = []

        def add_result(self, future: Future[Any]) -> None:
            self.heard.append(("result", future))

        def add_exception(self, future: Future[Any]) -> None:
            self.heard.append(("exception", future))

        def add_cancelled(self, future: Future[Any]) -> None:
            self.heard.append(("cancelled", future))

    listener = Listener()
    good, bad, cancelled, late = Future[int](), Future[int](), Future[int](), Future[int]()
    for future in (good, bad, cancelled):
        future.attach(listener)
    good.set_result(1)
    bad.set_exception(ValueError())
    cancelled.cancel()
    cancelled.set_running_or_notify_cancel()
    late.set_result(2)
    late.attach(listener)
    assert listener.heard == [("result", good), ("exception", bad), ("cancelled", cancelled), ("result", late)]


def test_asyncio_wraps_it() -> None:
    async def main() -> int:
        future: Future[int] = Future()
        thread = in_thread(lambda: future.set_result(3))
        result = await asyncio.wrap_future(future)
        thread.join()
        return result

    assert asyncio.run(main()) == 3


def test_cancelling_the_asyncio_future_cancels_this_one() -> None:
    async def main(future: Future[int]) -> None:
        wrapped = asyncio.wrap_future(future)
        wrapped.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wrapped

    future: Future[int] = Future()
    asyncio.run(main(future))
    assert future.cancelled()


def test_result_keeps_no_reference_cycle() -> None:
    gc.collect()
    gc.disable()
    try:
        future: Future[int] = Future()
        future.set_exception(ValueError())
        with pytest.raises(ValueError):
            future.result()
        watched = weakref.ref(future)
        del future
        assert watched() is None
    finally:
        gc.enable()


# Condition


def test_wait_until_looks_again_after_a_wake_for_nothing() -> None:
    condition = Condition()
    state: list[int] = []

    def produce() -> None:
        for _ in range(3):
            while not condition._sleepers:
                time.sleep(0.001)
            with condition:
                state.append(1)
                condition.notify_all()

    thread = in_thread(produce)
    assert condition.wait_until(lambda: len(state) == 3)
    thread.join()
    assert not condition.wait_until(lambda: False, time.monotonic())


# shielded


def test_shielded_runs_elsewhere_in_the_main_thread_and_here_in_others() -> None:
    where: list[int] = []
    shielded(lambda: where.append(threading.get_ident()))
    assert where != [threading.get_ident()]
    here: list[int] = []
    thread = in_thread(lambda: shielded(lambda: here.append(threading.get_ident())))
    thread.join()
    assert here == [thread.ident]


def test_shielded_passes_errors_on() -> None:
    def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        shielded(fail)
