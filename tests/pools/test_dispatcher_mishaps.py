"""What must not break a pool of processes: calls that come too late, futures that users complete, messages that cannot
be sent, a machine that has no process to give.
"""

import os
import subprocess
import sys
import time
from concurrent.futures import CancelledError, wait
from types import SimpleNamespace

import pytest

from rimstone import Pool, ProcessPoolExecutor
from rimstone.errors import PoolClosed
from rimstone.pools import dispatcher as module


def hold(path):
    """Computes until the test creates the file *path*."""
    while not os.path.exists(path):
        time.thread_time()
    return "held"


@pytest.fixture
def release(tmp_path):
    yield tmp_path / "release"
    (tmp_path / "release").touch()


def test_a_call_that_comes_after_the_end_fails():
    pool = Pool(processes=1)
    assert pool.submit(int).result() == 0
    pool.shutdown()
    pool._dispatcher._draining = False  # as if `submit` had looked just before
    future = pool._submit(module_options(), int, (), {})
    with pytest.raises(PoolClosed):
        future.result(timeout=10)


def test_a_call_that_comes_while_the_workers_stop_fails(monkeypatch):
    pool = Pool(processes=1)
    assert pool.submit(int).result() == 0
    dispatcher = pool._dispatcher
    late = []
    stop_workers = dispatcher._stop_workers

    def stop_and_let_one_in():
        stop_workers()
        dispatcher._draining = False
        late.append(pool._submit(module_options(), int, (), {}))
        dispatcher._draining = True

    monkeypatch.setattr(dispatcher, "_stop_workers", stop_and_let_one_in)
    pool.shutdown()
    with pytest.raises(PoolClosed):
        late[0].result(timeout=10)


def module_options():
    return SimpleNamespace(level=None)


def test_a_future_that_the_user_completes_harms_nobody(release):
    with ProcessPoolExecutor(1) as pool:
        running = pool.submit(hold, str(release))
        queued = [pool.submit(abs, -1) for _ in range(3)]
        queued[1].set_result("mine")
        release.touch()
        assert running.result() == "held"
        assert [future.result() for future in queued] == [1, "mine", 1]


def test_what_was_handed_back_can_be_cancelled(release):
    with ProcessPoolExecutor(1) as pool:
        assert list(pool.map(abs, range(200))) == list(range(200))  # short: many may lie in the worker
        running = pool.submit(hold, str(release))
        queued = [pool.submit(abs, -1) for _ in range(50)]
        deadline = time.monotonic() + 20
        while any(future.running() for future in queued) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert all(future.cancel() for future in queued)
        release.touch()
        assert running.result() == "held"


def test_leaving_by_an_exception_cancels_what_has_not_started(release):
    with pytest.raises(ZeroDivisionError), ProcessPoolExecutor(1) as pool:
        running = pool.submit(hold, str(release))
        queued = [pool.submit(abs, -1) for _ in range(50)]
        while not running.running():
            time.sleep(0.01)
        time.sleep(0.1)
        queued[-1].add_done_callback(lambda _: release.touch())
        raise ZeroDivisionError
    assert running.result() == "held"
    wait(queued)
    assert sum(future.cancelled() for future in queued) >= 49
    with pytest.raises(CancelledError):
        queued[-1].result()


def test_workers_that_cannot_be_started_are_started_later(monkeypatch):
    make, failures = module.ProcessWorker, iter([True, False, True, False])

    def sometimes(*args):
        if next(failures, False):
            raise BlockingIOError(11, "no process to be had")
        return make(*args)

    monkeypatch.setattr(module, "ProcessWorker", sometimes)
    with Pool(processes=2) as pool:
        assert pool.submit(abs, -1).result() == 1
        deadline = time.monotonic() + 20
        while pool.statistics().workers < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert pool.statistics().workers == 2


def test_a_message_that_cannot_be_sent_fails_its_calls_only():
    """A limit on file sizes is the simplest way to have no room for a large message."""
    script = """if True:
        import resource
        from rimstone import Pool
        from rimstone.errors import CannotTravel
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        with Pool(processes=1) as pool:
            too_large = pool.submit(len, b"x" * 5_000_000)
            too_large_back = pool.submit(bytes, 5_000_000)
            assert pool.submit(abs, -1).result() == 1
            for future in too_large, too_large_back:
                error = future.exception()
                assert isinstance(error, CannotTravel), error
                print(error)
            assert pool.submit(abs, -1).result() == 1
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "len() could not be sent to a worker process" in done.stdout
    assert "could not be sent back" in done.stdout
