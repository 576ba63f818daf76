"""`rimstone run`: the script sees what it would see under python, except that waiting is cooperative."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

InChild = Callable[..., Any]


@pytest.fixture
def script(tmp_path: Path) -> Path:
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "beside.py").write_text("x = 1\n")
    return folder / "script.py"


@pytest.fixture
def _patching() -> None:
    pytest.importorskip("rimstone.monkey", reason="rimstone.monkey is not there yet")


pytestmark = pytest.mark.usefixtures("_patching")


def test_everything_is_as_under_python(in_child: InChild, script: Path) -> None:
    script.write_text(
        "import sys, json, pickle, beside\n"
        "class Thing: pass\n"
        "assert type(pickle.loads(pickle.dumps(Thing()))) is Thing\n"
        "print(json.dumps([__name__, __file__, sys.argv, sys.path[0], __doc__, __spec__, __package__,\n"
        "    sorted(k for k in globals() if k.startswith('__')), sys.modules['__main__'].__dict__ is globals()]))\n"
    )
    arguments = ["scripts/script.py", "--help", "-m", "--", "a b", ""]
    plain = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=True, cwd=script.parent.parent, timeout=60
    )
    result = in_child("run", *arguments)
    assert (result.code, result.err) == (0, "")
    # __annotations__ is there from the start in python's own, and appears with the first annotation in ours.
    assert result.out.replace('"__annotations__", ', "") == plain.stdout.replace('"__annotations__", ', "")


def test_blocking_calls_are_cooperative(in_child: InChild, script: Path) -> None:
    script.write_text(
        "import time\n"
        "from rimstone import monkey\n"
        "import rimstone.hub, importlib\n"
        "assert time.sleep is not importlib.import_module('rimstone._originals').sleep\n"
        "time.sleep(0.01)\n"
    )
    result = in_child("run", str(script))
    assert (result.code, result.err) == (0, "")


@pytest.mark.parametrize(
    ("statement", "code", "err"),
    [
        ("sys.exit()", 0, ""),
        ("sys.exit(7)", 7, ""),
        ("sys.exit('last words')", 1, "last words\n"),
        ("pass", 0, ""),
    ],
)
def test_exit_codes(in_child: InChild, script: Path, statement: str, code: int, err: str) -> None:
    script.write_text(f"import sys\n{statement}\n")
    result = in_child("run", str(script))
    assert (result.code, result.err) == (code, err)


def test_the_traceback_is_pythons_own(in_child: InChild, script: Path) -> None:
    script.write_text(
        "import beside\n"
        "def f():\n"
        "    try:\n"
        "        {}['a']\n"
        "    except KeyError:\n"
        "        raise OSError(32, 'x')\n"
        "f()\n"
    )
    plain = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=60)
    result = in_child("run", str(script))
    assert (result.code, result.err) == (1, plain.stderr)


def test_a_syntax_error(in_child: InChild, script: Path) -> None:
    script.write_text("def f(:\n")
    plain = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=60)
    result = in_child("run", str(script))
    assert (result.code, result.err) == (1, plain.stderr)


def test_the_scripts_own_excepthook_is_called(in_child: InChild, script: Path) -> None:
    script.write_text("import sys\nsys.excepthook = lambda kind, *_: print('hook', kind.__name__)\n1 / 0\n")
    result = in_child("run", str(script))
    assert (result.code, result.out, result.err) == (1, "hook ZeroDivisionError\n", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], "Missing argument"),
        (["run", "missing.py"], "cannot run 'missing.py': No such file"),
        (["run", "."], "cannot run '.': Is a directory"),
        (["run", "-m", "missing_module"], "there is no module 'missing_module'"),
        (["run", "-m", "missing.module"], "there is no module 'missing.module'"),
        (["run", "-m", "email"], "email"),
    ],
)
def test_what_cannot_be_run(in_child: InChild, arguments: list[str], words: str) -> None:
    result = in_child(*arguments)
    assert result.code == 2
    assert words in result.err
    assert "Traceback" not in result.err


def test_a_module(in_child: InChild, tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "tool.py").write_text(
        "import sys\nfrom . import __name__ as parent\nprint(__name__, parent, sys.argv[1:])\n"
    )
    result = in_child("run", "-m", "package.tool", "--version", "-m")
    assert (result.code, result.err) == (0, "")
    assert result.out == "__main__ package ['--version', '-m']\n"


def test_ctrl_c(script: Path) -> None:
    script.write_text("import time\nprint('ready', flush=True)\ntime.sleep(600)\n")
    with subprocess.Popen(
        [sys.executable, "-m", "rimstone", "run", str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.readline()
        child.send_signal(signal.SIGINT)
        assert child.wait(20) == 130
        err = child.stderr.read().decode()
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert os.path.join("rimstone", "cli") not in err
