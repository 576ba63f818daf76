"""ThreadPoolExecutor: the executor contract, its threads, and what interrupts may not break."""

import concurrent.futures
import contextlib
import gc
import signal
import subprocess
import sys
import textwrap
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any, Self

import pytest

from rimstone import errors, machine
from rimstone.pools import executor
from rimstone.pools.future import Future
from rimstone.pools.thread import ThreadPoolExecutor
from rimstone.testing.executor_contract import ExecutorContract

PATIENCE = 30.0


class TestThreadPoolContract(ExecutorContract):
    in_process = True

    def make_pool(self, workers: int = 2) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(workers)


def run_script(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=False
    )


# Threads


def test_default_is_five_threads_for_each_cpu() -> None:
    with ThreadPoolExecutor() as pool:
        assert pool._max_workers == 5 * (machine.cpus().value or 1)


def test_threads_have_names_and_are_reused() -> None:
    with ThreadPoolExecutor(5, "fetch") as pool:
        names = {pool.submit(lambda: threading.current_thread().name).result(PATIENCE) for _ in range(50)}
        # The first thread may still be on its way back to the queue when the next call comes.
        assert len(names) <= 2
        assert names <= {f"rimstone-fetch-{n}" for n in range(1, 6)}


def test_as_many_threads_as_needed_and_no_more() -> None:
    barrier = threading.Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(barrier.wait, PATIENCE) for _ in range(4)]
        assert sorted(future.result(PATIENCE) for future in futures) == [0, 1, 2, 3]
        list(pool.map(abs, range(100)))
        assert pool.statistics().workers == 4


def test_a_call_may_submit_another_and_wait_for_it() -> None:
    with ThreadPoolExecutor(2) as pool:
        assert pool.submit(lambda: pool.submit(abs, -1).result(PATIENCE)).result(PATIENCE) == 1


def test_initializer_runs_once_in_each_thread() -> None:
    seen: list[tuple[str, int]] = []
    barrier = threading.Barrier(3)
    with ThreadPoolExecutor(
        3, initializer=lambda value: seen.append((threading.current_thread().name, value)), initargs=(7,)
    ) as pool:
        for _ in range(3):
            pool.submit(barrier.wait, PATIENCE)
        list(pool.map(abs, range(20)))
    assert sorted(seen) == [(f"rimstone-ThreadPoolExecutor-{n}", 7) for n in (1, 2, 3)]


def test_a_failing_initializer_breaks_the_pool(caplog: pytest.LogCaptureFixture) -> None:
    release = threading.Event()

    def initialize() -> None:
        release.wait(PATIENCE)
        raise OSError("no database")

    with ThreadPoolExecutor(1, initializer=initialize) as pool:
        futures = [pool.submit(abs, -1) for _ in range(3)]
        release.set()
        for future in futures:
            with pytest.raises(errors.InitializerFailed, match="no database") as caught:
                future.result(PATIENCE)
            assert isinstance(caught.value.__cause__, OSError)
        with pytest.raises(concurrent.futures.BrokenExecutor):
            pool.submit(abs, -1)
    assert "Exception in initializer" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"max_workers": 0}, ValueError),
        ({"max_workers": 2.5}, TypeError),
        ({"max_workers": True}, TypeError),
        ({"initializer": 5}, TypeError),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(arguments))):
        ThreadPoolExecutor(**arguments)


@pytest.mark.parametrize(("level", "pool_name"), [("process", "ProcessPoolExecutor"), ("coroutine", "Pool")])
def test_a_level_it_does_not_have_names_the_pool_that_has_it(level: Any, pool_name: str) -> None:
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match=f"rimstone.{pool_name}"):
        pool.options(level=level)


def test_level_thread_is_accepted() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.options(level="thread").submit(abs, -1).result(PATIENCE) == 1


# Memory


