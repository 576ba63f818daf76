"""A worker process that dies takes with it the calls it had started, and nothing else."""

import concurrent.futures
import faulthandler
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rimstone import Pool, ProcessPoolExecutor
from rimstone.errors import WorkerDied, WorkerStartFailed
from rimstone.pools.process import ProcessBackedExecutor
from rimstone.testing.calls import Gate, fork_and_hold, fork_and_return, hold, record

pytestmark = pytest.mark.slow

PATIENCE = 30.0


def pool_of(cls: type[ProcessBackedExecutor], processes: int, **options: Any) -> ProcessBackedExecutor:
    return Pool(processes=processes, **options) if cls is Pool else ProcessPoolExecutor(processes, **options)


BOTH = pytest.mark.parametrize("cls", [Pool, ProcessPoolExecutor])


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path / "gate") as made:
        yield made  # tests enter it once more, inside the pool's block, so that a failure opens it first


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "in vain"
        time.sleep(0.005)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def test_with_five_hundred_waiting_calls_only_those_of_the_dead_worker_fail(gate: Gate) -> None:
    with Pool(processes=2) as pool, gate:
        pool.submit(abs, -1)
        wait_until(lambda: [link.worker.was_ready for link in pool._dispatcher._links.values()] == [True, True])
        futures = [pool.submit(hold, gate.path, number) for number in range(500)]
        pids = gate.wait_for(500)
        before = pool.statistics().pids
        assert set(pids) == set(before)
        kill(before[0])
        wait_until(lambda: sum(future.done() for future in futures) == pids.count(before[0]))
        gate.open()
        results = [future.exception(PATIENCE) or future.result() for future in futures]
        died = [error for error in results if isinstance(error, WorkerDied)]
        assert len(died) == pids.count(before[0])
        assert {(error.pid, error.signal, error.exit_code, error.function) for error in died} == {
            (before[0], signal.SIGKILL, None, "hold")
        }
        assert "SIGKILL" in str(died[0])
        assert all(result in (number, *died) for number, result in enumerate(results))
        assert pool.submit(abs, -1).result(PATIENCE) == 1
        after = pool.statistics().pids
        assert len(after) == 2
        assert before[1] in after


@BOTH
def test_calls_that_were_not_started_run_elsewhere(cls: type[ProcessBackedExecutor], gate: Gate) -> None:
    with pool_of(cls, 1, **({"coroutines": 1, "threads": 1} if cls is Pool else {})) as pool, gate:
        first = pool.submit(hold, gate.path)
        others = [pool.submit(abs, -number) for number in range(100)]
        [victim] = gate.wait_for(1)
        kill(victim)
        assert isinstance(first.exception(PATIENCE), WorkerDied)
        assert [future.result(PATIENCE) for future in others] == list(range(100))
        assert victim not in pool.statistics().pids


@BOTH
def test_an_idle_worker_that_dies_is_replaced_unnoticed(cls: type[ProcessBackedExecutor]) -> None:
    with pool_of(cls, 1) as pool:
        pid = pool.submit(os.getpid).result(PATIENCE)
        for _ in range(4):
            kill(pid)
            new = pool.submit(os.getpid).exception(PATIENCE) or pool.submit(os.getpid).result(PATIENCE)
            assert isinstance(new, int), "an idle worker's death must not fail a call that it never started"
            assert new != pid
            pid = new


@BOTH
def test_a_call_that_exits_the_process_fails_with_its_exit_code(cls: type[ProcessBackedExecutor]) -> None:
    with pool_of(cls, 1) as pool:
        with pytest.raises(WorkerDied, match="exited with code 7 while it ran _exit") as caught:
            pool.submit(os._exit, 7).result(PATIENCE)
        assert (caught.value.exit_code, caught.value.signal) == (7, None)
        assert pool.submit(abs, -1).result(PATIENCE) == 1


@BOTH
def test_a_crash_in_c_fails_with_its_signal(cls: type[ProcessBackedExecutor], capfd: Any) -> None:
    with pool_of(cls, 1) as pool:
        with pytest.raises(WorkerDied, match="SIGSEGV") as caught:
            pool.submit(faulthandler._sigsegv).result(PATIENCE)  # type: ignore[attr-defined]
        assert caught.value.signal == signal.SIGSEGV
        assert pool.submit(abs, -1).result(PATIENCE) == 1
    assert "Segmentation fault" in capfd.readouterr().err  # with the stack of the call, from faulthandler


@BOTH
def test_a_grandchild_that_keeps_the_wire_open_does_not_hide_the_death(
    cls: type[ProcessBackedExecutor], gate: Gate
) -> None:
    with pool_of(cls, 1) as pool, gate:
        grandchild = pool.submit(fork_and_hold, gate.path).result(PATIENCE)
        assert gate.wait_for(1) == [grandchild]
        call = pool.submit(hold, gate.path)
        [victim] = gate.wait_for(1)
        kill(victim)
        assert isinstance(call.exception(PATIENCE), WorkerDied)
        assert os.path.exists(f"/proc/{grandchild}")
        assert pool.submit(abs, -1).result(PATIENCE) == 1


