"""`./dev` makes its environment once, notices when that is no good any more, and says in one line what is wrong.

The script is tried on a small checkout, in which `venv`, `pip`, `pytest`, `ruff` and `mypy` are modules of a few lines
that tell how they were called: `python -m` finds those first. One test uses the real `venv` and `pip`, and a build
backend of its own, so nothing is ever downloaded. The compiled core is a file that the checkout's `setup.py` writes.
"""

import ast
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
DEV = ROOT / "dev"

PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "toy"
version = "1"
"""

# Builds the smallest editable package there is.
BACKEND = """
import os, zipfile

def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    name, info = "toy-1-py3-none-any.whl", "toy-1.dist-info/"
    with zipfile.ZipFile(os.path.join(wheel_directory, name), "w") as wheel:
        wheel.writestr("toy.py", "")
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: toy\\nVersion: 1\\nProvides-Extra: dev\\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "RECORD", "toy.py,,\\n")
    return name
"""

# An environment without pip, in no time.
VENV = """
import os, sys

os.makedirs(os.path.join(sys.argv[1], "bin"))
os.symlink(sys.executable, os.path.join(sys.argv[1], "bin", "python"))
with open(os.path.join(sys.argv[1], "pyvenv.cfg"), "w") as file:
    file.write("home = " + os.path.dirname(sys.executable) + chr(10))
"""

PIP = """
import os, sys

if os.path.exists("broken"):
    sys.exit("no index today")
with open("installs.log", "a") as log:
    print(*sys.argv[1:], file=log)
if os.path.exists("setup.py"):
    sys.argv[1:] = ["by pip"]
    exec(open("setup.py").read())
"""

# "Compiles" the core, unless there is no compiler.
SETUP = """
import os, sys

CORE = ["src/toy/core.py", "src/toy/twin.pyx"]
with open("builds.log", "a") as log:
    print(*sys.argv[1:], file=log)
if os.path.exists("broken setup"):
    sys.exit("this is no setup")
if os.path.exists("src/toy/bad") and os.environ.get("RIMSTONE_REQUIRE_CORE"):
    sys.exit("the source is no good")
if os.environ.get("CC") != "/bin/false" and not os.path.exists("src/toy/bad"):
    open("src/toy/core{}", "w").close()
""".format(sysconfig.get_config_var("EXT_SUFFIX"))
BUILT_BY_PIP, BUILT_AGAIN = "by pip", "--quiet build_ext --inplace"

TELL_CORE = "import json, os, sys; print(json.dumps([os.environ.get('RIMSTONE_PURE'), sys.argv[1:]]))\n"
TELL_MODEL = """
import json, os, sys
print(json.dumps([os.environ.get("RIMSTONE_IO_MODEL"), os.environ.get("RIMSTONE_PURE"), sys.argv[1:]]))
sys.exit(os.environ.get("RIMSTONE_IO_MODEL") in os.environ.get("FAILING", "").split())
"""
IO_MODELS = """
from types import SimpleNamespace

def choose():
    return SimpleNamespace(name="best")

def available():
    return {"best": None, "broken": "it is broken", "good": None, "plain": None}
"""
CORE_TESTS = ["tests/hub", "tests/sync", "tests/iomodel", "tests/monkey", "tests/aio"]

TELL = "import json, os, sys; print(json.dumps([sys.argv[1:], sys.prefix, os.getcwd()]))\n"

WAIT_FOR_CTRL_C = """
import sys, time
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("cleaned up", flush=True)
    sys.exit(7)
"""


class Checkout:
    """A small project with ./dev in it, in a folder whose name has spaces."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("examples", "rimstone"):
            (folder / name).mkdir(parents=True)
        shutil.copy(DEV, folder / "dev")
        self.write("pyproject.toml", PYPROJECT)
        self.write("venv.py", VENV)
        self.write("pip.py", PIP)
        self.write("examples/demo.py", TELL)
        self.write("pytest.py", TELL)
        self.write("rimstone/__init__.py", "")
        self.write("rimstone/bench.py", TELL)
        self.write("rimstone/iomodel.py", IO_MODELS)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    @property
    def command(self) -> list[str]:
        return [sys.executable, str(self.folder / "dev")]

    def dev(self, *arguments: str, compiler: str = "/bin/false", **more: str) -> subprocess.CompletedProcess[str]:
        # From another directory, and with a compiler that fails.
        environment = {**os.environ, "CC": compiler, **more}
        if "RIMSTONE_PURE" not in more:
            environment.pop("RIMSTONE_PURE", None)
        return subprocess.run(
            [*self.command, *arguments],
            cwd="/",
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )

    def told(self, *arguments: str) -> list[Any]:
        """Run ./dev, which must succeed: what the program it ran was given, its environment, its directory."""
        result = self.dev(*arguments)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    def installs(self) -> list[str]:
        return (self.folder / "installs.log").read_text().splitlines()


