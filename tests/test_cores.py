"""The compiled core and the pure one are the same thing twice: chosen as a whole, with the same names, never stale."""

import ast
import glob
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
IS_BUILT = bool(glob.glob(str(ROOT / f"src/rimstone/**/*{SUFFIX}"), recursive=True))
IN_C = sorted(ROOT.glob("src/rimstone/**/*.pyx"))
TWINS = [source for source in IN_C if source.with_suffix(".py").exists()]

needs_compiled = pytest.mark.skipif(not IS_BUILT, reason="no compiled core was built for this Python")


def listed() -> list[str]:
    """The sources that setup.py compiles."""
    return next(
        ast.literal_eval(node.value)
        for node in ast.parse((ROOT / "setup.py").read_text()).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "CORE"
    )


def module_of(source: str) -> str:
    return os.path.splitext(source)[0].removeprefix("src/").replace("/", ".")


def only_in_c() -> list[str]:
    """Modules of the compiled core that have no twin in Python: what stands on them is not there in the pure one."""
    return [module_of(str(source.relative_to(ROOT))) for source in IN_C if source not in TWINS]


def run(pure: bool, *arguments: str) -> str:
    """What a Python prints that was started for that core."""
    environment = {name: value for name, value in os.environ.items() if name != "RIMSTONE_PURE"}
    if pure:
        environment["RIMSTONE_PURE"] = "1"
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- the choice --------------------------------------------------------------------------------------------------------

LOOK = f"""
import importlib, json, sys
from rimstone._core import core, why_pure

for name in {[module_of(source) for source in listed()]}:
    if core() == "compiled" or name not in {only_in_c()}:
        importlib.import_module(name)
files = {{name: module.__file__ for name, module in sys.modules.items() if name.startswith("rimstone.")}}
print(json.dumps([core(), why_pure(), files]))
"""


def test_pure_runs_nothing_but_sources() -> None:
    core, why_pure, files = json.loads(run(True, "-c", LOOK))
    assert core == "pure"
    assert why_pure == "RIMSTONE_PURE=1 asks for it"
    assert [file for file in files.values() if not file.endswith(".py")] == []


def test_what_exists_in_c_only_is_no_module_of_the_pure_core() -> None:
    for name in only_in_c():
        code = f"import rimstone\ntry:\n    import {name}\nexcept ModuleNotFoundError as error:\n    print(error)"
        assert run(True, "-c", code) in {
            f"{name} exists in the compiled core only\n",
            f"No module named '{name}'\n",  # nothing has been compiled
        }


@needs_compiled
def test_compiled_runs_all_of_the_core_and_nothing_else_compiled() -> None:
    core, why_pure, files = json.loads(run(False, "-c", LOOK))
    assert (core, why_pure) == ("compiled", None)
    compiled = {name for name, file in files.items() if file.endswith(SUFFIX)}
    assert compiled == {module_of(source) for source in listed()}


@pytest.mark.slow
def test_pytest_says_which_core_it_tests() -> None:
    arguments = ["-m", "pytest", "--collect-only", "-p", "no:cacheprovider", "tests/test_layers.py"]
    assert "\nrimstone core: pure (RIMSTONE_PURE=1 asks for it)\n" in run(True, *arguments)
    assert f"\nrimstone core: {'compiled' if IS_BUILT else 'pure (rimstone was installed'}" in run(False, *arguments)


@pytest.mark.slow
@pytest.mark.parametrize("core", ["pure", pytest.param("compiled", marks=needs_compiled)])
def test_an_install_can_be_tried(core: str) -> None:
    assert run(core == "pure", "tests/smoke.py", core).endswith(f"with the {core} core\n")


# -- the same names ----------------------------------------------------------------------------------------------------

