"""A worker is like its parent: path, directory, environment, options. What it prints reaches stderr."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import rimstone

pytestmark = pytest.mark.slow

PATIENCE = 60.0
BOTH = pytest.mark.parametrize("pool", ["Pool(processes=1)", "ProcessPoolExecutor(1)"])


def run(
    source: str, *arguments: str, options: tuple[str, ...] = (), file: Path | None = None, **more: Any
) -> subprocess.CompletedProcess[str]:
    source = "from rimstone import Pool, ProcessPoolExecutor\n" + textwrap.dedent(source)
    if file is not None:
        file.write_text(source)
    command = [str(file)] if file is not None else ["-c", source]
    return subprocess.run(
        [sys.executable, *options, *command, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        **more,
    )


LOOK = """
    import json, os, sys, warnings
    def look():
        return dict(
            path=sys.path, argv=sys.argv, cwd=os.getcwd(), colour=os.environ.get("COLOUR"), x=sys._xoptions,
            w=sys.warnoptions, filters=[[str(part) for part in entry] for entry in warnings.filters],
            flags=[getattr(sys.flags, name) for name in
                ("dev_mode", "optimize", "utf8_mode", "safe_path", "isolated", "bytes_warning", "dont_write_bytecode")],
            executable=sys.executable, umask=os.umask(os.umask(0)))
    os.environ["COLOUR"] = "red"
    sys.path.append("/somewhere/else")
    with {pool} as pool:
        there = pool.submit(look).result()
    print(json.dumps([look(), there]))
"""


@BOTH
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("-X", "dev"),
        ("-X", "utf8=0", "-X", "anything=5", "-X", "alone", "-X", "int_max_str_digits=4321"),
        ("-W", "error", "-W", "ignore:hello:DeprecationWarning"),
        ("-O", "-B", "-P"),
        ("-I", "-X", "faulthandler", "-b"),
    ],
    ids=" ".join,
)
def test_path_directory_environment_and_options_are_those_of_the_parent(
    pool: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    folder = str(Path(rimstone.__file__).parents[1])
    source = LOOK.replace("{pool}", pool)
    done = run(source, "an", "argument", options=options, cwd=tmp_path, env={**os.environ, "PYTHONPATH": folder})
    assert (done.returncode, done.stderr) == (0, "")
    here, there = json.loads(done.stdout)
    # -X options of a sort that multiprocessing passes on come in another order.
    assert sorted(there.pop("x").items()) == sorted(here.pop("x").items())
    assert there == here
    assert there["colour"] == "red"
    assert there["argv"] == ["-c", "an", "argument"]


@BOTH
def test_files_named_like_standard_modules_do_no_harm_unless_sys_path_says_so(pool: str, tmp_path: Path) -> None:
    for name in (
        "select",
        "socket",
        "random",
        "signal",
        "types",
        "greenlet",
        "rimstone",
        "cloudpickle",
        "sitecustomize",
    ):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('the wrong {name}')")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    source = f"""
        import os, sys
        def use():
            import random, socket, select
            return os.getcwd(), random.__file__
        with {pool} as pool:
            print(*pool.submit(use).result())
    """
    done = run(source, file=elsewhere / "script.py", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    directory, module = done.stdout.split()
    assert directory == str(tmp_path)
    assert not module.startswith(str(tmp_path))


def test_a_module_of_the_working_directory_is_found_when_sys_path_says_so(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def double(x):\n    return 2 * x\n")
    done = run("import mine\nwith Pool(processes=1) as pool: print(pool.submit(mine.double, 4).result())", cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("8\n", "")


PRINTING = """
    import os, subprocess, sys
    def talk():
        print("print")
        sys.stdout.write("write" + chr(10))
        sys.__stdout__.write("underscores" + chr(10))
        os.write(1, b"descriptor" + bytes([10]))
        os.system("echo shell")
        subprocess.run(["echo", "child"])
        print("stderr", file=sys.stderr)
        return sys.stdin.read(), os.read(0, 10)
    def start():
        print("initializer")
    pool = {pool}
    with pool:
        print(pool.submit(talk).result())
