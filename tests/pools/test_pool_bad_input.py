"""What users' functions, arguments and results can do wrong: one call fails, with a clear text, and nothing else."""

import concurrent.futures
import importlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rimstone import Pool, ProcessPoolExecutor
from rimstone.errors import CannotTravel, RemoteError, RemoteTraceback
from rimstone.pools.process import ProcessBackedExecutor

pytestmark = pytest.mark.slow

PATIENCE = 30.0

FUNCTIONS = '''
import os, threading

class NeedsTwo(Exception):
    """Pickles, and does not unpickle."""
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")

class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no words")
    __repr__ = __str__

class UnspeakableInTheExtreme(BaseException):
    def __str__(self):
        raise SystemExit("not even that")
    __repr__ = __str__

class HoldsALock(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()

class FailsToPickle:
    def __reduce__(self):
        raise KeyboardInterrupt("while it is pickled")

class OnlyInTheParent:
    """Unpickles in one process only."""
    def __init__(self, pid=None):
        self.pid = os.getpid()
    def __reduce__(self):
        return open_here, (self.pid,)

def open_here(pid):
    if pid != os.getpid():
        raise OSError(f"made in {pid}")
    return "the same process"

class Vicious(Exception):
    """Its unpickling ends things."""
    def __reduce__(self):
        return end, ("vicious",)

def end(text):
    raise SystemExit(text)

def raises(kind, *args):
    raise kind(*args)

def gives(kind):
    return kind()

def lock():
    return [{"key": threading.Lock()}]

def takes(value):
    return "arrived"

def generator():
    yield 1

def recurses(n=0):
    return recurses(n + 1)

def chain():
    try:
        {}["deep"]
    except KeyError as error:
        error.add_note("a note")
        raise ValueError("on top") from error
'''


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("bad")
    (folder / "bad_functions.py").write_text(FUNCTIONS)
    sys.path.insert(0, str(folder))
    import bad_functions  # noqa: PLC0415

    yield bad_functions
    sys.path.remove(str(folder))
    del sys.modules["bad_functions"]


@pytest.fixture(scope="module", params=[Pool, ProcessPoolExecutor])
def shared(request: pytest.FixtureRequest, functions: Any) -> Iterator[ProcessBackedExecutor]:
    with Pool(processes=1) if request.param is Pool else ProcessPoolExecutor(1) as made:
        assert made.submit(abs, -1).result(PATIENCE) == 1
        yield made


@pytest.fixture
def pool(shared: ProcessBackedExecutor) -> Iterator[ProcessBackedExecutor]:
    pids = shared.statistics().pids
    yield shared
    assert shared.submit(abs, -1).result(PATIENCE) == 1, "the pool lives"
    assert shared.statistics().pids == pids, "and so does its worker"


def error_of(pool: ProcessBackedExecutor, *call: Any) -> BaseException:
    error = pool.submit(*call).exception(PATIENCE)
    assert error is not None
    return error


def test_exceptions_arrive_with_the_traceback_of_the_worker(pool: ProcessBackedExecutor, functions: Any) -> None:
    error = error_of(pool, functions.raises, ValueError, "as asked")
    assert type(error) is ValueError
    assert str(error) == "as asked"
    assert isinstance(error.__cause__, RemoteTraceback)
    text = str(error.__cause__)
    assert "in raises" in text
    assert "raise kind(*args)" in text
    assert "rimstone" not in text, "frames of ours say nothing to the user"
    error = error_of(pool, functions.chain)
    assert "KeyError: 'deep'" in str(error.__cause__)
    assert "a note" in str(error.__cause__)
    assert isinstance(error_of(pool, functions.recurses), RecursionError)
    assert isinstance(error_of(pool, functions.takes, 1, 2), TypeError)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration, BaseException])
def test_exceptions_that_end_things_elsewhere_end_only_their_call(
    pool: ProcessBackedExecutor, functions: Any, kind: type[BaseException]
) -> None:
    error = error_of(pool, functions.raises, kind, "out")
    assert type(error) is kind
    assert error.args == ("out",)
    assert error_of(pool, sys.exit, 3).args == (3,)


def test_asyncio_and_greenlet_exits_end_only_their_call(pool: ProcessBackedExecutor, functions: Any) -> None:
    import asyncio  # noqa: PLC0415

    import greenlet  # noqa: PLC0415

    from rimstone.errors import TaskExit  # noqa: PLC0415

    for kind in (asyncio.CancelledError, concurrent.futures.CancelledError, greenlet.GreenletExit, TaskExit):
        assert type(error_of(pool, functions.raises, kind)) is kind


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("NeedsTwo", (1, 2), "1 and 2"),
        ("HoldsALock", ("locked",), "locked"),
        ("Vicious", ("words",), "words"),
        ("Unspeakable", (), "__str__ raised RuntimeError"),
        ("UnspeakableInTheExtreme", (), "__str__ raised SystemExit"),
    ],
)
def test_exceptions_that_cannot_be_rebuilt_are_told_in_words(
    pool: ProcessBackedExecutor, functions: Any, name: str, arguments: tuple[Any, ...], message: str
) -> None:
    error = error_of(pool, functions.raises, getattr(functions, name), *arguments)
    if isinstance(error, RemoteError):
        assert name in error.type_name
        assert message in error.message
    else:
        assert type(error) is getattr(functions, name)
    assert isinstance(error.__cause__, RemoteTraceback)
    assert "in raises" in str(error.__cause__)


