"""How many worker processes there are, when they come, and what happens before their first call."""

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from rimstone import Pool, ProcessPoolExecutor, machine
from rimstone.errors import CannotTravel, InitializerFailed
from rimstone.pools.process import ProcessBackedExecutor
from rimstone.testing.calls import Gate, hold, record

pytestmark = pytest.mark.slow

PATIENCE = 30.0
BOTH = pytest.mark.parametrize("cls", [Pool, ProcessPoolExecutor])


def pool_of(cls: type[ProcessBackedExecutor], processes: int | None, **options: Any) -> ProcessBackedExecutor:
    return Pool(processes=processes, **options) if cls is Pool else ProcessPoolExecutor(processes, **options)


def children() -> set[int]:
    found: set[int] = set()
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # the thread has ended
            found.update(map(int, Path(f"/proc/self/task/{task}/children").read_text().split()))
    return found


@BOTH
@pytest.mark.parametrize("processes", [1, 3])
def test_exactly_n_processes_created_once_and_reused(cls: type[ProcessBackedExecutor], processes: int) -> None:
    before = children()
    with pool_of(cls, processes) as pool:
        assert children() == before, "processes come with the first call"
        assert pool.submit(abs, -1).result(PATIENCE) == 1
        pids = pool.statistics().pids
        assert len(set(pids)) == processes
        used = set()
        rounds = 0
        while rounds < 20 or used != set(pids):  # the last one may not be ready yet
            rounds += 1
            used |= set(pool.map(_pid_after, [0.0005] * 30))
            assert pool.statistics().pids == pids
            assert children() - before == set(pids)
    assert children() == before


def _pid_after(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


@BOTH
def test_as_many_processes_as_cpus_by_default(cls: type[ProcessBackedExecutor]) -> None:
    with pool_of(cls, None) as pool:
        assert pool.submit(abs, -1).result(PATIENCE) == 1
        assert len(pool.statistics().pids) == machine.cpus().value


@BOTH
def test_a_pool_without_calls_starts_no_process(cls: type[ProcessBackedExecutor]) -> None:
    before = children()
    with pool_of(cls, 2) as pool:
        assert pool.statistics().pids == ()
    assert children() == before


@BOTH
def test_the_initializer_runs_once_in_each_process(cls: type[ProcessBackedExecutor], tmp_path: Path) -> None:
    path = tmp_path / "ran"
    path.touch()
    with pool_of(cls, 2, initializer=record, initargs=(str(path), 7)) as pool:
        while not all(link.worker.was_ready for link in pool._dispatcher._links.values()) or path.read_text() == "":
            assert pool.submit(abs, -1).result(PATIENCE) == 1
        assert list(pool.map(abs, range(100))) == list(range(100))
    assert path.read_text() == "7\n7\n"


@BOTH
def test_an_initializer_that_fails_fails_pending_and_later_calls(cls: type[ProcessBackedExecutor]) -> None:
    with pool_of(cls, 1, initializer=_fail, initargs=("not a number",)) as pool:
        pending = [pool.submit(abs, -1) for _ in range(5)]
        for future in pending:
            with pytest.raises(InitializerFailed, match="initializer") as caught:
                future.result(PATIENCE)
        assert isinstance(caught.value.__cause__, ValueError)
        assert "not a number" in str(caught.value.__cause__)
        assert "in _fail" in str(caught.value.__cause__.__cause__), "the traceback as it was in the worker"
        with pytest.raises(InitializerFailed):
            pool.submit(abs, -1).result(PATIENCE)
        assert next(pool._dispatcher._numbers) <= 3, "it must not be tried again and again"
    assert pool.statistics().pids == ()


def _fail(text: str) -> None:
    int(text)


def test_an_initializer_that_raises_system_exit_fails_as_any_other() -> None:
    with Pool(processes=1, initializer=_exit) as pool:
        with pytest.raises(InitializerFailed) as caught:
            pool.submit(abs, -1).result(PATIENCE)
        assert isinstance(caught.value.__cause__, SystemExit)


def _exit() -> None:
    raise SystemExit("no")


@BOTH
def test_an_initializer_that_cannot_travel_is_refused_at_once(cls: type[ProcessBackedExecutor]) -> None:
    with pytest.raises(CannotTravel, match="argument 1 of print"):
        pool_of(cls, 1, initializer=print, initargs=(threading.Lock(),))
    with pytest.raises(TypeError, match="initializer=5 must be callable"):
        pool_of(cls, 1, initializer=5)


@pytest.mark.parametrize("name", ["max_workers", "processes", "threads", "coroutines"])
@pytest.mark.parametrize("value", [0, -1, 2.0, "4", True, float("nan"), []])
def test_wrong_numbers_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=f"{name}=.*at least 1.*None for the default"):
        Pool(**{name: value})
    if name == "max_workers":
        with pytest.raises((ValueError, TypeError), match=f"{name}=.*at least 1.*None for the default"):
            ProcessPoolExecutor(value)


def test_max_workers_bounds_the_calls_in_flight(tmp_path: Path) -> None:
    with Pool(3, processes=2) as pool, Gate(tmp_path / "gate") as gate:
        futures = [pool.submit(hold, gate.path, number) for number in range(9)]
        for _ in range(9):
            gate.wait_for(1)
            assert sum(future.running() for future in futures) <= 3
            gate.open()
        assert [future.result(PATIENCE) for future in futures] == list(range(9))
        assert pool.statistics().most_in_flight <= 3


def test_a_process_pool_refuses_levels_that_it_does_not_have() -> None:
    with ProcessPoolExecutor(1) as pool:
        assert pool.options(level="process").submit(abs, -1).result(PATIENCE) == 1
        for level in ("thread", "coroutine"):
            with pytest.raises(ValueError, match=f"level='{level}'.*use a Pool"):
                pool.options(level=level)  # type: ignore[arg-type]


@pytest.mark.parametrize("level", ["process", "thread", "coroutine"])
def test_a_pool_has_every_level(level: Any) -> None:
    with Pool(processes=1) as pool:
        assert list(pool.options(level=level).map(abs, range(-20, 0))) == list(range(20, 0, -1))


def test_workers_have_names_that_tell_their_pool() -> None:
    with Pool(processes=1) as pool:
        pid = pool.submit(os.getpid).result(PATIENCE)
        [link] = pool._dispatcher._links.values()
        assert repr(link.worker) == f"<ProcessWorker rimstone-pool-1 pid={pid} ready, 0 calls in flight>"