"""


@BOTH
def test_what_calls_print_reaches_stderr_and_stdin_is_empty(pool: str) -> None:
    pool = pool[:-1] + ", initializer=start)"
    done = run(PRINTING.replace("{pool}", pool), input="not for the workers\n")
    assert done.stdout == "('', b'')\n"
    expected = ["initializer", "print", "write", "underscores", "descriptor", "shell", "child", "stderr"]
    assert sorted(done.stderr.split()) == sorted(expected)


def test_what_a_call_prints_appears_at_once(tmp_path: Path) -> None:
    source = """
        import sys
        from rimstone.testing.calls import hold
        def talk(path):
            print("before")
            hold(path)
        with Pool(processes=1) as pool:
            pool.submit(talk, sys.argv[1]).result()
    """
    from rimstone.testing.calls import Gate  # noqa: PLC0415

    with Gate(tmp_path / "gate") as gate:
        program = subprocess.Popen(
            [sys.executable, "-c", "from rimstone import Pool\n" + textwrap.dedent(source), gate.path],
            stderr=subprocess.PIPE,
            text=True,
        )
        gate.wait_for(1)
        assert program.stderr is not None
        assert program.stderr.readline() == "before\n"
        gate.open()
        assert program.wait(PATIENCE) == 0
        program.stderr.close()


@pytest.mark.parametrize("closed", ["0", "1", "2", "0, 1, 2"])
def test_a_daemon_that_has_closed_its_standard_streams(closed: str, tmp_path: Path) -> None:
    source = f"""
        import os, sys
        for fd in ({closed},):
            os.close(fd)
        def use():
            print("nobody hears it")
            os.write(1, b"nor this")
            os.system("echo nor that")
            return os.fstat(0).st_rdev == os.stat("/dev/null").st_rdev
        with Pool(processes=1) as pool:
            values = list(pool.map(lambda _: use(), range(10)))
            big = pool.submit(len, b"x" * 300000).result()
        with open(sys.argv[1], "w") as file:
            print(values == [True] * 10, big, file=file)
        os._exit(0)
    """
    path = tmp_path / "out"
    run(source, str(path))
    assert path.read_text() == "True 300000\n"


def test_a_module_is_complete_before_any_task_runs(tmp_path: Path) -> None:
    """Two calls at once of a module that takes its time, and waits, while it is imported."""
    (tmp_path / "slow_module.py").write_text(
        textwrap.dedent("""
            import os, time
            if os.environ.get("WHERE") != "parent":
                time.sleep(0.3)
            def look(x):
                return x, LAST
            if os.environ.get("WHERE") != "parent":
                time.sleep(0.3)
            LAST = "complete"
        """)
    )
    source = """
        import os, time
        os.environ["WHERE"] = "parent"
        import slow_module
        del os.environ["WHERE"]
        with Pool(processes=1) as pool:
            ticking = pool.submit(time.sleep, 0.01)
            futures = [pool.submit(slow_module.look, x) for x in range(2)]
            futures += [pool.submit(lambda x: slow_module.look(x), x) for x in range(2, 4)]
            print([future.result() for future in futures], ticking.result())
    """
    done = run(source, cwd=tmp_path)
    assert done.stderr == ""
    assert done.stdout == "[(0, 'complete'), (1, 'complete'), (2, 'complete'), (3, 'complete')] None\n"


def test_the_caller_stays_unpatched_and_the_worker_of_a_pool_is_patched_first(tmp_path: Path) -> None:
    (tmp_path / "early.py").write_text(
        "import rimstone.monkey\nPATCHED = rimstone.monkey.is_patched()\ndef was_patched():\n    return PATCHED\n"
    )
    source = """
        import select, selectors, socket, ssl, subprocess, threading, time, queue
        def everything():
            found = {}
            for module in (select, selectors, socket, ssl, subprocess, threading, time, queue):
                for name, value in vars(module).items():
                    found[module.__name__, name] = value
                    if isinstance(value, type):
                        found.update({(module.__name__, name, key): part for key, part in vars(value).items()})
            return found
        from rimstone import monkey
        import early
        before = everything()
        def patched():
            return monkey.is_patched()
        with Pool(processes=1) as pool, ProcessPoolExecutor(1) as processes:
            print(pool.submit(patched).result(), processes.submit(patched).result())
            print(pool.submit(early.was_patched).result(), processes.submit(early.was_patched).result())
            list(pool.map(time.sleep, [0.001] * 100)), list(pool.outcomes(abs, range(100)))
            now = everything()
            print(patched(), [key for key in now if now[key] is not before.get(key) and "__dict__" not in str(key)
                              and not str(key[-1]).startswith("_")])
    """
    done = run(source, cwd=tmp_path)
    assert done.stderr == ""
    assert done.stdout == "True False\nTrue False\nFalse []\n"


def test_ctrl_c_reaches_programs_that_a_call_starts_but_not_the_call() -> None:
    """The workers must not ignore SIGINT in a way that their children inherit."""
    source = """
        import os, signal, subprocess, sys
        def start():
            child = subprocess.Popen([sys.executable, "-c", "import signal; print(signal.getsignal(2))"],
                                     stdout=subprocess.PIPE, text=True)
            os.kill(os.getpid(), signal.SIGINT)
            return child.communicate()[0]
        with Pool(processes=1) as pool:
            print(pool.submit(start).result())
    """
    done = run(source)
    assert done.stderr == ""
    assert "default_int_handler" in done.stdout