def test_results_that_do_not_pickle(pool: ProcessBackedExecutor, functions: Any) -> None:
    error = error_of(pool, functions.lock)
    assert isinstance(error, CannotTravel)
    assert "lock()" in str(error)
    assert "_thread.lock" in str(error)
    assert isinstance(error_of(pool, functions.generator), CannotTravel)
    # Raised by what pickles itself: as if the call had raised it.
    assert isinstance(error_of(pool, functions.gives, functions.FailsToPickle), KeyboardInterrupt | CannotTravel)


def test_results_that_do_not_unpickle_here(pool: ProcessBackedExecutor, functions: Any) -> None:
    error = error_of(pool, functions.gives, functions.OnlyInTheParent)
    assert isinstance(error, CannotTravel)
    assert "OSError: made in" in str(error)


def test_arguments_that_do_not_pickle_fail_their_call(pool: ProcessBackedExecutor, functions: Any) -> None:
    with pytest.raises(CannotTravel, match=r"argument 1 of takes\(\).*lock"):
        pool.submit(functions.takes, threading.Lock()).result()
    with pytest.raises(CannotTravel, match=r"keyword argument 'value' of takes\(\)"):
        pool.submit(functions.takes, value=[threading.Lock()]).result()
    outcomes = {outcome.input if isinstance(outcome.input, int) else "bad": outcome
                for outcome in pool.outcomes(functions.takes, [1, threading.Lock(), 2])}  # fmt: skip
    assert outcomes[1].value == outcomes[2].value == "arrived"
    assert isinstance(outcomes["bad"].error, CannotTravel)


def test_arguments_that_do_not_unpickle_in_the_worker(pool: ProcessBackedExecutor, functions: Any) -> None:
    error = error_of(pool, functions.takes, functions.OnlyInTheParent())
    assert isinstance(error, CannotTravel)
    assert "OSError: made in" in str(error)
    assert "cannot be rebuilt there" in str(error)


def test_arguments_whose_unpickling_ends_things(pool: ProcessBackedExecutor, functions: Any) -> None:
    assert isinstance(error_of(pool, functions.takes, functions.Vicious()), SystemExit | CannotTravel)


def import_new(name: str, folder: Path, at_import_elsewhere: str) -> Any:
    """Write a module that does something special when another process imports it, and import it."""
    source = f"import os, sys\nif os.getpid() != {os.getpid()}: {at_import_elsewhere}\ndef f(): pass\n"
    (folder / f"{name}.py").write_text(source)
    importlib.invalidate_caches()
    return importlib.import_module(name)


def test_a_module_that_the_worker_cannot_find(
    pool: ProcessBackedExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)  # too late for the worker, which is there already
    module = import_new(f"late_module_{tmp_path.name}", tmp_path, "pass")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match=r"cannot import module 'late_module.*sys\.path"):
            pool.submit(module.f).result(PATIENCE)


@pytest.mark.parametrize(
    ("at_import", "error", "message"),
    [
        ("raise RuntimeError('not here')", RuntimeError, "not here"),
        ("import no_such_thing", ModuleNotFoundError, "because of another: No module named 'no_such_thing'"),
        ("del f", NameError, "'f'"),
        ("sys.exit('bye')", ImportError, "could not be loaded in the worker process: SystemExit: bye"),
    ],
)
def test_a_module_that_fails_when_the_worker_imports_it(
    pool: ProcessBackedExecutor, functions: Any, at_import: str, error: type[Exception], message: str
) -> None:
    folder = Path(functions.__file__).parent
    module = import_new(f"failing_{len(list(folder.iterdir()))}", folder, at_import)
    for _ in range(2):
        with pytest.raises(error, match=message):
            pool.submit(module.f).result(PATIENCE)


def test_one_bad_call_among_many_ends_nothing(pool: ProcessBackedExecutor, functions: Any) -> None:
    kinds = [ValueError, SystemExit, KeyboardInterrupt, functions.Unspeakable, functions.HoldsALock] * 10
    outcomes = list(pool.outcomes(functions.raises, kinds, ["x"] * len(kinds)))
    assert len(outcomes) == len(kinds)
    assert all(outcome.error is not None for outcome in outcomes)
    assert list(pool.map(abs, range(-100, 0))) == list(range(100, 0, -1))