# Of every object in the core's interface: what `dir` says of it, since some attributes of a pure class exist in its
# instances only.
DESCRIBE = f"""
import importlib, inspect, json, socket
from rimstone.hub import get_hub, parking, timers, _native
from rimstone.iomodel import _entry, _poller

def public(names):
    return sorted(name for name in names if not name.startswith("_"))

described = {{}}
for name in {[name for source in listed() if (name := module_of(source)) not in only_in_c()]}:
    module = importlib.import_module(name)
    here = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == name]
    exported = getattr(module, "__all__", public(here))
    described[name] = sorted(exported)
    for key in exported:
        value = getattr(module, key)
        if inspect.isclass(value):
            bases = [base.__name__ for base in value.__mro__ if base.__module__.startswith("rimstone")]
            described[f"class {{name}}.{{key}}"] = bases

sock, hub = socket.socket(), get_hub()
entry = _entry.SocketEntry(sock, sock.fileno(), print)
others = [parking.waiter(), timers.Timers(), _native.Greenlets(), _native.PerThread(), _poller.Poller(), entry]
for instance in [hub, hub.io, hub.root, *others]:
    described[f"a {{type(instance).__name__}}"] = public(dir(instance))
entry.detach()
print(json.dumps(described))
"""


@pytest.fixture(scope="module")
def described() -> tuple[dict[str, Any], dict[str, Any]]:
    return json.loads(run(True, "-c", DESCRIBE)), json.loads(run(False, "-c", DESCRIBE))


@needs_compiled
def test_both_have_the_same_public_names(described: tuple[dict[str, Any], dict[str, Any]]) -> None:
    pure, compiled = described
    assert compiled == pure


# -- the sources -------------------------------------------------------------------------------------------------------


def test_what_setup_lists_exists() -> None:
    assert [source for source in listed() if not (ROOT / source).exists()] == []


def test_twins_and_headers_belong_to_the_core() -> None:
    sources = set(listed())
    assert {str(source.relative_to(ROOT)) for source in IN_C} <= sources
    stems = {os.path.splitext(source)[0] for source in sources}
    headers = {os.path.splitext(header.relative_to(ROOT))[0] for header in ROOT.glob("src/rimstone/**/*.pxd")}
    assert headers <= stems


def classes_in_python(text: str) -> dict[str, set[str]]:
    """The public names of each public class: methods, and attributes that are set in it or on `self`."""
    found = {}
    for kind in ast.walk(ast.parse(text)):
        if isinstance(kind, ast.ClassDef):
            names = {node.name for node in ast.walk(kind) if isinstance(node, ast.FunctionDef)}
            names |= {node.attr for node in ast.walk(kind) if is_attribute_of_self(node)}
            names |= {target.id for node in kind.body if isinstance(node, ast.Assign) for target in node.targets}
            found[kind.name] = names
    return public_only(found)


def is_attribute_of_self(node: ast.AST) -> bool:
    is_target = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    return is_target and isinstance(node.value, ast.Name) and node.value.id == "self"


def classes_in_cython(text: str) -> dict[str, set[str]]:
    """The same of a .pyx or .pxd, where `cdef` alone makes a name private to C."""
    found: dict[str, set[str]] = {}
    for kind, body in re.findall(r"^cdef class (\w+)\S*:\n((?:(?:    .*)?\n)*)", text, re.MULTILINE):
        names = set(re.findall(r"^    (?:def|cpdef)\b[^(\n]*?(\w+)\(", body, re.MULTILINE))
        for attributes in re.findall(r"^    cdef (?:public|readonly) \w+ (.+)$", body, re.MULTILINE):
            names |= set(attributes.split(", "))
        found[kind] = names
    return public_only(found)


def public_only(classes: dict[str, set[str]]) -> dict[str, set[str]]:
    return {
        kind: {name for name in names if not name.startswith("_")}
        for kind, names in classes.items()
        if not kind.startswith("_")
    }


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.name)
def test_twins_define_the_same_classes_with_the_same_names(twin: Path) -> None:
    header = twin.with_suffix(".pxd")
    in_c = classes_in_cython(twin.read_text())
    for kind, names in classes_in_cython(header.read_text() if header.exists() else "").items():
        in_c[kind] |= names
    assert in_c
    assert in_c == classes_in_python(twin.with_suffix(".py").read_text())


def test_a_difference_between_twins_would_be_seen() -> None:
    python = "class A:\n    def f(self):\n        self.x = self._y = 1\nclass _B:\n    pass\n"
    cython = (
        "cdef class A:\n    cdef readonly int x\n    cdef int _y\n\n    cpdef int f(self) except -1:\n        pass\n"
    )
    assert classes_in_python(python) == classes_in_cython(cython) == {"A": {"f", "x"}}
    assert classes_in_cython(cython.replace("readonly ", "")) == {"A": {"f"}}
    assert classes_in_cython(cython.replace("cpdef", "cdef")) == {"A": {"x"}}


