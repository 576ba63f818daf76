"""Calls find their level by themselves: waits pile up on one thread, blocking calls spread over threads, computing
calls over processes, and nothing has to be said beforehand. The bounds are generous; figures live in bench/.
"""

import ctypes
import itertools
import os
import threading
import time
from collections import Counter

import pytest

from rimstone import Pool


def where() -> tuple[int, int]:
    return os.getpid(), threading.get_native_id()


def wait(seconds):
    time.sleep(seconds)
    return where()


def block_in_c(seconds):
    ctypes.CDLL(None).usleep(int(seconds * 1e6))
    return where()


def compute(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return where()


def compute_until(path):
    """Computes until the test creates the file *path*."""
    while not os.path.exists(path):
        compute(0.005)
    return where()


def timed(function, *args):
    start = time.monotonic()
    result = function(*args)
    return result, time.monotonic() - start


def run(pool, *jobs):
    """Submit every (count, function, argument) at once; the places where each job's calls ran."""
    futures = [[pool.submit(function, argument) for _ in range(count)] for count, function, argument in jobs]
    return [[future.result(timeout=60) for future in job] for job in futures]


def test_two_thousand_waits_pile_up_on_one_thread():
    with Pool(processes=1, coroutines=5000) as pool:
        (places,), seconds = timed(run, pool, (2000, wait, 0.5))
    busiest = Counter(places).most_common(1)[0][1]
    assert busiest >= 1500  # all but those that a moment of a busy machine sent to another thread
    assert seconds < 60  # one after another: 1,000 s; by five threads: 200 s


def test_a_full_thread_spills_into_the_next():
    with Pool(processes=1, threads=3, coroutines=50) as pool:
        (places,), seconds = timed(run, pool, (150, wait, 0.5))
    assert sorted(Counter(places).values()) == [50, 50, 50]
    assert seconds < 20  # one after another: 75 s


def test_calls_that_block_in_c_spread_over_threads():
    with Pool(processes=1, threads=5) as pool:
        (places,) = run(pool, (50, block_in_c, 0.1))
    assert len(set(places)) == 5


def test_computing_calls_spread_over_processes_one_at_a_time_in_each():
    with Pool(processes=2) as pool:
        pids = Counter(pid for pid, _ in run(pool, (12, compute, 0.05))[0])
    assert len(pids) == 2
    assert min(pids.values()) >= 3


def test_a_mix_does_not_wait_for_its_parts_in_turn(tmp_path):
    """Waiting and blocking calls finish while every process has a computing call."""
    release = tmp_path / "release"
    with Pool(processes=2) as pool:
        run(pool, (1, wait, 0.01))
        computing = [pool.submit(compute_until, str(release)) for _ in range(3)]
        run(pool, (300, wait, 0.1), (10, block_in_c, 0.05))
        assert not any(future.done() for future in computing)
        release.touch()
        assert {future.result() for future in computing}


def test_a_computing_call_does_not_hold_up_waits(tmp_path):
    release = tmp_path / "release"
    with Pool(processes=1, threads=2) as pool:
        run(pool, (1, wait, 0.01))
        computing = pool.submit(compute_until, str(release))
        run(pool, (100, wait, 0.1))
        assert not computing.done()
        release.touch()
        computing.result()


def test_an_unknown_function_does_not_start_on_a_thread_with_waiters():
    with Pool(processes=1, threads=2) as pool:
        waiting = [pool.submit(wait, 1.0) for _ in range(20)]
        time.sleep(0.3)  # they wait now
        (unknown,) = run(pool, (1, block_in_c, 0.01))
        assert {future.result() for future in waiting}.isdisjoint(unknown)


def test_one_slow_call_does_not_hold_back_those_sent_with_it(tmp_path):
    """Calls that lie behind a slow one in its worker are handed back and run elsewhere."""
    release = str(tmp_path / "release")

    def one_is_slow(number):
        if number == 300:
            compute_until(release)
        return number

    with Pool(processes=2, threads=1, coroutines=1) as pool:
        futures = [pool.submit(one_is_slow, number) for number in range(1000)]
        others = [future.result(timeout=60) for number, future in enumerate(futures) if number != 300]
        assert len(others) == 999
        assert not futures[300].done()
        (tmp_path / "release").touch()
        assert futures[300].result() == 300


@pytest.mark.parametrize(("level", "threads_used"), [("coroutine", 1), ("thread", 3)], ids=["coroutine", "thread"])
def test_a_hint_wins(level, threads_used):
    with Pool(processes=1, threads=3) as pool:
        futures = [pool.options(level=level).submit(wait, 0.2) for _ in range(9)]
        assert len({future.result() for future in futures}) == threads_used


def test_the_process_hint_runs_one_call_at_a_time_in_each_process():
    def span():
        begin = time.monotonic()
        compute(0.05)
        return begin, time.monotonic()

    with Pool(processes=1, threads=3) as pool:
        futures = [pool.options(level="process").submit(span) for _ in range(4)]
        spans = sorted(future.result() for future in futures)
    assert all(earlier[1] <= later[0] for earlier, later in itertools.pairwise(spans))


def test_max_workers_bounds_the_calls_in_flight():
    with Pool(7, processes=2) as pool:
        run(pool, (60, wait, 0.05))
        assert pool.statistics().most_in_flight <= 7


def test_the_same_processes_are_used_again():
    with Pool(processes=2) as pool:
        before = None
        for _ in range(5):
            run(pool, (50, wait, 0.01))
            pids = set(pool.statistics().pids)
            assert len(pids) == 2
            assert before in (None, pids)
            before = pids
