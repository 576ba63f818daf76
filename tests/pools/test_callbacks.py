"""Callbacks: in which thread they run, in which order, and that a slow or failing one harms nobody."""

import logging
import subprocess
import sys
import textwrap
import threading

import pytest

from rimstone.pools.future import CallbackThread, Future
from rimstone.pools.thread import ThreadPoolExecutor

PATIENCE = 30.0


def boom() -> None:
    raise ValueError("call failed")


def test_no_callback_no_thread() -> None:
    with ThreadPoolExecutor(2, "quiet") as pool:
        assert list(pool.map(abs, range(10))) == list(range(10))
        assert pool.submit(abs, -1).result(PATIENCE) == 1
        assert not any(thread.name == "rimstone-quiet-callbacks" for thread in threading.enumerate())


def test_one_after_another_in_one_thread_across_futures() -> None:
    names: list[str] = []
    running = threading.Semaphore(1)

    def callback(_: object) -> None:
        assert running.acquire(blocking=False)
        names.append(threading.current_thread().name)
        running.release()

    with ThreadPoolExecutor(4) as pool:
        for x in range(100):
            pool.submit(abs, x).add_done_callback(callback)
    assert set(names) <= {"rimstone-ThreadPoolExecutor-callbacks", threading.current_thread().name}
    assert len(names) == 100


def test_a_callback_added_to_a_done_future_runs_here_and_now() -> None:
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(abs, -1)
        future.result(PATIENCE)
        where: list[int] = []
        future.add_done_callback(lambda _: where.append(threading.get_ident()))
        assert where == [threading.get_ident()]


def test_a_slow_callback_stalls_no_call_no_waiter_and_no_map() -> None:
    release = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        gate = threading.Event()
        future = pool.submit(gate.wait, PATIENCE)
        future.add_done_callback(lambda _: release.wait(PATIENCE))
        gate.set()
        assert future.result(PATIENCE)
        assert [outcome.value for outcome in pool.outcomes(abs, [-1, -1])] == [1, 1]
        assert list(pool.map(abs, [-1])) == [1]
        release.set()


def test_an_exception_in_a_callback_is_logged_and_the_next_one_runs(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[object] = []
    gate = threading.Event()

    def fail(_: object) -> None:
        raise RuntimeError("callback failed")

    with ThreadPoolExecutor(1) as pool, caplog.at_level(logging.ERROR, "concurrent.futures"):
        future = pool.submit(gate.wait, PATIENCE)
        future.add_done_callback(fail)
        future.add_done_callback(seen.append)
        gate.set()
        future.result(PATIENCE)
        pool.shutdown()
        future.add_done_callback(fail)
    assert seen == [future]
    assert caplog.text.count("exception calling callback for") == 2
    assert "RuntimeError: callback failed" in caplog.text
    assert {record.name for record in caplog.records} == {"concurrent.futures"}


def test_system_exit_in_a_callback_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[object] = []
    gate = threading.Event()

    def leave(_: object) -> None:
        raise SystemExit

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(gate.wait, PATIENCE)
        future.add_done_callback(leave)
        future.add_done_callback(seen.append)
        gate.set()
    assert seen == [future]
    assert "exception calling callback" in caplog.text


def test_a_failed_and_a_cancelled_call_are_called_back_too() -> None:
    seen: list[object] = []
    gate = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(gate.wait, PATIENCE)
        failed, cancelled = pool.submit(boom), pool.submit(abs, 1)
        failed.add_done_callback(seen.append)
        cancelled.add_done_callback(lambda future: seen.append((future, threading.current_thread().name)))
        cancelled.cancel()
        gate.set()
    assert (cancelled, "rimstone-ThreadPoolExecutor-callbacks") in seen
    assert failed in seen
    assert len(seen) == 2


def test_a_callback_may_submit_and_shut_down() -> None:
    ended = threading.Event()
    pool = ThreadPoolExecutor(1)
    gate = threading.Event()
    future = pool.submit(gate.wait, PATIENCE)

    def callback(_: object) -> None:
        assert pool.submit(abs, -1).result(PATIENCE) == 1
        pool.shutdown(wait=True)
        ended.set()

    future.add_done_callback(callback)
    gate.set()
    assert ended.wait(PATIENCE)
    pool.shutdown()


def test_shutdown_without_waiting_still_runs_callbacks() -> None:
    called, gate = threading.Event(), threading.Event()
    pool = ThreadPoolExecutor(1)
    pool.submit(gate.wait, PATIENCE).add_done_callback(lambda _: called.set())
    pool.shutdown(wait=False)
    gate.set()
    assert called.wait(PATIENCE)
    pool.shutdown()


def test_the_thread_comes_back_for_what_is_posted_after_close() -> None:
    callbacks = CallbackThread("again")
    seen: list[object] = []
    for round_number in range(3):
        future: Future[int] = Future(callbacks)
        future.add_done_callback(seen.append)
        future.set_result(round_number)
        callbacks.close()
        callbacks.wait()
        assert seen[-1] is future
    assert not any(thread.name == "rimstone-again-callbacks" for thread in threading.enumerate())


def test_a_signal_handler_that_completes_a_future_while_the_end_is_waited_for() -> None:
    # In a process of its own: without the remedy the main thread waits for itself.
    script = """
        import faulthandler, signal
        from rimstone.pools.future import CallbackThread, Future
        faulthandler.dump_traceback_later(20, exit=True)
        callbacks, futures = CallbackThread("test"), []

        class Interrupted(type(callbacks._posted)):
            def empty(self):
                if callbacks._changed._is_owned() and not futures:
                    signal.raise_signal(signal.SIGUSR1)
                return super().empty()

        def complete(number, frame):
            futures.append(Future(callbacks))
            futures[0].add_done_callback(lambda _: print("called back"))
            futures[0].set_result(1)

        callbacks._posted = Interrupted()
        signal.signal(signal.SIGUSR1, complete)
        callbacks.close()
        callbacks.wait()
        print("ended")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "called back\nended\n", done.stderr
