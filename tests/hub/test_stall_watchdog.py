"""The watchdog: a task that keeps its hub busy is reported, once, with its stack; while all hubs wait, it sleeps."""

import gc
import os
import threading
import weakref

import pytest

from rimstone import clock
from rimstone._core import core
from rimstone.hub import close_hub, current_hub, get_hub, sleep, spawn, waiter, watchdog
from rimstone.testing.patched import run_script

THRESHOLD_SECONDS = 0.02
LIMIT_SECONDS = 20.0


@pytest.fixture
def stalls():
    """What is reported, as it comes."""
    reports = []
    watchdog.watch_stalls(THRESHOLD_SECONDS, reports.append)
    yield reports
    watchdog.stop_watching()


@pytest.fixture
def unset(monkeypatch):
    """As in a process that has not made a hub yet."""
    monkeypatch.setattr(watchdog, "_watch", watchdog._Watch())
    yield
    watchdog.stop_watching()


def hog(condition):
    """Keep the hub busy until *condition* holds."""
    deadline = clock.monotonic() + LIMIT_SECONDS
    while not condition():
        assert clock.monotonic() < deadline


def wait_until(condition):
    """Let other tasks run until *condition* holds."""
    deadline = clock.monotonic() + LIMIT_SECONDS
    while not condition():
        assert clock.monotonic() < deadline
        sleep(0.001)


def in_thread(function, *args, name="other"):
    """Start a thread; what it raises is raised by the function that is returned, which joins it."""
    failed = []

    def run():
        try:
            function(*args)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name=name)
    thread.start()

    def join():
        thread.join()
        if failed:
            raise failed[0]

    return join


def begun(stalls, thread="MainThread"):
    return [stall for stall in stalls if not stall.ended and stall.thread == thread]


def ended(stalls, thread="MainThread"):
    return [stall for stall in stalls if stall.ended and stall.thread == thread]


def test_stall_is_reported_with_its_stack_and_again_when_it_ends(stalls):
    def compute():
        hog(lambda: begun(stalls))

    task = spawn(compute)
    sibling = spawn(sleep, 0.001)
    task.name = "computing"
    task.get()
    wait_until(lambda: ended(stalls))
    first, second = begun(stalls)[0], ended(stalls)[0]
    assert first.task == second.task == "computing"
    assert first.waiting == 1
    assert second.seconds > first.seconds >= THRESHOLD_SECONDS
    assert first.stack.split("\n")[0].endswith(", in compute")
    assert "in hog" in first.stack
    for text in (str(first), str(second)):
        assert "task computing in thread MainThread" in text
        assert f"process {os.getpid()}" in text
    assert first.stack.rstrip() in str(first)
    assert "Traceback" not in str(first)
    sibling.join()


def test_stall_is_reported_once_however_long_it_lasts(stalls):
    """A second hub stalls after the first was reported: by the time that is seen, all have been looked at again."""

    def other():
        spawn(hog, lambda: begun(stalls, "other")).get()

    def compute():
        hog(lambda: begun(stalls))
        join = in_thread(other)
        hog(lambda: begun(stalls, "other"))
        join()

    spawn(compute).get()
    assert len(begun(stalls)) == 1
    assert len(begun(stalls, "other")) == 1


def test_each_stall_is_reported(stalls):
    for count in range(1, 4):
        spawn(hog, lambda count=count: len(begun(stalls)) == count).get()
        wait_until(lambda count=count: len(ended(stalls)) == count)


def test_tasks_that_wait_and_threads_with_nobody_to_keep_waiting_are_not_reported(stalls):
    """All of them stand still for longer than the one that is."""
    ready = []
    done = []

    def waits():
        sleeper = spawn(sleep, LIMIT_SECONDS)
        done.append(waiter())
        ready.append(1)
        done[0].park()
        sleeper.kill()

    def computes_alone():
        get_hub()
        ready.append(1)
        hog(lambda: begun(stalls))

    joins = [in_thread(waits, name="waits"), in_thread(computes_alone, name="computes alone")]
    hog(lambda: len(ready) == 2)
    spawn(hog, lambda: begun(stalls)).get()
    done[0].unpark()
    for join in joins:
        join()
    assert {stall.thread for stall in stalls} == {"MainThread"}