class CompiledCheckout(Checkout):
    """One with a core to compile, and a compiler that has no complaints."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / "src/toy").mkdir(parents=True)
        (folder / "tests/pools").mkdir(parents=True)
        self.write("setup.py", SETUP)
        self.write("pytest.py", TELL_CORE)
        for source in ("core.py", "core.pxd", "twin.py", "twin.pyx", "other.py"):
            self.write(f"src/toy/{source}", "")
        self.built = folder / f"src/toy/core{sysconfig.get_config_var('EXT_SUFFIX')}"

    def dev(self, *arguments: str, compiler: str = "/bin/true", **more: str) -> subprocess.CompletedProcess[str]:
        return super().dev(*arguments, compiler=compiler, **more)

    def tested(self, *arguments: str, **more: str) -> list[Any]:
        """Run ./dev test, which must succeed: RIMSTONE_PURE and the arguments of each run of pytest."""
        result = self.dev("test", *arguments, **more)
        assert result.returncode == 0, result.stderr
        return [json.loads(line) for line in result.stdout.splitlines()]

    def builds(self) -> list[str]:
        return (self.folder / "builds.log").read_text().splitlines()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A checkout in which ./dev has made .venv."""
    checkout = Checkout(tmp_path / "a check out")
    checkout.told("demo")
    return checkout


@pytest.fixture
def compiled(tmp_path: Path) -> CompiledCheckout:
    """A checkout in which ./dev has made .venv and the core."""
    checkout = CompiledCheckout(tmp_path / "a check out")
    checkout.told("demo")
    assert checkout.built.exists()
    return checkout


@pytest.mark.slow
def test_a_fresh_checkout_gets_a_real_environment(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path / "a check out")
    (checkout.folder / "venv.py").unlink()
    (checkout.folder / "pip.py").unlink()
    checkout.write("backend.py", BACKEND)
    checkout.write("pyproject.toml", PYPROJECT)
    checkout.write("examples/demo.py", "import toy\n" + TELL)
    assert checkout.told("demo") == [[], str(checkout.folder / ".venv"), str(checkout.folder)]


@pytest.mark.slow
def test_commands_run_in_the_checkout_with_its_python(checkout: Checkout) -> None:
    folder, venv = str(checkout.folder), str(checkout.folder / ".venv")
    assert checkout.told("demo", "--urls", "5 0") == [["--urls", "5 0"], venv, folder]
    assert checkout.told("test", "tests/test_x.py", "-x") == [["tests/test_x.py", "-x"], venv, folder]
    assert checkout.told("test", "--fast", "-x") == [["-m", "not slow", "-x"], venv, folder]


@pytest.mark.slow
def test_a_second_run_installs_nothing_and_says_nothing(checkout: Checkout) -> None:
    assert checkout.installs() == ["install --quiet --disable-pip-version-check --editable .[dev]"]
    result = checkout.dev("demo")
    assert (result.returncode, result.stderr, len(checkout.installs())) == (0, "", 1)


@pytest.mark.slow
def test_other_requirements_are_installed_into_the_same_environment(checkout: Checkout) -> None:
    marker = checkout.folder / ".venv/marker"
    marker.touch()
    checkout.write("pyproject.toml", PYPROJECT + "# changed\n")
    checkout.told("demo")
    assert len(checkout.installs()) == 2
    assert marker.exists()


def interrupt(checkout: Checkout) -> None:
    """As if the install had been interrupted: all is there except the stamp, which is written last."""
    (checkout.folder / ".venv/dev-stamp.json").unlink()


def move(checkout: Checkout) -> None:
    checkout.folder = checkout.folder.rename(checkout.folder.with_name("moved out"))


def other_python(checkout: Checkout) -> None:
    stamp = checkout.folder / ".venv/dev-stamp.json"
    version = sys.version.split()[0]
    assert version in stamp.read_text()
    stamp.write_text(stamp.read_text().replace(version, "3.11.0rc1"))


