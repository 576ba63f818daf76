"""Each classic program shows what its first line promises."""

import re
from collections.abc import Callable

import pytest

pytestmark = pytest.mark.slow

RunExample = Callable[..., str]


def seconds(text: str, label: str) -> float:
    """The time printed at the end of the line that starts with *label*."""
    found = re.search(rf"^{label}: .*?([\d.]+) s$", text, re.MULTILINE)
    assert found, text
    return float(found[1])


def test_process_pool_runs_calls_in_a_few_processes_and_callbacks_in_the_parent(run_example: RunExample) -> None:
    text = run_example("process_pool.py")
    (parent,) = re.findall(r"^the parent is process (\d+)$", text, re.MULTILINE)
    calls = re.findall(r"^callback in (\d+): call (\d+) ran in process (\d+)$", text, re.MULTILINE)
    assert sorted(int(number) for _, number, _ in calls) == list(range(20))
    assert {called_back_in for called_back_in, _, _ in calls} == {parent}
    workers = {worker for _, _, worker in calls}
    assert 4 <= len(workers) <= 5
    assert parent not in workers


def test_thread_pool_runs_calls_on_a_few_threads_of_the_same_process(run_example: RunExample) -> None:
    text = run_example("thread_pool.py")
    (parent,) = re.findall(r"^the parent is process (\d+)$", text, re.MULTILINE)
    calls = re.findall(r"^callback in (\d+): call (\d+) ran in process (\d+) thread (.+)$", text, re.MULTILINE)
    assert sorted(int(number) for _, number, _, _ in calls) == list(range(20))
    assert {process for called_back_in, _, worker, _ in calls for process in (called_back_in, worker)} == {parent}
    threads = {thread for _, _, _, thread in calls}
    assert 4 <= len(threads) <= 5
    assert "MainThread" not in threads


def test_asynchronous_submission_waits_for_all_calls_at_once(run_example: RunExample) -> None:
    text = run_example("submit_sync_async.py")
    assert text.count(str([n * n for n in range(10)])) == 2
    assert seconds(text, "synchronous") > 9.9 * 0.2
    assert 0.19 < seconds(text, "asynchronous") < 9 * 0.2


def test_yield_makes_computing_slower(run_example: RunExample) -> None:
    def shown() -> bool:
        text = run_example("serial_and_yield.py", 0.1)
        return seconds(text, "computing, switching by yield") > seconds(text, "computing, one after the other")

    assert any(shown() for _ in range(3))  # a busy machine may disturb one run


def test_yield_does_not_notice_a_sleep(run_example: RunExample) -> None:
    text = run_example("serial_and_yield.py", 0.1)
    assert text.count("tick\nslept, and nothing else ran\n") == 3
    assert seconds(text, "sleeping 3 times 0.1 s, switching by yield") > 0.29  # it is printed rounded


def test_play_and_eat_overlap_only_when_patched(run_example: RunExample) -> None:
    text = run_example("play_eat.py", 0.1)
    unpatched, patched, _ = re.split(r"^(?:not )?patched: .*\n", text, flags=re.MULTILINE)
    assert unpatched.split("\n")[:4] == ["play 1", "play 2", "eat 1", "eat 2"]
    assert patched.split("\n")[:4] == ["play 1", "eat 1", "eat 2", "play 2"]
    assert seconds(text, "not patched") > 0.79
    assert 0.49 < seconds(text, "patched") < 0.79


def test_coroutines_make_a_computing_pair_no_faster(run_example: RunExample) -> None:
    def shown() -> bool:
        text = run_example("compute_pair.py", 0.2)
        # On two CPUs the pair would take half the time.
        return seconds(text, "as coroutines") > 0.7 * seconds(text, "one after the other")

    assert any(shown() for _ in range(3))  # a busy machine may disturb one run