def test_main_program_that_keeps_a_task_waiting_is_reported(stalls):
    task = spawn(sleep, 0)
    hog(lambda: begun(stalls))
    task.join()
    assert begun(stalls)[0].task == "root"


def test_blocking_in_c_is_a_stall(stalls):
    lock = threading.Lock()
    lock.acquire()

    def release_when_reported():
        hog(lambda: begun(stalls))
        lock.release()

    join = in_thread(release_when_reported)
    spawn(lock.acquire).get()
    join()
    assert "in acquire" not in begun(stalls)[0].stack  # it has no frame of its own


def switches_of(thread_name):
    native_id = next(thread.native_id for thread in threading.enumerate() if thread.name == thread_name)
    with open(f"/proc/self/task/{native_id}/status", encoding="ascii") as status:
        return next(line for line in status if line.startswith("voluntary_ctxt_switches"))


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="the kernel's word is in /proc")
def test_sleeps_while_all_hubs_wait_and_wakes_when_one_goes_on(hub, stalls):
    mine = waiter()
    seen = []

    def watch_the_watchdog():
        hog(lambda: hub.after_poll is not None)
        before = switches_of("rimstone-watchdog")
        pause = threading.Event()
        pause.wait(5 * THRESHOLD_SECONDS)  # twenty looks, if it were awake
        seen.append((before, switches_of("rimstone-watchdog")))
        mine.unpark()

    join = in_thread(watch_the_watchdog)
    task = spawn(sleep, LIMIT_SECONDS)
    assert mine.park(clock.monotonic() + LIMIT_SECONDS)
    join()
    # The first look may still have been on its way to sleep when its count was read.
    before, after = (int(line.split()[1]) for line in seen[0])
    assert after - before <= 2
    hog(lambda: begun(stalls))
    task.kill()


def test_wakes_for_a_new_hub(hub, stalls):
    mine = waiter()

    def new_hub():
        hog(lambda: hub.after_poll is not None)
        spawn(sleep, 0)
        hog(lambda: begun(stalls, "new hub"))
        mine.unpark()

    join = in_thread(new_hub, name="new hub")
    assert mine.park(clock.monotonic() + LIMIT_SECONDS)
    join()


def test_hub_and_thread_may_end_in_a_stall(stalls):
    hubs = []

    def short_life():
        hubs.append(weakref.ref(get_hub()))
        spawn(sleep, LIMIT_SECONDS)
        hog(lambda: begun(stalls, "short life"))

    in_thread(short_life, name="short life")()
    wait_until(lambda: ended(stalls, "short life"))
    if core() == "compiled":  # the pure core's greenlets keep it, watched or not
        wait_until(lambda: gc.collect() >= 0 and hubs[0]() is None)


def test_report_that_fails_is_told_and_the_watch_goes_on(capsys):
    reports = []

    def failing(stall):
        reports.append(stall)
        raise LookupError("where am I")

    watchdog.watch_stalls(THRESHOLD_SECONDS, failing)
    try:
        spawn(hog, lambda: reports).get()
        wait_until(lambda: len(reports) == 2)
        spawn(hog, lambda: len(reports) == 3).get()
    finally:
        watchdog.stop_watching()
    assert "LookupError: where am I" in capsys.readouterr().err


def test_report_may_stop_the_watch():
    reports = []

    def last(stall):
        reports.append(stall)
        watchdog.stop_watching()

    watchdog.watch_stalls(THRESHOLD_SECONDS, last)
    spawn(hog, lambda: reports).get()
    wait_until(lambda: "rimstone-watchdog" not in {thread.name for thread in threading.enumerate()})
    assert len(reports) == 1


def test_the_last_wish_counts(stalls):
    later = []
    watchdog.watch_stalls(THRESHOLD_SECONDS, later.append)
    assert [thread.name for thread in threading.enumerate()].count("rimstone-watchdog") == 1
    spawn(hog, lambda: later).get()
    assert stalls == []


@pytest.mark.parametrize("value", ["fast", "-5", "nan", "inf", "0.5", "86400001", "100 ms"])
def test_value_that_is_no_time(value, monkeypatch, unset):
    close_hub()
    monkeypatch.setenv("RIMSTONE_STALL_MS", value)
    with pytest.raises(ValueError, match=rf"RIMSTONE_STALL_MS='{value}' is not .* from 1 to 86400000; .*=100"):
        get_hub()
    assert current_hub() is None