def test_an_exception_is_in_no_reference_cycle() -> None:
    class CustomError(Exception):
        pass

    def fail() -> None:
        raise CustomError

    gc.collect()
    gc.disable()
    try:
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(fail)
            with pytest.raises(CustomError):
                future.result(PATIENCE)
            results = pool.map(lambda _: fail(), [1])
            error = future.exception()
            assert error is not None
            watched = weakref.ref(error)
            del future, error
            try:
                next(results)
            except CustomError as map_error:
                watched_in_map = weakref.ref(map_error)
            del results
        assert watched() is None
        assert watched_in_map() is None
    finally:
        gc.enable()


def test_arguments_and_results_are_not_kept() -> None:
    class Big:
        pass

    with ThreadPoolExecutor(1) as pool:
        big = Big()
        watched = weakref.ref(big)
        assert pool.submit(lambda _: None, big).result(PATIENCE) is None
        del big
        pool.submit(abs, 1).result(PATIENCE)
        assert watched() is None


def test_a_collected_pool_finishes_its_calls_and_ends_its_threads() -> None:
    release = threading.Event()
    pool = ThreadPoolExecutor(1, "dropped")
    first, second = pool.submit(release.wait, PATIENCE), pool.submit(abs, -2)
    second.add_done_callback(lambda _: None)
    threads = list(pool._crew.threads)
    del pool
    gc.collect()
    release.set()
    assert first.result(PATIENCE)
    assert second.result(PATIENCE) == 2
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    for thread in threading.enumerate():
        if thread.name == "rimstone-dropped-callbacks":
            thread.join(PATIENCE)
            assert not thread.is_alive()


def test_calls_are_finished_at_the_end_of_the_interpreter() -> None:
    done = run_script("""
        import time
        from rimstone.pools.thread import ThreadPoolExecutor
        pool = ThreadPoolExecutor(1)
        def late(): time.sleep(0.1); print("ran")
        for _ in range(2):
            pool.submit(late).add_done_callback(lambda _: print("called back"))
    """)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.split("\n")) == ["", "called back", "called back", "ran", "ran"]


# Ending


def test_shutdown_from_one_of_its_calls_does_not_hang() -> None:
    pool = ThreadPoolExecutor(1)
    with pytest.raises(RuntimeError, match="waits for the end of that pool"):
        pool.submit(pool.shutdown).result(PATIENCE)
    pool.shutdown()


def test_a_queued_call_that_was_cancelled_never_runs() -> None:
    release, ran = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(release.wait, PATIENCE)
        future = pool.submit(ran.set)
        assert future.cancel()
        assert future.cancelled()
        # Told at once, though the only thread is busy.
        assert concurrent.futures.wait([future], PATIENCE).done == {future}
        release.set()
    assert not ran.is_set()


def test_leaving_by_keyboard_interrupt_does_not_wait_for_running_calls() -> None:
    release, started = threading.Event(), threading.Event()

    def block() -> None:
        started.set()
        release.wait(PATIENCE)

    pool = ThreadPoolExecutor(1)
    with pytest.raises(KeyboardInterrupt), pool:
        running, queued = pool.submit(block), pool.submit(abs, 1)
        started.wait(PATIENCE)
        raise KeyboardInterrupt
    assert running.running()
    assert queued.cancelled()
    release.set()
    pool.shutdown()
    assert running.done()


def test_a_program_that_leaves_by_keyboard_interrupt_ends_at_once() -> None:
    done = run_script("""
        import threading
        from rimstone.pools.thread import ThreadPoolExecutor
        with ThreadPoolExecutor(1) as pool:
            pool.submit(threading.Event().wait)
            raise KeyboardInterrupt
    """)
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")


def test_an_interrupt_while_leaving_gives_up_the_running_calls() -> None:
    done = run_script("""
        import signal, threading
        from rimstone.pools.thread import ThreadPoolExecutor
        left = threading.Event()
        def interrupt():
            # Once is not always enough: CPython misses a signal that comes just before a lock's wait begins.
            while not left.wait(0.05):
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            threading.Event().wait()
        try:
            with ThreadPoolExecutor(1) as pool:
                release = threading.Event()
                pool.submit(release.wait)
                pool.submit(interrupt)
                queued = [pool.submit(abs, 1) for _ in range(3)]
                release.set()
        except KeyboardInterrupt:
            left.set()
            print([future.cancelled() for future in queued])
    """)
    assert done.stdout == "[True, True, True]\n", done.stderr


