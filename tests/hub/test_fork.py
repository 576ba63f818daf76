"""os.fork in a task or thread: the child has no tasks but the one that forked."""

import pytest

from rimstone.testing.patched import run_script

HEAD = """
import os, sys, threading, gc, warnings
warnings.simplefilter("ignore")   # 3.12 and later warn of fork in a process with threads; that is what is tested here
from rimstone.hub import spawn, sleep, joinall, current_hub, live_tasks, waiter

def say(text):
    os.write(1, f"{text}\\n".encode())

def sibling():
    try:
        for _ in range(3):
            sleep(0.01)
    finally:
        say(f"sibling ended in {'parent' if os.getpid() == PARENT else 'CHILD'}")

def wait_for(pid):
    say(f"child left {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")

PARENT = os.getpid()
"""


def lines_of(script):
    done = run_script(HEAD + script)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1], done.stderr


def test_child_of_a_task_ends_with_the_task():
    out, _ = lines_of("""
def forking():
    pid = os.fork()
    if pid == 0:
        gc.collect()
        return "whatever"
    wait_for(pid)

joinall([spawn(sibling), spawn(forking), spawn(sibling)])
say("end of the program")
""")
    assert out.count("end of the program") == 1
    assert out.count("child left 0") == 1
    assert out.count("sibling ended in parent") == 2
    assert "sibling ended in CHILD" not in out


@pytest.mark.parametrize(
    ("ending", "code"),
    [("sys.exit(3)", 3), ("sys.exit()", 0), ("sys.exit('words')", 1), ("os._exit(4)", 4), ("1 / 0", 1)],
)
def test_exit_code_of_the_child(ending, code):
    out, err = lines_of(f"""
def forking():
    pid = os.fork()
    if pid == 0:
        {ending}
    wait_for(pid)

joinall([spawn(sibling), spawn(forking)])
""")
    assert f"child left {code}" in out
    assert ("ZeroDivisionError" in err) == (ending == "1 / 0")
    assert ("words" in err) == ("words" in ending)
    assert "sibling ended in CHILD" not in out


def test_child_has_a_hub_of_its_own_when_it_wants_one():
    out, _ = lines_of("""
def forking():
    pid = os.fork()
    if pid == 0:
        assert current_hub() is None and live_tasks() == []
        sleep(0.001)
        say(f"child computed {spawn(lambda: (sleep(0.001), 7)[1]).get()}")
        joinall([spawn(sleep, 0.001) for _ in range(3)])
        return
    wait_for(pid)

joinall([spawn(sibling), spawn(forking)])
""")
    assert "child computed 7" in out
    assert "child left 0" in out
    assert "sibling ended in CHILD" not in out


def test_fork_in_the_root():
    out, _ = lines_of("""
task = spawn(sibling)
sleep(0)
pid = os.fork()
if pid == 0:
    gc.collect()
    spawn(say, "task of the child").join()
    say("child's program ends")
    sys.exit(5)
wait_for(pid)
task.join()
""")
    assert "task of the child" in out
    assert "child's program ends" in out
    assert "child left 5" in out
    assert out.count("sibling ended in parent") == 1
    assert "sibling ended in CHILD" not in out


def test_fork_in_a_thread_without_a_hub():
    out, _ = lines_of("""
def forking():
    pid = os.fork()
    if pid == 0:
        gc.collect()
        say(f"child has {current_hub()} and {live_tasks()}")
        os._exit(6)
    wait_for(pid)

thread = threading.Thread(target=forking)
task = spawn(sibling)
sleep(0)
thread.start()
task.join()
thread.join()
""")
    assert "child has None and []" in out
    assert "child left 6" in out
    assert out.count("sibling ended in parent") == 1
    assert "sibling ended in CHILD" not in out


def test_fork_in_the_main_thread_while_another_has_tasks():
    out, _ = lines_of("""
started = waiter()
stop = []

def other():
    task = spawn(sibling)
    sleep(0)
    started.unpark()
    stop.append(waiter())
    stop[0].park()
    task.join()

thread = threading.Thread(target=other)
thread.start()
started.park()
pid = os.fork()
if pid == 0:
    gc.collect()
    say("child's program ends")
    sys.exit(0)
wait_for(pid)
while not stop:
    pass
stop[0].unpark()
thread.join()
""")
    assert "child left 0" in out
    assert out.count("sibling ended in parent") == 1
    assert "sibling ended in CHILD" not in out


def test_multiprocessing_fork_inside_a_task():
    out, _ = lines_of("""
import multiprocessing

def work(queue):
    queue.put(os.getpid())

def forking():
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=work, args=(queue,))
    process.start()
    assert queue.get() == process.pid
    process.join()
    say(f"process left {process.exitcode}")

joinall([spawn(sibling), spawn(forking)])
""")
    assert "process left 0" in out
    assert "sibling ended in CHILD" not in out