@pytest.mark.parametrize("value", [None, "", "0"])
def test_off(value, monkeypatch, unset):
    close_hub()
    monkeypatch.setenv("RIMSTONE_STALL_MS", value) if value is not None else monkeypatch.delenv(
        "RIMSTONE_STALL_MS", raising=False
    )
    sleep(get_hub().polls)
    assert "rimstone-watchdog" not in {thread.name for thread in threading.enumerate()}


def test_environment_turns_it_on(monkeypatch, unset, capsys):
    close_hub()
    monkeypatch.setenv("RIMSTONE_STALL_MS", "20")
    spawned = spawn(hog, lambda: printed(capsys, "has not come back to its hub for 0."))
    spawned.name = "computing"
    spawned.get()


def printed(capsys, text, seen=[]):  # noqa: B006 - what capsys gives is gone from it
    seen.append(capsys.readouterr().err)
    return text in "".join(seen)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 0.0001])
def test_threshold_that_makes_no_sense(seconds):
    with pytest.raises(ValueError, match="threshold_seconds="):
        watchdog.watch_stalls(seconds)


HEAD = """
import os, sys, threading, time, warnings
warnings.simplefilter("ignore")  # fork in a process with threads; that is what is tested here
os.environ["RIMSTONE_STALL_MS"] = "20"
from rimstone.hub import get_hub, joinall, sleep, spawn

def compute(seconds=0.1):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass

def threads():
    return [thread.name for thread in threading.enumerate()]
"""


def run(script):
    done = run_script(HEAD + script)
    assert done.returncode == 0, done.stderr
    return done


def test_forked_child_has_a_watchdog_of_its_own_when_it_has_a_hub():
    done = run("""
assert threads() == ["MainThread"]
spawn(sleep, 0.001).join()
assert threads() == ["MainThread", "rimstone-watchdog"]
pid = os.fork()
if pid == 0:
    assert threads() == ["MainThread"] and len(os.listdir("/proc/self/task")) == 1
    spawn(compute).join()
    assert threads() == ["MainThread", "rimstone-watchdog"]
    sys.exit(0)
print(pid)
assert os.waitpid(pid, 0)[1] == 0
""")
    assert f"in thread MainThread of process {done.stdout.strip()} has not come back" in done.stderr


def test_exit_in_the_middle_of_a_stall():
    """The watchdog is about to report the end of it; and what runs at exit may still make hubs."""
    done = run("""
import atexit
from rimstone.hub import close_hub

def at_exit():
    close_hub()
    spawn(compute).join()
    print(threads())

atexit.register(at_exit)
spawn(sleep, 0)
compute()
""")
    assert done.stdout == "['MainThread']\n"
    assert done.stderr.startswith("rimstone: task root in thread MainThread")
    assert "Traceback" not in done.stderr


def test_patched_process():
    done = run("""
import rimstone.monkey
rimstone.monkey.patch_all()
spawn(compute).join()
sleep(0.1)
""")
    assert "in compute" in done.stderr
    assert "let its hub go on" in done.stderr


def test_first_hub_of_a_forked_child_is_made_where_waiting_is_refused():
    """Starting a thread waits for it, in a patched process for a task's turn: at the next hub it is tried again."""
    done = run("""
import gc
import rimstone.monkey
rimstone.monkey.patch_all()
from rimstone.hub import close_hub

class Garbage:
    def __init__(self):
        self.me = self

    def __del__(self):
        spawn(int)

get_hub()
pid = os.fork()
if pid == 0:
    Garbage()
    gc.collect()
    close_hub()
    get_hub()
    spawn(compute).join()
    sleep(0.1)
    print(threads().count("rimstone-watchdog"))
    sys.stdout.flush()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
""")
    assert done.stdout == "1\n"
    assert done.stderr.count("in compute") == 1


@pytest.mark.slow
def test_calls_that_compute_in_worker_processes_are_reported():
    done = run("""
from rimstone import Pool
with Pool(processes=1) as pool:
    print(pool.submit(compute).result())
""")
    assert "has not come back to its hub" in done.stderr
    assert "in compute" in done.stderr