def test_a_submit_that_meets_shutdown_reopens_nothing() -> None:
    def submit_shutting_down_at(moment: int) -> executor.State:
        """Shut the pool down before the *moment*-th line that `submit` runs in executor.py."""
        pool, lines = ThreadPoolExecutor(1), 0

        def trace(frame: types.FrameType, event: str, _argument: object) -> Any:
            nonlocal lines
            if frame.f_code.co_filename != executor.__file__:
                return None
            lines += event == "line"
            if event == "line" and lines == moment:
                pool.shutdown()
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            with contextlib.suppress(errors.PoolClosed):
                pool.submit(abs, -1)
        finally:
            sys.settrace(before)
        state = pool._current_state()
        pool.shutdown()
        return state

    states = [submit_shutting_down_at(moment) for moment in range(1, 20)]
    ended = states.index(executor.State.RUNNING)  # from here on, submit had returned before
    assert ended > 4
    assert set(states[:ended]) == {executor.State.CLOSED}
    assert set(states[ended:]) == {executor.State.RUNNING}


# Fork


def test_a_forked_child_ends_and_is_told_to_create_a_pool_of_its_own() -> None:
    done = run_script("""
        import os, signal, sys, threading
        from rimstone.errors import PoolClosed
        from rimstone.pools.thread import ThreadPoolExecutor
        pool = ThreadPoolExecutor(1)
        pool.submit(int).result(30)
        held, release = threading.Event(), threading.Event()

        def hold():
            with pool._crew.changed:
                held.set()
                release.wait(30)

        holder = threading.Thread(target=hold)
        holder.start()
        held.wait(30)
        parent, child = os.getpid(), os.fork()
        if child == 0:
            signal.alarm(20)
            try:
                pool.submit(int)
            except PoolClosed as error:
                print(str(error).replace(str(parent), "<parent>"))
            with ThreadPoolExecutor(1) as own:
                print(own.submit(abs, -1).result(30))
            pool.shutdown()
            pool._crew.stop()
            pool._crew.wait()
            sys.exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        release.set()
        holder.join()
        print(pool.submit(abs, -2).result(30))
    """)
    assert done.stdout.splitlines() == [
        "this pool belongs to process <parent>, and this is a fork of it; create a pool here",
        "1",
        "7",
        "2",
    ], done.stderr


# Interrupts


def test_a_signal_handler_may_submit_in_the_midst_of_a_submit() -> None:
    done = run_script("""
        import faulthandler, signal
        from rimstone.pools.thread import ThreadPoolExecutor
        faulthandler.dump_traceback_later(20, exit=True)
        pool, futures = ThreadPoolExecutor(2), []

        class Interrupted(type(pool._crew.calls)):
            def put(self, call):
                super().put(call)
                if not futures:
                    signal.raise_signal(signal.SIGUSR1)

        def submit(number, frame):
            futures.append(None)
            futures[0] = pool.submit(abs, -1)

        pool._crew.calls = Interrupted()
        signal.signal(signal.SIGUSR1, submit)
        print(pool.submit(abs, -2).result(30), futures[0].result(30))
        pool.shutdown()
    """)
    assert done.stdout == "2 1\n", done.stderr