def lose_python(checkout: Checkout) -> None:
    (checkout.folder / ".venv/bin/python").unlink()


@pytest.mark.slow
@pytest.mark.parametrize("harm", [interrupt, move, other_python, lose_python])
def test_an_environment_that_is_no_good_is_made_anew(checkout: Checkout, harm: Callable[[Checkout], None]) -> None:
    (checkout.folder / ".venv/marker").touch()
    harm(checkout)
    assert checkout.told("demo")[1] == str(checkout.folder / ".venv")
    assert len(checkout.installs()) == 2
    assert not (checkout.folder / ".venv/marker").exists()


@pytest.mark.slow
@pytest.mark.parametrize("change", ["", "# update\n"], ids=["at first", "in an update"])
def test_a_failed_install_shows_pips_words_and_one_line(checkout: Checkout, change: str) -> None:
    if change:
        checkout.write("pyproject.toml", PYPROJECT + change)
    else:
        shutil.rmtree(checkout.folder / ".venv")
    checkout.write("broken", "")
    result = checkout.dev("demo")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-2] == "no index today"
    assert result.stderr.splitlines()[-1].startswith("./dev: pip could not install rimstone")

    (checkout.folder / "broken").unlink()
    (checkout.folder / ".venv/marker").touch()
    checkout.told("demo")
    assert not (checkout.folder / ".venv/marker").exists()  # what the failure left was not taken for whole


