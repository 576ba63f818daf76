"""A module whose body waits is seen whole by every task and thread that imports it meanwhile."""

import sys

import pytest

from rimstone.testing.patched import in_patched_process, run_script


def modules(**sources):
    """Write them where they are found; a body may use `pause`, which lets every other task run twice."""
    import os
    import sys
    import tempfile

    from rimstone import sleep

    folder = tempfile.mkdtemp()
    for name, source in sources.items():
        with open(os.path.join(folder, f"{name}.py"), "w") as file:
            file.write(source)
    sys.path.insert(0, folder)

    def pause():
        sleep(0)
        sleep(0)

    sys.pause = pause


@in_patched_process(modules)
def test_all_importers_see_a_whole_module():
    import threading

    from rimstone import spawn

    modules(slow="import sys, time\nsys.pause()\ntime.sleep(0.01)\nVALUE = 1\n")

    def by_statement():
        from slow import VALUE

        return VALUE

    def by_name():
        import slow

        return slow.VALUE

    found = []
    tasks = [spawn(by_statement), spawn(by_name), spawn(by_statement)]
    threads = [threading.Thread(target=lambda: found.append(by_name())) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert by_name() == 1
    assert [task.get() for task in tasks] == [1, 1, 1]
    for thread in threads:
        thread.join()
    assert found == [1, 1]


@in_patched_process(modules)
def test_importer_that_is_killed_leaves_the_others_waiting():
    from rimstone import sleep, spawn

    modules(slow="import sys\nsys.pause()\nsys.pause()\nVALUE = 1\n")

    def load():
        import slow

        return slow.VALUE

    first, second, third = spawn(load), spawn(load), spawn(load)
    sleep(0)
    second.kill()
    assert (first.get(), third.get()) == (1, 1)
    assert load() == 1


@in_patched_process(modules)
def test_modules_that_import_each_other_in_two_tasks_come_through():
    from rimstone import spawn

    modules(
        one="import sys\nsys.pause()\nimport other\nVALUE = 1\n",
        other="import sys\nsys.pause()\nimport one\nVALUE = 2\n",
    )

    def load(name):
        return __import__(name)

    tasks = [spawn(load, "one"), spawn(load, "other")]
    modules_ = [task.get() for task in tasks]
    assert [module.VALUE for module in modules_] == [1, 2]


@in_patched_process(modules)
def test_fork_in_the_body_of_a_module():
    import os

    from rimstone import spawn

    modules(forks="import os, sys\nsys.pause()\nPID = os.fork()\nsys.pause()\nVALUE = 1\n", more="VALUE = 2\n")

    def load():
        import forks
        import more

        if not forks.PID:
            os._exit(forks.VALUE + more.VALUE)
        return forks.PID

    pid = spawn(load).get()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3


@in_patched_process(modules)
def test_body_that_waits_for_a_task_which_imports_it_is_a_deadlock():
    from rimstone import sleep, spawn
    from rimstone.errors import Deadlock

    def load():
        import waits

        return waits.VALUE

    modules(waits="import sys\nsys.task.get()\nVALUE = 1\n")
    import sys

    def begin():
        sleep(0)
        return load()

    sys.task = spawn(begin)
    try:
        load()
    except Deadlock:
        pass
    else:
        raise AssertionError("it has not been noticed")
    sys.task.kill()


@in_patched_process(modules)
def test_signal_handler_that_cannot_wait_is_told_so():
    import os
    import signal
    import threading

    from rimstone import spawn
    from rimstone.errors import CannotWait

    modules(slow="import sys\nsys.event.wait()\nVALUE = 1\n")
    import sys

    sys.event = threading.Event()
    told = []

    def handler(*_):
        try:
            import slow

            told.append(slow)
        except CannotWait:
            told.append("told")
        sys.event.set()

    signal.signal(signal.SIGUSR1, handler)

    def load():
        import slow

        return slow.VALUE

    task = spawn(load)
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
    assert task.get() == 1
    assert told == ["told"]


@pytest.mark.parametrize("kind", ["task", "main program"])
def test_module_that_patches_while_it_is_imported(tmp_path, kind):
    (tmp_path / "patches.py").write_text(
        "import rimstone.monkey\nrimstone.monkey.patch_all()\nfrom rimstone import sleep\nfor _ in range(3): sleep(0)\n"
        "VALUE = 1\n"
    )
    load = "def load():\n    import patches\n    return patches.VALUE\n"
    run = {
        "task": "assert [task.get() for task in [spawn(load), spawn(load)]] == [1, 1]\n",
        "main program": "task = spawn(load)\nassert (load(), task.get()) == (1, 1)\n",
    }[kind]
    done = run_script(f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nfrom rimstone import spawn\n{load}{run}")
    assert (done.returncode, done.stderr) == (0, "")


def test_hub_that_waits_imports_nothing():
    """It could not wait for another thread that imports the same."""
    done = run_script("""
import rimstone.monkey
rimstone.monkey.patch_all()
import sys, threading
from rimstone import spawn
from rimstone._originals import sleep
event = threading.Event()
thread = threading.Thread(target=lambda: (sleep(0.1), event.set()))
thread.start()
spawn(int).join()
before = set(sys.modules)
spawn(event.wait).join()
thread.join()
assert set(sys.modules) == before, set(sys.modules) - before
""")
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="it is a native lock there, which no wait can end")
@in_patched_process(modules)
def test_lock_of_a_module_is_entered_whatever_is_thrown_and_waited_for_by_who_can_be_killed():
    import importlib
    import threading
    from importlib import _bootstrap

    from rimstone import sleep, spawn

    modules(slow="import sys\nsys.pause()\nsys.release()\n")
    import _thread
    import sys

    def hold_lock_for_a_while():
        lock = _bootstrap._module_locks["slow"]().lock
        got = _thread.allocate_lock()
        got.acquire()
        go_on = _thread.allocate_lock()
        go_on.acquire()

        def hold():
            with lock:
                got.release()
                go_on.acquire()

        threading.Thread(target=hold).start()
        got.acquire()
        held.append(go_on)

    held = []
    sys.release = hold_lock_for_a_while
    importer = spawn(importlib.import_module, "slow")
    other = spawn(importlib.import_module, "slow")
    while not held:
        sleep(0)
    sleep(0)
    importer.kill(block=False)
    sleep(0)
    held[0].release()
    assert other.get().__name__ == "slow"
    importer.join()