@pytest.mark.slow
def test_the_pool_survives_a_storm_of_signals() -> None:
    done = run_script("""
        import faulthandler, gc, itertools, signal, sys, threading, time
        from rimstone.pools.thread import ThreadPoolExecutor
        faulthandler.dump_traceback_later(40, exit=True)

        def storm():
            while time.monotonic() < end:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
                time.sleep(0.0003)

        def interrupt(number, frame):
            # Not in the few lines around `play`, where nothing would catch it.
            while frame is not None:
                if frame.f_code is play.__code__:
                    raise KeyboardInterrupt
                frame = frame.f_back

        def play():
            global rounds
            if thread.ident is None:
                thread.start()
            while thread.is_alive():
                future = pool.submit(abs, -1)
                future.add_done_callback(called_back.append)
                futures.append(future)
                assert future.result(30) == 1
                pool.submit(abs, -1).cancel()
                assert list(pool.map(abs, range(5))) == [0, 1, 2, 3, 4]
                assert sum(outcome.value for outcome in pool.outcomes(abs, range(5))) == 10
                results = pool.map(abs, itertools.count())
                assert next(results) == 0
                results.close()
                with ThreadPoolExecutor(2) as inner:
                    inner.map(abs, range(9))
                rounds += 1

        signal.signal(signal.SIGINT, interrupt)
        pool, futures, rounds, interrupts, called_back = ThreadPoolExecutor(3), [], 0, 0, []
        thread = threading.Thread(target=storm)
        end = time.monotonic() + 2
        while True:
            try:
                play()
                break
            except KeyboardInterrupt:
                interrupts += 1
        thread.join()
        assert [future.result(30) for future in futures] == [1] * len(futures)
        assert list(pool.map(abs, range(1000))) == list(range(1000))
        for calls in list(pool._maps):  # of an interrupt between `map` and its first `next`
            calls.close()
        pool.shutdown()
        assert {*futures} <= {*called_back}
        # An inner pool whose leaving was interrupted, and its abandoning too, ends when it is collected.
        gc.collect()
        for thread in threading.enumerate():
            if thread is not threading.current_thread():
                thread.join(30)
                assert not thread.is_alive(), thread
        assert interrupts > 100, interrupts
        print("survived")
    """)
    assert done.stdout == "survived\n", done.stderr


class Alarm:
    """Raises KeyboardInterrupt in the main thread, by a signal, so many seconds after it was set; at most once."""

    def __init__(self) -> None:
        self._armed = False
        self._before: Any = None

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGALRM, self._ring)
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()
        signal.signal(signal.SIGALRM, self._before)

    def set(self, seconds: float) -> None:
        self._armed = True
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def clear(self) -> None:
        self._armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _ring(self, _number: int, _frame: object) -> None:
        if self._armed:
            self._armed = False
            raise KeyboardInterrupt


def submit_and_wait(pool: ThreadPoolExecutor) -> None:
    future = pool.submit(abs, -1)
    future.add_done_callback(lambda _: None)
    assert future.result(PATIENCE) == 1


def map_all(pool: ThreadPoolExecutor) -> None:
    assert list(pool.map(abs, range(4), buffersize=2)) == [0, 1, 2, 3]


def outcomes_all(pool: ThreadPoolExecutor) -> None:
    assert len(list(pool.outcomes(abs, range(3), buffersize=2))) == 3


def cancel_one(pool: ThreadPoolExecutor) -> None:
    future: Future[int] = Future(pool._callbacks)  # one that no thread runs meanwhile
    future.add_done_callback(lambda _: None)
    future.cancel()


def whole_life(_: ThreadPoolExecutor) -> None:
    with ThreadPoolExecutor(1) as inner:
        inner.submit(abs, -1).add_done_callback(lambda _: None)
        inner.map(abs, range(3), buffersize=1)


@pytest.mark.slow
# An interrupt in a finalizer is lost in Python: the standard library's own, when a Thread object dies, and ours.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("action", [submit_and_wait, map_all, outcomes_all, cancel_one, whole_life])
def test_the_pool_survives_an_interrupt_at_each_moment(action: Callable[[ThreadPoolExecutor], None]) -> None:
    interrupted = 0
    # One thread, whose loss would show at once.
    with ThreadPoolExecutor(1) as pool, Alarm() as alarm:
        for microseconds in range(1, 601):
            try:
                alarm.set(microseconds / 1e6)
                action(pool)
                alarm.clear()
            except KeyboardInterrupt:
                interrupted += 1
            called_back = threading.Event()
            future = pool.submit(abs, -5)
            future.add_done_callback(lambda _, event=called_back: event.set())  # type: ignore[misc]
            assert future.result(PATIENCE) == 5, microseconds
            assert called_back.wait(PATIENCE), microseconds
            for calls in list(pool._maps):  # of an interrupt between `map` and its first `next`
                calls.close()
    assert interrupted
