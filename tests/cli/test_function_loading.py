"""FILE.py:FUNCTION: under which name a file is loaded, and what it can import."""

import os
import pickle
import sys
from pathlib import Path

import pytest

from rimstone.cli.functions import load_function

pytestmark = pytest.mark.usefixtures("fresh_imports", "functions")


def test_a_free_name_is_used(functions: Path) -> None:
    fn = load_function("work.py:upper")
    assert fn.__module__ == "work"
    assert sys.modules["work"].__file__ == str(functions)
    assert load_function("work.py:upper") is fn
    assert load_function("work:upper") is fn
    assert pickle.loads(pickle.dumps(fn)) is fn


def test_it_is_not_main(functions: Path) -> None:
    functions.write_text("ran = __name__ == '__main__'\ndef f(text): return ran\n")
    assert load_function("work.py:f")("") is False


@pytest.mark.parametrize("stem", ["random", "json", "tabnanny", "sys", "pytest", "my.dotted", "__main__", "__init__"])
def test_a_name_that_means_something_else_is_not_taken(tmp_path: Path, stem: str) -> None:
    folder = tmp_path / "sub"
    folder.mkdir()
    (folder / "sibling.py").write_text("x = 1\n")
    (folder / f"{stem}.py").write_text("import sibling\ndef f(text): return sibling.x\n")
    before = sys.modules.get(stem)
    fn = load_function(f"sub/{stem}.py:f")
    assert fn("") == 1
    assert fn.__module__.startswith("rimstone_file_")
    spec = sys.modules[fn.__module__].__spec__
    assert spec is not None
    assert spec.origin == str(folder / f"{stem}.py")
    assert sys.modules.get(stem) is before
    assert sys.path.index(str(folder)) > sys.path.index(os.path.dirname(os.__file__)), "random must stay random"
    assert load_function(f"sub/{stem}.py:f") is fn


def test_a_shadowing_file_in_the_working_directory_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "random.py").write_text("def f(text): return text\n")
    assert load_function("random.py:f")("a") == "a"
    assert sys.path[-1] == str(tmp_path)
    assert sys.path.count(str(tmp_path)) == 1


def test_two_files_of_one_name(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "job.py").write_text(f"def f(text): return {folder!r}\n")
    first, second = load_function("one/job.py:f"), load_function("two/job.py:f")
    assert (first(""), second("")) == ("one", "two")
    assert first.__module__ == "job"
    assert second.__module__ != "job"


def test_the_files_folder_and_the_working_directory_are_importable(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "beside.py").write_text("x = 1\n")
    (tmp_path / "here.py").write_text("y = 2\n")
    (tmp_path / "sub" / "job.py").write_text("import beside, here\ndef f(text): return beside.x + here.y\n")
    assert load_function("sub/job.py:f")("") == 3
    assert sys.path[:2] == [str(tmp_path / "sub"), str(tmp_path)]


def test_a_dash_in_the_name(tmp_path: Path) -> None:
    (tmp_path / "my-job.py").write_text("def f(text): return 1\n")
    fn = load_function("my-job.py:f")
    assert pickle.loads(pickle.dumps(fn)) is fn


def test_a_decorator_that_supplies_arguments_is_not_refused(functions: Path) -> None:
    functions.write_text(
        "import functools\n"
        "def with_session(fn):\n"
        "    @functools.wraps(fn)\n"
        "    def call(*args): return fn('session', *args)\n"
        "    return call\n"
        "@with_session\n"
        "def f(session, text): return session + text\n"
    )
    assert load_function("work.py:f")("1") == "session1"