@pytest.mark.slow
def test_several_at_once_make_it_once(checkout: Checkout) -> None:
    shutil.rmtree(checkout.folder / ".venv")
    # An install during which another ./dev is bound to arrive: it ends when one has come and is waiting.
    checkout.write("pip.py", PIP + "import time\nwhile not os.path.exists('go on'): time.sleep(0.01)\n")
    several = [
        subprocess.Popen([*checkout.command, "demo", name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for name in "abc"
    ]
    told = [process.stderr.readline() for process in several if process.stderr]
    assert sorted(line.split()[1] for line in told) == ["making", "waiting", "waiting"]
    checkout.write("go on", "")
    outputs = [json.loads(process.communicate(timeout=100)[0]) for process in several]
    assert [process.returncode for process in several] == [0, 0, 0]
    assert [arguments for arguments, _, _ in outputs] == [["a"], ["b"], ["c"]]
    assert len(checkout.installs()) == 2


@pytest.mark.slow
def test_the_exit_code_is_that_of_the_program(checkout: Checkout) -> None:
    checkout.write("pytest.py", "import sys; sys.exit(5)")
    assert checkout.dev("test").returncode == 5


@pytest.mark.slow
def test_check_runs_everything_and_names_what_failed(checkout: Checkout) -> None:
    checkout.write("ruff.py", "import sys; print('ruff', *sys.argv[1:]); sys.exit('check' in sys.argv[1:2])")
    checkout.write("mypy.py", "import sys; print('mypy', *sys.argv[1:])")
    result = checkout.dev("check")  # import-linter is not there, so it fails as well
    assert result.returncode == 1
    assert result.stdout.splitlines() == ["ruff format --check .", "ruff check .", "mypy --strict src"]
    assert result.stderr.splitlines()[-1] == "./dev: failed: ruff check, lint-imports"


@pytest.mark.slow
def test_ctrl_c_ends_with_130_after_the_program_has_cleaned_up(checkout: Checkout) -> None:
    checkout.write("examples/demo.py", WAIT_FOR_CTRL_C)
    with subprocess.Popen(
        [*checkout.command, "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a group of its own, as a terminal has one
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "cleaned up\n", "")


@pytest.mark.slow
def test_all_says_which_pythons_there_are_and_which_passed(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path / "check out")
    # A PATH and a home on which this Python is the only one, beside a shim that finds nothing.
    version = "{}.{}".format(*sys.version_info)
    others = [other for other in ("3.11", "3.12", "3.13") if other != version]
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / f"python{version}").symlink_to(os.path.realpath(sys.executable))
    (programs / f"python{others[0]}").write_text("#!/bin/sh\nexit 127\n")
    (programs / f"python{others[0]}").chmod(0o755)
    environment = {**os.environ, "PATH": str(programs), "HOME": str(tmp_path)}
    command = [*checkout.command, "test", "--all", "-x"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=100)
    assert result.returncode == 0, result.stderr
    told = [json.loads(line)[:2] for line in result.stdout.splitlines()]
    assert told == [[["-x"], str(checkout.folder / f".venv-{version}")]] * 3  # and with two other IO models
    summary = result.stderr.splitlines()[-5:]
    assert f"./dev: Python {version}, pure core: passed" in summary
    assert all(f"./dev: Python {other}: not found, not tested" in summary for other in others)

    checkout.write("pytest.py", "import sys; sys.exit(1)")
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=100)
    assert result.returncode == 1
    assert f"./dev: Python {version}, pure core: failed" in result.stderr.splitlines()[-5:]


# -- the compiled core -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_core_is_compiled_once(compiled: CompiledCheckout) -> None:
    result = compiled.dev("demo")
    assert (result.returncode, result.stderr) == (0, "")
    compiled.write("src/toy/other.py", "changed = True")
    compiled.told("demo")
    assert compiled.builds() == [BUILT_BY_PIP]


@pytest.mark.slow
@pytest.mark.parametrize("source", ["src/toy/core.py", "src/toy/core.pxd", "src/toy/twin.pyx"])
def test_a_changed_source_is_compiled_without_pip(compiled: CompiledCheckout, source: str) -> None:
    before = (compiled.folder / source).stat()
    compiled.write(source, "# changed")
    os.utime(compiled.folder / source, ns=(before.st_atime_ns, before.st_mtime_ns))  # the time says nothing
    compiled.told("demo")
    assert compiled.builds() == [BUILT_BY_PIP, BUILT_AGAIN]
    assert len(compiled.installs()) == 1
    compiled.told("demo")
    assert len(compiled.builds()) == 2


@pytest.mark.slow
def test_a_changed_setup_is_compiled_with(compiled: CompiledCheckout) -> None:
    compiled.write("setup.py", SETUP + "# changed")
    compiled.told("demo")
    assert compiled.builds() == [BUILT_BY_PIP, BUILT_AGAIN]


@pytest.mark.slow
def test_a_core_that_somebody_else_has_made_is_not_trusted(compiled: CompiledCheckout) -> None:
    compiled.built.unlink()
    compiled.told("demo")
    compiled.built.write_text("of other sources")
    compiled.told("demo")
    assert compiled.builds() == [BUILT_BY_PIP, BUILT_AGAIN, BUILT_AGAIN]
    assert compiled.built.read_text() == ""


@pytest.mark.slow
def test_environments_of_one_python_share_the_core_and_its_stamp(compiled: CompiledCheckout) -> None:
    compiled.told("bench")
    assert compiled.builds() == [BUILT_BY_PIP, BUILT_BY_PIP]
    compiled.write("src/toy/core.py", "changed = True")
    compiled.told("demo")
    compiled.write("src/toy/core.py", "")  # what .venv-bench was installed with, but not what was compiled last
    compiled.told("bench")
    assert compiled.builds()[2:] == [BUILT_AGAIN, BUILT_AGAIN]


@pytest.mark.slow
def test_without_a_compiler_the_core_of_older_sources_goes(compiled: CompiledCheckout) -> None:
    compiled.write("src/toy/core.py", "changed = True")
    result = compiled.dev("demo", compiler="/bin/false")
    assert result.returncode == 0
    assert "no compiled core could be built, the pure one runs" in result.stderr.splitlines()[-1]
    assert not compiled.built.exists()
    assert compiled.dev("demo", compiler="/bin/false").stderr == ""  # it is not tried each time
    compiled.told("demo")  # but a compiler is noticed
    assert compiled.built.exists()


@pytest.mark.slow
@pytest.mark.parametrize("also", [None, "pyproject.toml"], ids=["core", "install"])
def test_a_failed_build_leaves_no_core(compiled: CompiledCheckout, also: str | None) -> None:
    compiled.write("src/toy/core.py", "changed = True")
    if also:
        compiled.write(also, PYPROJECT + "# changed\n")
    compiled.write("broken setup", "")
    result = compiled.dev("demo")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-2:][0] == "this is no setup"
    assert not compiled.built.exists()
    (compiled.folder / "broken setup").unlink()
    compiled.told("demo")
    assert compiled.built.exists()


