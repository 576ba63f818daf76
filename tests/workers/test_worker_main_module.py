"""Where there is no importable `__main__`: scripts without a guard, `python -c`, the REPL, notebooks.

What is defined there travels by value, into one `__main__` that all calls of a worker share.
"""

import os
import pty
import select
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PATIENCE = 60.0

PROGRAM = """
from rimstone import Pool, ProcessPoolExecutor

FACTOR = 3

class Point:
    def __init__(self, x):
        self.x = x
    def __eq__(self, other):
        return type(other) is Point and other.x == self.x
    __hash__ = None

class Broken(Exception):
    pass

def times(x):
    return FACTOR * x

def calls_another(x):
    return times(x) + 1

def move(point):
    assert type(point) is Point
    return Point(point.x + 1)

def fail():
    raise Broken("as expected")

def closure_over(n):
    def inner(x):
        return x + n
    return inner

executors = [Pool(processes=1), ProcessPoolExecutor(1)]
for executor in executors:
    with executor as pool:
        assert pool.submit(times, 2).result() == 6
        assert pool.submit(calls_another, 2).result() == 7
        assert pool.submit(lambda x: x * FACTOR, 5).result() == 15
        assert pool.submit(closure_over(4), 1).result() == 5
        assert pool.submit(move, Point(1)).result() == Point(2)
        assert pool.submit(Point, 3).result() == Point(3)
        assert list(pool.map(lambda p: p.x, [Point(n) for n in range(5)])) == [0, 1, 2, 3, 4]
        try:
            pool.submit(fail).result()
        except Broken as error:
            assert "as expected" in str(error) and "in fail" in str(error.__cause__)
        else:
            raise AssertionError
print("all is well", len(executors))
"""


def run(*arguments: str, stdin: str | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        cwd=cwd,
    )


def test_a_script_without_a_main_guard(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("print('imported once')\n" + PROGRAM)
    done = run(str(script))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "imported once\nall is well 2\n"


def test_python_dash_c() -> None:
    done = run("-c", PROGRAM)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "all is well 2\n")


def test_a_script_from_stdin() -> None:
    done = run("-", stdin=PROGRAM)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "all is well 2\n")


def test_a_module_run_with_dash_m(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "other.py").write_text("def helper(x):\n    return x + 100\n")
    (package / "__main__.py").write_text(
        PROGRAM.replace("from rimstone", "from .other import helper\nfrom rimstone", 1).replace(
            "return FACTOR * x", "return FACTOR * x + helper(0) - 100"
        )
    )
    done = run("-m", "package", cwd=tmp_path)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "all is well 2\n")


# What a person types, line by line; each assert prints a traceback when it fails.
SESSION = """\
from rimstone import Pool
pool = Pool(processes=1)
factor = 2
def times(x):
    return factor * x

assert pool.submit(times, 10).result() == 20
def times(x):
    return 1000 * x

assert pool.submit(times, 10).result() == 10000
assert list(pool.map(lambda x: times(x) + factor, [1])) == [1002]
factor = 5
assert pool.submit(lambda: factor).result() == 5
def keep(value):
    global kept
    kept = value

def look():
    return kept

kept = None
pool.submit(keep, "in the worker").result()
assert pool.submit(look).result() == "in the worker"
assert kept is None
kept = "bound anew here"
assert pool.submit(look).result() == "bound anew here"
class Thing:
    size = 1

assert pool.submit(lambda: Thing().size).result() == 1
class Thing:
    size = 2

assert pool.submit(lambda: Thing().size).result() == 2
assert pool.submit(Thing).result().size == 2
pids = pool.statistics().pids
assert len(pids) == 1
pool.shutdown()
print("the session is through")
"""


def test_the_interactive_interpreter_reading_a_pipe() -> None:
    done = run("-i", "-q", stdin=SESSION)
    assert done.returncode == 0
    assert "Error" not in done.stderr
    assert done.stdout.endswith("the session is through\n")


TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that ^C typed there sends SIGINT
os.execv(sys.executable, [sys.executable, "-q"])
"""


def test_the_interactive_interpreter_at_a_terminal() -> None:
    """Ctrl-C included: it interrupts the call that is waited for, and the same pool goes on."""
    ours, theirs = pty.openpty()
    program = subprocess.Popen(
        [sys.executable, "-c", TAKE_TERMINAL],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env={**os.environ, "TERM": "dumb", "PYTHON_BASIC_REPL": "1"},
    )
    os.close(theirs)
    screen = ""

    def read_until(text: str) -> None:
        nonlocal screen
        deadline = time.monotonic() + PATIENCE
        while text not in screen:
            assert select.select([ours], [], [], max(0.0, deadline - time.monotonic()))[0], screen
            screen += os.read(ours, 65536).decode()
        screen = screen.partition(text)[2]

    def enter(line: str) -> None:
        os.write(ours, line.encode() + b"\n")

    try:
        read_until(">>> ")
        enter("import time; from rimstone import Pool; pool = Pool(processes=1); print('rea' + 'dy')")
        read_until("ready")
        enter("def wait(x): print('wai' + 'ting', flush=True); time.sleep(60)")
        enter("")
        enter("list(pool.map(wait, [1] * 10))")
        read_until("waiting")
        os.write(ours, b"\x03")
        read_until("KeyboardInterrupt")
        read_until(">>> ")
        enter("print('val' + 'ue', pool.submit(lambda: 6 * 7).result())")
        read_until("value 42")
        enter("pool.shutdown(cancel_futures=True, wait=False); import os; os._exit(7)")
        assert program.wait(PATIENCE) == 7
    finally:
        program.kill()
        program.wait()
        os.close(ours)


NOTEBOOK = """
import code, sys, types

# As a notebook kernel has it: the kernel's own module is `__main__` no longer.
main = types.ModuleType("__main__")
sys.modules["__main__"] = main
interpreter = code.InteractiveInterpreter(main.__dict__)
cell = []
def run_cell():
    interpreter.runsource(chr(10).join(cell) + chr(10), "<cell>", "exec")
    cell.clear()
for line in sys.stdin.read().split(chr(10)):
    if line.startswith("#%%"):
        run_cell()
    else:
        cell.append(line)
run_cell()
"""


def test_a_notebook_whose_namespace_is_main() -> None:
    cells = "#%%\n".join(part + "\n" for part in SESSION.split("\n\n"))
    done = run("-c", NOTEBOOK, stdin=cells)
    assert done.stderr == ""
    assert done.stdout == "the session is through\n"


def test_ipython() -> None:
    pytest.importorskip("IPython")
    source = """
        from IPython.core.interactiveshell import InteractiveShell
        import sys
        shell = InteractiveShell.instance()
        for cell in sys.stdin.read().split("#%%"):
            shell.run_cell(cell).raise_error()
    """
    done = run("-c", textwrap.dedent(source), stdin="#%%\n".join(part + "\n" for part in SESSION.split("\n\n")))
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("the session is through\n")


def test_globals_set_by_the_initializer_are_seen_by_calls() -> None:
    done = run(
        "-c",
        textwrap.dedent("""
            import threading
            from rimstone import Pool, ProcessPoolExecutor
            connection = None
            def connect(name):
                global connection
                connection = (name, threading.Lock())   # a lock cannot travel
            def use():
                with connection[1]:
                    return connection[0]
            for pool in (Pool(processes=2, initializer=connect, initargs=("db",)),
                         ProcessPoolExecutor(2, initializer=connect, initargs=("db",))):
                with pool:
                    assert [pool.submit(use).result() for _ in range(20)] == ["db"] * 20
            assert connection is None
            print("seen")
        """),
    )
    assert (done.stderr, done.stdout) == ("", "seen\n")


def test_a_global_that_cannot_travel_is_named_and_initializer_recommended() -> None:
    done = run(
        "-c",
        textwrap.dedent("""
            import threading
            from rimstone import Pool
            from rimstone.errors import CannotTravel
            guard = threading.Lock()
            def use():
                with guard:
                    return 1
            with Pool(processes=1) as pool:
                try:
                    pool.submit(use).result()
                except CannotTravel as error:
                    print(error)
                assert pool.submit(abs, -1).result() == 1
        """),
    )
    assert done.stderr == ""
    assert "use()" in done.stdout
    assert "'guard'" in done.stdout
    assert "initializer=" in done.stdout


def test_main_is_never_imported_in_a_worker(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import os, sys
            with open("ran", "a") as file:
                file.write("x")
            from rimstone import Pool
            with Pool(processes=2) as pool:
                print(pool.submit(lambda: (sys.modules["__main__"].__file__, __name__, sys.argv)).result())
        """)
    )
    done = run(str(script), "an", "argument", cwd=tmp_path)
    assert done.stderr == ""
    assert done.stdout == f"({str(script)!r}, '__main__', [{str(script)!r}, 'an', 'argument'])\n"
    assert (tmp_path / "ran").read_text() == "x"