# -- setup.py: all or nothing ------------------------------------------------------------------------------------------


class Sources:
    """A copy of setup.py with a core of one small module, beside what older builds have left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        text = (ROOT / "setup.py").read_text()
        core = re.search(r"^CORE = \[.*?^\]", text, re.DOTALL | re.MULTILINE)
        assert core
        self.write("setup.py", text.replace(core[0], 'CORE = ["src/rimstone/hub/small.py"]'))
        project = '[project]\nname = "small"\nversion = "1"\n[tool.setuptools.packages.find]\nwhere = ["src"]\n'
        self.write("pyproject.toml", project)
        self.write("src/rimstone/hub/small.py", "def answer() -> int:\n    return 42\n")
        self.write("src/rimstone/hub/__init__.py", "")
        self.write("src/rimstone/__init__.py", "")
        self.small = self.write(f"src/rimstone/hub/small{SUFFIX}", "of older sources")
        self.gone = self.write(f"src/rimstone/hub/gone{SUFFIX}", "no longer a part of the core")
        self.foreign = self.write("src/rimstone/hub/small.cpython-39-x86_64-linux-gnu.so", "of another Python")
        self.for_wheels = self.write(f"build/lib/rimstone/hub/gone{SUFFIX}", "the last wheel had it")

    def write(self, name: str, text: str) -> Path:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def without_greenlet(self) -> None:
        self.write("greenlet.py", "raise ImportError('there is no greenlet')")

    def build(self, *options: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "setup.py", "--quiet", "build_ext", "--build-lib", "build/lib", *options]
        environment = {**os.environ, "RIMSTONE_REQUIRE_CORE": "", **environment}
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=100
        )


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools is not installed")
    return Sources(tmp_path / "check [out]")


@pytest.mark.slow
def test_a_core_that_cannot_be_built_leaves_none_of_an_older_build(sources: Sources) -> None:
    sources.without_greenlet()
    done = sources.build("--inplace")
    assert done.returncode == 0
    assert "rimstone: no compiled core (ImportError: there is no greenlet); the pure one will be used" in done.stderr
    assert [file.exists() for file in (sources.small, sources.gone, sources.for_wheels)] == [False, False, False]
    assert sources.foreign.exists()


@pytest.mark.slow
def test_a_core_that_is_required_and_cannot_be_built_is_an_error(sources: Sources) -> None:
    sources.without_greenlet()
    done = sources.build("--inplace", RIMSTONE_REQUIRE_CORE="1")
    assert done.returncode != 0
    assert "there is no greenlet" in done.stderr
    assert not sources.small.exists()


@pytest.mark.slow
def test_a_wheel_leaves_the_core_of_the_checkout_alone(sources: Sources) -> None:
    sources.without_greenlet()
    assert sources.build().returncode == 0
    assert sources.small.exists()
    assert not sources.for_wheels.exists()


@pytest.mark.slow
def test_a_compiler_that_fails_is_told(sources: Sources) -> None:
    if importlib.util.find_spec("Cython") is None:
        pytest.skip("Cython is not installed")
    done = sources.build("--inplace", CC="/bin/false")
    assert done.returncode == 0
    assert "rimstone: no compiled core (" in done.stderr
    assert "/bin/false" in done.stderr
    assert not sources.small.exists()


@pytest.mark.slow
def test_what_is_no_longer_in_the_core_goes(sources: Sources) -> None:
    if importlib.util.find_spec("Cython") is None or shutil.which("cc") is None:
        pytest.skip("Cython or the C compiler is not installed")
    done = sources.build("--inplace", CC="cc", RIMSTONE_REQUIRE_CORE="1")
    assert done.returncode == 0, done.stderr
    assert [file.exists() for file in (sources.gone, sources.for_wheels)] == [False, False]
    code = "from rimstone.hub import small; print(small.__file__, small.answer())"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=sources.folder / "src", capture_output=True, text=True, check=True, timeout=60
    )
    assert answer.stdout == f"{sources.small} 42\n"