@pytest.mark.slow
def test_a_core_that_does_not_compile_is_a_failure_where_there_is_a_compiler(compiled: CompiledCheckout) -> None:
    compiled.write("src/toy/bad", "")
    compiled.write("src/toy/core.py", "changed = True")
    result = compiled.dev("demo")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-2:] == ["the source is no good", "./dev: the core does not compile: see above"]
    assert compiled.dev("demo").returncode == 1
    assert compiled.dev("demo", compiler="/bin/false").returncode == 0
    assert compiled.dev("demo", compiler="/no/compiler").returncode == 0


@pytest.mark.slow
def test_every_test_runs_compiled_and_those_of_the_core_pure_as_well(compiled: CompiledCheckout) -> None:
    assert compiled.tested() == [[None, []], ["1", CORE_TESTS]]
    assert compiled.tested("--fast", "-x") == [
        [None, ["-m", "not slow", "-x"]],
        ["1", ["-m", "not slow", "-x", *CORE_TESTS]],
    ]


@pytest.mark.slow
def test_given_paths_run_on_both_cores(compiled: CompiledCheckout) -> None:
    for path in ("tests/pools", "tests/pools::test_x"):
        assert compiled.tested(path, "-x") == [[None, [path, "-x"]], ["1", [path, "-x"]]]


@pytest.mark.slow
def test_the_core_can_be_chosen(compiled: CompiledCheckout) -> None:
    assert compiled.tested("--core", "both", "-x") == [[None, ["-x"]], ["1", ["-x"]]]
    assert compiled.tested("--core=compiled", RIMSTONE_PURE="1") == [[None, []]]
    assert compiled.tested("--core", "pure", "tests/pools") == [["1", ["tests/pools"]]]
    assert compiled.tested(RIMSTONE_PURE="1") == [["1", []]]
    assert compiled.tested(compiler="/bin/false") == [[None, []]]  # the only one there is


@pytest.mark.slow
def test_a_core_that_is_not_there_gets_one_line(compiled: CompiledCheckout) -> None:
    compiled.dev("demo", compiler="/bin/false")
    result = compiled.dev("test", "--core", "both", compiler="/bin/false")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("./dev: --core both: there is no compiled core")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compiled_code", "pure_code", "code", "said"),
    [
        (1, 0, 1, "./dev: failed on the compiled core"),
        (0, 2, 2, "./dev: failed on the pure core"),
        (1, 2, 1, "./dev: failed on the compiled core and the pure core"),
        (0, 5, 0, None),  # 5: no test was selected
        (5, 5, 5, "./dev: failed on the compiled core and the pure core"),
    ],
)
def test_both_cores_count(
    compiled: CompiledCheckout, compiled_code: int, pure_code: int, code: int, said: str | None
) -> None:
    program = f"import os, sys; sys.exit({pure_code} if 'RIMSTONE_PURE' in os.environ else {compiled_code})"
    compiled.write("pytest.py", program)
    result = compiled.dev("test")
    assert result.returncode == code
    assert [line for line in result.stderr.splitlines() if "failed" in line] == ([said] if said else [])


@pytest.mark.slow
def test_all_names_the_cores(compiled: CompiledCheckout) -> None:
    version = "{}.{}".format(*sys.version_info)
    programs = compiled.folder / "bin"
    programs.mkdir()
    (programs / f"python{version}").symlink_to(os.path.realpath(sys.executable))
    compiled.write("pytest.py", "import os, sys; sys.exit('RIMSTONE_PURE' in os.environ)")
    result = compiled.dev("test", "--all", PATH=str(programs), HOME=str(compiled.folder))
    assert result.returncode == 1
    summary = result.stderr.splitlines()[-6:]
    assert f"./dev: Python {version}, compiled core: passed" in summary
    assert f"./dev: Python {version}, pure core: failed" in summary


