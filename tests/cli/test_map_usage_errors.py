"""`rimstone map`: every mistake on the command line is one clear message, exit code 2, and no traceback of ours."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("work.py", ["'work.py' names no function", "FILE.py:FUNCTION"]),
        ("work.py:", ["names no function"]),
        (":upper", ["names no function"]),
        ("wrok.py:upper", ["there is no file 'wrok.py'", "did you mean work.py?"]),
        ("folder/work:upper", ["'folder/work' is not a Python file"]),
        ("./work:upper", ["did you mean ./work.py:upper?"]),
        ("work.py:uper", ["work.py has no function 'uper'", "did you mean upper?", "it has ", "divide"]),
        ("work.py:CONSTANT", ["work.py:CONSTANT is an int, not a function"]),
        ("work.py:Shape.aera", ["work.py:Shape has no function 'aera'", "did you mean area?"]),
        ("work.py:takes_two", ["work.py:takes_two(a, b) cannot be called with one argument"]),
        ("work.py:waits", ["is an async function", "asyncio.run"]),
        ("wrok:upper", ["there is no module 'wrok'", "did you mean work?"]),
        ("os.paht:getsize", ["there is no module 'os.paht'", "os is a module, not a package"]),
        ("email.mesage:Message", ["there is no module 'email.mesage' in package email", "did you mean message"]),
        ("..work:upper", ["'..work' is not a module name"]),
        ("math:sqrtt", ["math has no function 'sqrtt'", "did you mean sqrt"]),
    ],
)
def test_functions_that_cannot_be_had(in_process: Run, given: str, words: list[str]) -> None:
    result = in_process("map", given, stdin=b"a\n")
    assert result.code == 2
    assert result.out == ""
    assert "Traceback" not in result.err
    assert result.err.startswith("rimstone: ")
    assert result.err.count("\n") == 1
    for word in words:
        assert word in result.err


@pytest.mark.parametrize(
    ("given", "data", "value"),
    [
        ("work:upper", b"a\n", "A"),
        ("work.py:Shape.area", b"3\n", 9),
        ("work:Shape.area", b"3\n", 9),
        ("builtins:str.upper", b"a\n", "A"),
        ("os.path:basename", b"a/b\n", "b"),
        ("builtins:len", b"abc\n", 3),
    ],
)
def test_functions_that_can_be_had(in_process: Run, given: str, data: bytes, value: object) -> None:
    result = in_process("map", given, stdin=data)
    assert (result.code, result.err) == (0, "")
    assert result.records[0]["value"] == value


def test_an_error_at_import_shows_the_users_traceback_only(in_process: Run, functions: Path) -> None:
    functions.write_text("def f(text):\n    return 1\n\n\ndef g():\n    return 1 / 0\n\n\ng()\n")
    result = in_process("map", "work.py:f", stdin=b"a\n")
    assert result.code == 2
    assert "ZeroDivisionError" in result.err
    assert result.err.count('File "') == 2, "one frame for the file, one for g, none of ours"
    assert "work.py could not be imported" in result.err


def test_a_missing_import_of_the_users_file_is_not_mistaken_for_a_missing_module(
    in_process: Run, functions: Path
) -> None:
    functions.write_text("import not_there_at_all\n")
    for given in ("work.py:f", "work:f"):
        result = in_process("map", given, stdin=b"a\n")
        assert result.code == 2
        assert "ModuleNotFoundError: No module named 'not_there_at_all'" in result.err
        assert result.err.count('File "') == 1


def test_a_syntax_error(in_process: Run, functions: Path) -> None:
    functions.write_text("def f(:\n")
    result = in_process("map", "work.py:f", stdin=b"a\n")
    assert result.code == 2
    assert "SyntaxError" in result.err
    assert result.err.count('File "') == 1


def test_a_file_that_exits_when_imported(in_process: Run, functions: Path) -> None:
    functions.write_text("import sys\nsys.exit(3)\n")
    result = in_process("map", "work.py:f", stdin=b"a\n")
    assert result.code == 2
    assert "work.py called sys.exit(3) while it was imported" in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["map"], ["Missing argument"]),
        (["map", "work.py:upper", "in.txt", "--max-in-flight", "0"], ["--max-in-flight"]),
        (["map", "work.py:upper", "in.txt", "--max-in-flight", "many"], ["--max-in-flight"]),
        (["map", "work.py:upper", "in.txt", "--processes", "0"], ["--processes"]),
        (["map", "work.py:upper", "in.txt", "more"], ["more"]),
        (["map", "work.py:upper", "--nonsense"], ["--nonsense"]),
        (["map", "work.py:upper", "missing.txt"], ["cannot read the inputs 'missing.txt': No such file"]),
        (["map", "work.py:upper", "."], ["cannot read the inputs '.': it is a folder"]),
        (["map", "work.py:upper", "in.txt", "--out", "no/where"], ["cannot write to --out 'no/where': No such file"]),
        (["map", "work.py:upper", "in.txt", "--out", "."], ["cannot write to --out '.'"]),
        (["mpa"], ["mpa"]),
    ],
)
def test_options_and_files(in_process: Run, functions: Path, arguments: list[str], words: list[str]) -> None:
    (functions.parent / "in.txt").write_text("a\n")
    result = in_process(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert "Traceback" not in result.err
    for word in words:
        assert word in result.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(in_process: Run, functions: Path) -> None:
    (functions.parent / "in.txt").touch(mode=0)
    result = in_process("map", "work.py:upper", "in.txt")
    assert result.code == 2
    assert "Permission denied" in result.err


def test_the_inputs_are_never_overwritten(in_process: Run, functions: Path) -> None:
    inputs = functions.parent / "in.txt"
    inputs.write_text("a\n")
    result = in_process("map", "work.py:upper", "in.txt", "--out", "./in.txt")
    assert result.code == 2
    assert "is the file of inputs itself" in result.err
    assert inputs.read_text() == "a\n"


def test_a_misspelt_function_leaves_old_results_alone(in_process: Run, functions: Path) -> None:
    old = functions.parent / "old.jsonl"
    old.write_text("precious\n")
    assert in_process("map", "work.py:uper", "--out", "old.jsonl", stdin=b"a\n").code == 2
    assert old.read_text() == "precious\n"


def test_a_closed_stdin_or_stdout(functions: Path) -> None:
    for redirection, words in (("<&-", "standard input is closed"), ("</dev/null >&-", "standard output is closed")):
        done = subprocess.run(
            f'"{sys.executable}" -m rimstone map work.py:upper {redirection}',
            shell=True,
            cwd=functions.parent,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 2
        assert words in done.stderr
        assert "Traceback" not in done.stderr
