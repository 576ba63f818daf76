"""A fork of a process that has a pool: the child cannot use it, the parent does not notice."""

import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.slow

PATIENCE = 60.0


def run(source: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(source)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.parametrize("pool", ["Pool(processes=1)", "ProcessPoolExecutor(1)"])
@pytest.mark.parametrize(
    "ending",
    [
        "sys.exit(5)",
        "os._exit(5)",
        "pool.shutdown(); sys.exit(5)",
        "del pool; sys.exit(5)",
        "raise KeyError",
    ],
)
def test_use_in_the_child_is_refused_and_its_end_does_not_hang(pool: str, ending: str) -> None:
    done = run(f"""
        import os, sys
        from rimstone import Pool, ProcessPoolExecutor
        from rimstone.errors import PoolClosed
        with {pool} as pool:
            future = pool.submit(abs, -1)
            future.add_done_callback(id)   # so that the callback thread is there as well
            assert future.result() == 1
            pids = pool.statistics().pids
            child = os.fork()
            if child == 0:
                for use in (lambda: pool.submit(abs, -1), lambda: list(pool.map(abs, [1, 2]))):
                    try:
                        use()
                    except PoolClosed as error:
                        assert "fork" in str(error), error
                        print("refused", flush=True)
                {ending}
            _, status = os.waitpid(child, 0)
            assert [pool.submit(abs, -x).result() for x in range(100)] == list(range(100))
            assert pool.statistics().pids == pids
        print("parent", os.waitstatus_to_exitcode(status))
    """)
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert words.count("refused") == 2
    assert words[-2:] == ["parent", "1" if "raise" in ending else "5"]


def test_multiprocessing_with_fork_beside_a_pool() -> None:
    done = run("""
        import multiprocessing
        from rimstone import Pool
        def target(queue):
            try:
                pool.submit(abs, -1)
            except RuntimeError as error:
                queue.put(str(error))
        if __name__ == "__main__":
            context = multiprocessing.get_context("fork")
            pool = Pool(processes=1)
            assert pool.submit(abs, -1).result() == 1
            queue = context.Queue()
            process = context.Process(target=target, args=(queue,))
            process.start()
            print(queue.get(timeout=30))
            process.join(30)
            assert process.exitcode == 0
            assert pool.submit(abs, -2).result() == 2
            # And a pool of its own in the child.
            def own(queue):
                with Pool(processes=1) as mine:
                    queue.put(mine.submit(abs, -5).result())
            process = context.Process(target=own, args=(queue,))
            process.start()
            print(queue.get(timeout=30))
            process.join(30)
            assert process.exitcode == 0
            pool.shutdown()
    """)
    assert done.returncode == 0, done.stderr
    assert "create a pool here" in done.stdout
    assert done.stdout.endswith("5\n")


def test_a_child_that_lives_on_does_not_keep_workers_or_their_deaths() -> None:
    """It holds copies of every wire: a dead worker must be seen all the same, and shutdown must not wait for it."""
    done = run("""
        import os, signal
        from rimstone import Pool
        from rimstone.errors import WorkerDied
        pool = Pool(processes=1)
        first = pool.submit(os.getpid).result()
        child = os.fork()
        if child == 0:
            signal.pause()
            os._exit(0)
        os.kill(first, signal.SIGKILL)
        assert pool.submit(abs, -1).exception(30) is None
        second = pool.submit(os.getpid).result()
        pool.shutdown()
        for pid in (first, second):
            assert not os.path.exists(f"/proc/{pid}"), pid
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        print("well")
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "well\n", "")
