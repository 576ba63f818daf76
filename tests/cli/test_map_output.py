"""`rimstone map`, in this process: what goes in, what comes out, which exit code."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


def test_one_line_in_one_json_line_out(in_process: Run) -> None:
    result = in_process("map", "work.py:upper", stdin=b"b\na\n")
    assert result.code == 0
    assert result.records == [{"input": "a", "value": "A"}, {"input": "b", "value": "B"}]
    assert result.err == ""


@pytest.mark.parametrize(
    ("data", "inputs"),
    [
        (b"", []),
        (b"a", ["a"]),
        (b"\n", [""]),
        (b"a\n\nb\n", ["a", "", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b" a b \n", [" a b "]),
        (b"\xef\xbb\xbfa\nb", ["a", "b"]),
        ("é 中文\u2028x\n".encode(), ["é 中文\u2028x"]),
        (b"x" * 200_000 + b"\ny", ["x" * 200_000, "y"]),
    ],
)
def test_lines(in_process: Run, functions: Path, data: bytes, inputs: list[str]) -> None:
    (functions.parent / "in.txt").write_bytes(data)
    result = in_process("map", "work.py:same", "in.txt")
    assert result.code == 0
    records = [json.loads(line) for line in result.out.split("\n")[:-1]]
    assert sorted(record["input"] for record in records) == sorted(inputs)
    assert all(record["value"] == record["input"] for record in records)


def test_text_stays_readable(in_process: Run) -> None:
    assert in_process("map", "work.py:same", stdin="中文\n".encode()).out == '{"input": "中文", "value": "中文"}\n'


def test_bytes_that_are_not_utf8_come_out_as_escapes(in_process: Run) -> None:
    result = in_process("map", "work.py:same", stdin=b"a\xff\n")
    assert result.out == '{"input": "a\\udcff", "value": "a\\udcff"}\n'
    assert json.loads(result.out)["input"].encode("utf-8", "surrogateescape") == b"a\xff"


def test_a_failing_input_ends_nothing_else(in_process: Run) -> None:
    result = in_process("map", "work.py:divide", stdin=b"0\n5\nx\n")
    assert result.code == 1
    zero, five, letter = result.records
    assert zero == {
        "input": "0",
        "error": {"type": "ZeroDivisionError", "message": "integer division or modulo by zero"},
    }
    assert five == {"input": "5", "value": 20}
    assert letter["error"]["type"] == "ValueError"


def test_json_inputs(in_process: Run) -> None:
    result = in_process("map", "work.py:same", "--json", stdin=b'{"a": [1, null]}\n 3 \n"text"\n1.50\n')
    assert result.code == 0
    values = [record["value"] for record in result.records]
    assert {"a": [1, None]} in values
    assert set(map(str, values)) >= {"3", "text", "1.5"}
    assert '{"input": 1.50, "value": 1.5}\n' in result.out, "the input goes out digit by digit as it came"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "line 2 is not JSON: Expecting property name enclosed in double quotes at column 2"),
        (b"", "line 2 is not JSON: the line is empty"),
        (b"NaN", "line 2 is not JSON that can be read: NaN is not in the JSON standard"),
        (b"1 2", "line 2 is not JSON: Extra data at column 3"),
    ],
)
def test_a_line_that_is_not_json_fails_alone(in_process: Run, line: bytes, message: str) -> None:
    result = in_process("map", "work.py:same", "--json", stdin=b"1\n" + line + b"\n3\n")
    assert result.code == 1
    failed = [record for record in result.records if "error" in record]
    assert failed == [
        {"input": line.decode(), "error": {"type": "ValueError", "message": failed[0]["error"]["message"]}}
    ]
    assert failed[0]["error"]["message"].startswith(message)
    assert sorted(record["value"] for record in result.records if "value" in record) == [1, 3]


def test_deeply_nested_json_fails_alone(in_process: Run) -> None:
    result = in_process("map", "work.py:same", "--json", stdin=b"[" * 100_000 + b"\n1\n")
    assert result.code == 1
    assert {"input": 1, "value": 1} in result.records


@pytest.mark.parametrize(("function", "kind"), [("returns_a_set", "TypeError"), ("nan", "ValueError")])
def test_a_value_without_a_json_form_is_an_error_that_says_what_to_return(
    in_process: Run, function: str, kind: str
) -> None:
    result = in_process("map", f"work.py:{function}", stdin=b"a\n")
    assert result.code == 1
    error = result.records[0]["error"]
    assert error["type"] == kind
    assert "has no JSON form" in error["message"]
    assert "return None, booleans" in error["message"]


def test_also_system_exit_is_one_inputs_error(in_process: Run) -> None:
    result = in_process("map", "work.py:raises_base", stdin=b"7\n")
    assert result.code == 1
    assert result.records == [{"input": "7", "error": {"type": "SystemExit", "message": "7"}}]


def test_error_types_carry_their_module(in_process: Run, functions: Path) -> None:
    functions.write_text("class Bad(Exception):\n    def __str__(self): raise OSError\ndef f(text): raise Bad\n")
    error = in_process("map", "work.py:f", stdin=b"a\n").records[0]["error"]
    assert error == {"type": "work.Bad", "message": "(its message cannot be shown: OSError)"}


def test_out_file(in_process: Run, functions: Path) -> None:
    out = functions.parent / "out.jsonl"
    out.write_text("old and much longer than what comes now" * 10)
    result = in_process("map", "work.py:upper", "--out", "out.jsonl", stdin=b"a\n")
    assert (result.code, result.out) == (0, "")
    assert out.read_text() == '{"input": "a", "value": "A"}\n'


def test_max_in_flight_bounds_the_calls_at_once(
    in_process: Run, functions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    functions.write_text(
        "import threading\n"
        "met = threading.Barrier(3)\n"
        "now = most = 0\n"
        "lock = threading.Lock()\n"
        "def f(text):\n"
        "    global now, most\n"
        "    with lock:\n"
        "        now += 1; most = max(now, most)\n"
        "    met.wait(30)\n"
        "    with lock:\n"
        "        now -= 1\n"
        "    return most\n"
    )
    result = in_process("map", "work.py:f", "--max-in-flight", "3", stdin=b"x\n" * 12)
    assert result.code == 0
    assert {record["value"] for record in result.records} == {3}


def test_no_descriptor_stays_open(in_process: Run) -> None:
    in_process("map", "work.py:upper", stdin=b"a\n")
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    in_process("map", "work.py:upper", "--out", "o", stdin=b"a\n")
    in_process("map", "work.py:nothing", stdin=b"a\n")
    assert (len(os.listdir("/proc/self/fd")) if before else 0) == before