@pytest.mark.slow
def test_all_runs_what_stands_on_an_io_model_with_each(compiled: CompiledCheckout) -> None:
    version = "{}.{}".format(*sys.version_info)
    programs = compiled.folder / "bin"
    programs.mkdir()
    (programs / f"python{version}").symlink_to(os.path.realpath(sys.executable))
    (compiled.folder / "tests/hub").mkdir()
    (compiled.folder / "tests/server").mkdir()
    compiled.write("pytest.py", TELL_MODEL)

    def all_of(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return compiled.dev("test", "--all", *arguments, PATH=str(programs), HOME=str(compiled.folder), **more)

    result = all_of("-x", FAILING="plain")
    assert result.returncode == 1
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        [None, None, ["-x"]],
        [None, "1", ["-x", *CORE_TESTS]],
        ["good", None, ["-x", "tests/hub", "tests/server"]],
        ["plain", None, ["-x", "tests/hub", "tests/server"]],
    ]
    summary = result.stderr.splitlines()[-6:]
    assert f"./dev: Python {version}, IO model good: passed" in summary
    assert f"./dev: Python {version}, IO model plain: failed" in summary

    told = [json.loads(line) for line in all_of("--core", "pure", "tests/pools").stdout.splitlines()]
    assert told == [[model, "1", ["tests/pools"]] for model in (None, "good", "plain")]

    compiled.write("rimstone/iomodel.py", "1 / 0")
    result = all_of()
    assert result.returncode == 1
    assert "./dev: rimstone cannot say which IO models work here: see above" in result.stderr.splitlines()


def test_every_source_of_the_core_counts(tmp_path: Path) -> None:
    """Those of this checkout: setup.py, what it lists as CORE, and the .pxd files."""
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copy(ROOT / "setup.py", tmp_path)
    text = (ROOT / "setup.py").read_text()
    listed = next(
        ast.literal_eval(node.value)
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "CORE"
    )
    origin = runpy.run_path(str(DEV))["core_origin"]
    origin.__globals__["ROOT"] = str(tmp_path)
    headers = [str(header.relative_to(tmp_path)) for header in tmp_path.glob("src/**/*.pxd")]
    assert headers
    seen = {origin()}
    for source in ["setup.py", *listed, *headers]:
        with open(tmp_path / source, "a") as file:
            file.write("\n")
        seen.add(origin())
    assert len(seen) == 2 + len(listed) + len(headers)


# -- bench -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_bench_has_an_environment_of_its_own(checkout: Checkout) -> None:
    folder, arguments = str(checkout.folder), ["upper", "--rounds", "1"]
    results = ["--results", "bench/results"]
    assert checkout.told("bench", *arguments) == [[*results, *arguments], str(checkout.folder / ".venv-bench"), folder]
    assert checkout.installs()[1:] == ["install --quiet --disable-pip-version-check --editable .[bench]"]
    version = "{}.{}".format(*sys.version_info)
    told = checkout.told("bench", "--python", version, "--list")
    assert told == [[*results, "--list"], str(checkout.folder / f".venv-bench-{version}"), folder]


@pytest.mark.slow
def test_bench_on_a_python_that_is_not_there_gets_one_line(checkout: Checkout) -> None:
    result = checkout.dev("bench", "--python", "2.7")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("./dev: --python 2.7: no such CPython")
    assert len(result.stderr.splitlines()) == 1


def run_pretending(pretence: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the real ./dev in an interpreter that is first made to look like one that will not do."""
    code = f"import sys, runpy\n{pretence}\nsys.argv[:] = {[str(DEV), *arguments]!r}\n"
    code += "runpy.run_path(sys.argv[0], {}, '__main__')"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("pretence", "said"),
    [
        ("sys.version_info = (3, 10, 13)", "is too old; use 3.11 or newer"),
        (
            "sys.modules['ensurepip'] = None",
            "lacks its module ensurepip; install it (Debian, Ubuntu: apt install python3-venv)",
        ),
        ("sys.modules['venv'] = None", "lacks its module venv; install it (Debian, Ubuntu: apt install python3-venv)"),
    ],
    ids=["old Python", "no ensurepip", "no venv"],
)
@pytest.mark.slow
def test_a_python_that_will_not_do_gets_one_line(pretence: str, said: str) -> None:
    result = run_pretending(pretence, "test")
    assert (result.returncode, result.stdout) == (2, "")
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [[], ["tests"], ["benchmark"]])
def test_an_unknown_command_gets_one_line_with_the_known_ones(arguments: list[str]) -> None:
    result = subprocess.run([sys.executable, DEV, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "use one of demo, test, check, bench" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_help_names_every_command() -> None:
    result = subprocess.run([sys.executable, DEV, "--help"], capture_output=True, text=True, check=True)
    assert all(f"./dev {command}" in result.stdout for command in ("demo", "test", "check", "bench"))


def test_an_old_python_can_read_the_script() -> None:
    ast.parse(DEV.read_text(), feature_version=(3, 6))


def test_it_is_executable() -> None:
    assert os.access(DEV, os.X_OK)