@BOTH
def test_a_child_that_returns_from_a_call_ends_and_gives_no_second_answer(
    cls: type[ProcessBackedExecutor], tmp_path: Path
) -> None:
    path = str(tmp_path / "done")
    with pool_of(cls, 1) as pool:
        assert [pool.submit(fork_and_return, path, number).result(PATIENCE) for number in range(3)] == [0, 1, 2]
        assert pool.statistics().finished == 3
    assert Counter(Path(path).read_text().split()) == {"0": 2, "1": 2, "2": 2}


@BOTH
def test_a_worker_killed_while_it_starts_is_replaced(cls: type[ProcessBackedExecutor], gate: Gate) -> None:
    with pool_of(cls, 1, initializer=hold, initargs=(gate.path,)) as pool, gate:
        future = pool.submit(abs, -1)
        [starting] = gate.wait_for(1)
        kill(starting)
        [second] = gate.wait_for(1)
        assert second != starting
        gate.open()
        assert future.result(PATIENCE) == 1
        assert pool.statistics().pids == (second,)


@BOTH
def test_workers_that_never_get_ready_break_the_pool_instead_of_spinning(cls: type[ProcessBackedExecutor]) -> None:
    with pool_of(cls, 1, initializer=os._exit, initargs=(5,)) as pool:
        pending = [pool.submit(abs, -1) for _ in range(3)]
        for future in pending:
            with pytest.raises(WorkerStartFailed, match="exit code 5"):
                future.result(PATIENCE)
        with pytest.raises(WorkerStartFailed):
            pool.submit(abs, -1).result(PATIENCE)
        assert next(pool._dispatcher._numbers) <= 5


def test_a_function_that_ends_each_worker_that_imports_it_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deadly.py").write_text("import os\nif os.environ['WHERE'] == 'worker': os._exit(9)\ndef f(): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("WHERE", "parent")
    import deadly  # noqa: PLC0415

    monkeypatch.setenv("WHERE", "worker")
    monkeypatch.delitem(sys.modules, "deadly")
    monkeypatch.setitem(sys.modules, "deadly", deadly)
    with Pool(processes=1) as pool:
        futures = [pool.submit(deadly.f) for _ in range(20)]
        for future in futures:
            with pytest.raises(WorkerDied, match="exited with code 9") as caught:
                future.result(PATIENCE)
            assert any("imported" in note for note in caught.value.__notes__)
        with pytest.raises(WorkerDied):
            pool.submit(deadly.f).result(PATIENCE)
        assert pool.submit(abs, -1).result(PATIENCE) == 1
        assert next(pool._dispatcher._numbers) <= 5


@BOTH
def test_a_worker_that_was_stopped_and_then_killed(cls: type[ProcessBackedExecutor]) -> None:
    with pool_of(cls, 1) as pool:
        pid = pool.submit(os.getpid).result(PATIENCE)
        os.kill(pid, signal.SIGSTOP)
        futures = [pool.submit(abs, -number) for number in range(50)]
        kill(pid)
        assert [future.result(PATIENCE) for future in futures] == list(range(50))


def test_leaving_by_ctrl_c_ends_a_stopped_worker_too() -> None:
    with pytest.raises(KeyboardInterrupt), ProcessPoolExecutor(1) as pool:
        pid = pool.submit(os.getpid).result(PATIENCE)
        os.kill(pid, signal.SIGSTOP)
        future = pool.submit(abs, -1)
        raise KeyboardInterrupt
    concurrent.futures.wait([future], PATIENCE)
    assert future.cancelled() or future.exception() is not None
    pool.shutdown()
    assert not os.path.exists(f"/proc/{pid}")


@BOTH
def test_every_call_ends_once_while_workers_are_killed_at_random(
    cls: type[ProcessBackedExecutor], tmp_path: Path
) -> None:
    calls = 3000
    rng = random.Random(20)
    path = tmp_path / "ran"
    path.touch()
    kills = 0
    # Long enough to be killed several times.
    options, seconds = ({"threads": 1, "coroutines": 10}, 0.01) if cls is Pool else ({}, 0.001)
    with pool_of(cls, 2, **options) as pool:
        futures = [pool.submit(record, str(path), number, seconds) for number in range(calls)]
        while kills < 10 and not all(future.done() for future in futures):
            time.sleep(rng.random() * 0.06)
            # Three failed starts in a row would rightly end the pool, so not every start may be spoilt.
            if pool._dispatcher._failed_starts == 0:
                victims = rng.choice([pool.statistics().pids, pool.statistics().pids[:1], pool.statistics().pids[1:]])
                for pid in victims:
                    kill(pid)
                    kills += 1
                wait_until(
                    lambda gone=victims: len(set(pool.statistics().pids) - set(gone)) == 2 or pool._dispatcher.broken
                )
        concurrent.futures.wait(futures, PATIENCE)
    assert kills >= 2
    ran = Counter(map(int, path.read_text().split()))
    returned = {number for number, future in enumerate(futures) if future.exception() is None}
    assert all(future.result() == number for number, future in enumerate(futures) if number in returned)
    assert all(isinstance(futures[number].exception(), WorkerDied) for number in set(range(calls)) - returned)
    assert all(ran[number] == 1 for number in returned)
    assert max(ran.values()) == 1, "a call that had been started was run again"
    assert len(returned) > calls // 4
    assert pool.statistics().in_flight == 0
