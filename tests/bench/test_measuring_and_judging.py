"""The benchmarks run, add up and judge rightly. How fast anything is, is not asserted: that is what they measure."""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rimstone.bench.iomodels.servers import OTHERS

ROOT = Path(__file__).parents[2]


RIVALS = ROOT / "src/rimstone/bench/rivals"
LOAD = RIVALS.parent / "load.c"


@pytest.fixture
def bench() -> Any:
    """The modules of rimstone.bench, by name."""
    names = ("compiled", "instructions", "machine", "measure", "plot", "processes", "registry", "report", "syscalls")
    return SimpleNamespace(**{name: importlib.import_module("rimstone.bench." + name) for name in names})


@pytest.fixture
def compiler(bench: Any) -> None:
    try:
        bench.compiled.compiled(LOAD)
    except bench.processes.Skipped as reason:
        pytest.skip(str(reason))


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "rimstone.bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_list_shows_every_row_and_measures_nothing(bench: Any) -> None:
    done = run("--list")
    assert (done.returncode, done.stderr) == (0, "The servers of io-models: io-models --list\n")
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        *(row.name for row in bench.registry.ROWS),
        "io-models",
    ]


@pytest.mark.slow
def test_an_unknown_name_gets_one_line_with_the_groups() -> None:
    done = run("uper")
    assert (done.returncode, done.stdout) == (2, "")
    assert "'uper' is no benchmark" in done.stderr
    assert "upper, many, switch, spawn, memory, file, instructions, million" in done.stderr


@pytest.mark.slow
def test_a_run_writes_all_three_files(compiler: None, tmp_path: Path) -> None:
    done = run("upper-timeout", "--rounds", "2", "--seconds", "0.1", "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "upper-timeout" in done.stdout
    files = {path.suffix: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert set(files) == {".json", ".md", ".svg"}
    written = json.loads(files[".json"])
    assert {"machine", "kernel", "python", "core", "io_model", "commit", "date", "versions"} <= set(written)
    assert [row["name"] for row in written["rows"]] == ["upper-timeout"]
    assert written["rows"][0]["figure"] > 0
    assert [len(each["rounds"]) for each in written["measurements"]] == [2, 2]
    assert "| upper-timeout " in files[".md"]
    ET.fromstring(files[".svg"])


# -- the registry ------------------------------------------------------------------------------------------------------


def test_names_are_unique_and_programs_exist(bench: Any) -> None:
    rows = bench.registry.ROWS
    assert len({row.name for row in rows}) == len(rows)
    measurements = bench.registry.measurements_of(rows)
    assert len({each.name for each in measurements}) == len(measurements)
    assert [each.file for each in measurements if not (RIVALS / each.file).exists()] == []
    used = {each.file for each in [*measurements, *OTHERS]} | {"phases.c"}
    assert {path.name for path in RIVALS.iterdir() if path.suffix in {".py", ".c"}} == used


def test_an_aim_is_never_easier_than_the_must(bench: Any) -> None:
    for row in bench.registry.ROWS:
        if row.must is not None and isinstance(row.aim, float):
            assert row.aim < row.must if row.at_most else row.aim > row.must


def test_groups_and_rows_are_chosen_by_name(bench: Any) -> None:
    names = [row.name for row in bench.registry.select(["switch", "upper-c"])]
    assert names == ["upper-c", "switch-asyncio", "switch-gevent", "switch-uvloop"]
    assert "million-bytes" not in [row.name for row in bench.registry.select([])]
    assert [row.name for row in bench.registry.select(["million"])] == ["million-bytes"]


def test_what_several_rows_need_is_measured_once(bench: Any) -> None:
    names = [each.name for each in bench.registry.measurements_of(bench.registry.select(["upper-c", "many-5000"]))]
    assert names == ["upper rimstone 500", "upper c 500", "upper rimstone 5000", "upper c 5000"]


# -- rounds ------------------------------------------------------------------------------------------------------------


def test_rounds_are_interleaved_and_begin_with_another_program(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = (bench.registry.server(name, "none.py") for name in "ab")
    once = replace(bench.registry.server("c", "none.py"), most_rounds=1)
    order: list[str] = []
    monkeypatch.setattr(bench.measure, "measure", lambda measurement, _: {"value": order.append(measurement.name[6])})
    found = bench.measure.run_rounds([a, b, once], 3, 1.0, lambda *_: None)
    assert "".join(order) == "abc" + "ba" + "ab"
    assert [len(rounds) for rounds in found.values()] == [3, 3, 1]


def test_what_cannot_be_measured_says_why(bench: Any) -> None:
    def outcome(**changes: Any) -> dict[str, Any]:
        return dict(bench.measure.measure(replace(bench.registry.server("x", "upper_gevent.py"), **changes), 0.1))

    missing = outcome(needs="no_such_module")
    assert missing == {"skipped": "no_such_module is not installed (./dev bench installs it)"}
    many = outcome(connections=10**9)
    assert "needs 1,000,000,100 descriptors" in many.get("skipped", "") or "infinity" in str(many)


@pytest.mark.slow
def test_a_server_that_dies_is_a_failure_with_its_last_words(
    bench: Any, compiler: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "dying.py").write_text("import sys; sys.exit('no port today')")
    monkeypatch.setattr(bench.measure, "command_of", lambda _: [sys.executable, str(tmp_path / "dying.py")])
    result = bench.measure.measure(bench.registry.server("x", "dying.py", 5), 0.1)
    assert result["failed"].startswith("python")
    assert result["failed"].endswith("ended: no port today")


@pytest.mark.slow
def test_programs_die_with_the_one_that_started_them() -> None:
    code = """
import os, signal, sys
from rimstone.bench.processes import started
with started([sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(100)"], 0) as program:
    print(program.line(30), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    cpu = min(os.sched_getaffinity(0))
    done = subprocess.run(
        [sys.executable, "-c", code.replace("], 0)", f"], {cpu})")],
        cwd=ROOT,
        capture_output=True,  # the program holds stderr's file, not this pipe; stdout's end is its own
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    pidfd = None
    try:
        pidfd = os.pidfd_open(int(done.stdout))
    except ProcessLookupError:
        return
    try:
        import select

        assert select.select([pidfd], [], [], 30)[0], "it has outlived its starter"
    finally:
        os.close(pidfd)


# -- the load generator ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "file",
    [
        "upper_rimstone.py",
        "upper_rimstone_blocking.py",
        "upper_rimstone_timeout.py",
        "upper_asyncio_streams.py",
        "upper_threads.py",
        "upper_c.c",
        "upper_c_threads.c",
        "upper_c_uring.c",
    ],
)
def test_servers_answer_without_an_error(bench: Any, compiler: None, file: str) -> None:
    result = bench.measure.measure(bench.registry.server("x", file, 5), 0.3)
    if "io_uring is not to be had" in result.get("failed", ""):
        pytest.skip(result["failed"])
    assert "failed" not in result, result
    assert (result["errors"], result["unanswered"]) == (0, 0)
    assert result["messages"] > 0
    assert result["fewest_a_connection"] > 0


WRONG_SERVERS = {
    "does not convert": "conn.send(data)",
    "sends too much": "conn.send(data.upper() + b'X')",
    "repeats the first": "conn.send(first)",
    "closes": "conn.close(); break",
}


@pytest.mark.slow
@pytest.mark.parametrize("answer", WRONG_SERVERS.values(), ids=WRONG_SERVERS)
def test_wrong_answers_are_found(bench: Any, compiler: None, tmp_path: Path, answer: str) -> None:
    server = tmp_path / "wrong.py"
    server.write_text(f"""
import socket, threading
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
def talk(conn):
    first = None
    while data := conn.recv(1024):
        first = first or data.upper()
        {answer}
while True:
    threading.Thread(target=talk, args=(server.accept()[0],), daemon=True).start()
""")
    load = str(bench.compiled.compiled(LOAD))
    with bench.processes.started([sys.executable, str(server)], bench.processes.cpus()[0]) as program:
        command = [load, program.line(30), "3", "32", "0", "0.2"]
        # An error in the very first answers ends it; a later one is counted.
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode == 0:
        assert json.loads(done.stdout)["errors"] > 0
    else:
        assert "first answers were wrong" in done.stderr


@pytest.mark.slow
def test_a_fixed_number_of_messages_and_idle_connections(bench: Any, compiler: None) -> None:
    server, load = (str(bench.compiled.compiled(file)) for file in (RIVALS / "upper_c.c", LOAD))
    cpu, other = bench.processes.cpus()
    with bench.processes.started([server, "0"], cpu) as program:
        command = [load, program.line(30), "50", "2000", "0", "0", "--active", "5", "--messages", "1003"]
        found = json.loads(bench.processes.output_of(command, other, 60))
    assert (found["messages"], found["errors"], found["unanswered"]) == (1003, 0, 0)
    assert found["fewest_a_connection"] > 0


@pytest.mark.slow
def test_in_lockstep_every_message_is_sent_and_answered(bench: Any, compiler: None) -> None:
    server, load = (str(bench.compiled.compiled(file)) for file in (RIVALS / "upper_c.c", LOAD))
    cpu, other = bench.processes.cpus()
    with bench.processes.started([server, "0"], cpu) as program:
        port = program.line(30)
        command = [load, port, "10", "32", "0", "0", "--messages", "25", "--lockstep", "--pid", str(program.pid)]
        found = json.loads(bench.processes.output_of(command, other, 60))
    assert (found["messages"], found["errors"], found["unanswered"]) == (25, 0, 0)
    assert (found["fewest_a_connection"], found["most_a_connection"]) == (2, 3)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_instructions_are_counted(bench: Any, compiler: None) -> None:
    load, server = (str(bench.compiled.compiled(file)) for file in (LOAD, RIVALS / "upper_c.c"))
    found = bench.instructions.instructions_per_message("test", [server, "0"], {}, load, 10)
    assert found["tool"] == "callgrind"
    assert found["value"] > 32  # it has upper-cased as many bytes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "library", "size", "key"),
    [
        ("switch", "rimstone", "3", "ns_per_switch"),
        ("switch", "asyncio", "3", "ns_per_switch"),
        ("spawn", "rimstone", "50", "ns_per_task"),
        ("spawn", "asyncio", "50", "ns_per_task"),
        ("memory", "rimstone", "50", "bytes_per_task"),
        ("memory", "asyncio", "50", "bytes_per_task"),
        ("memory", "greenlet", "50", "bytes_per_task"),
    ],
)
def test_task_programs_print_their_value(program: str, library: str, size: str, key: str) -> None:
    command = [sys.executable, str(RIVALS / f"{program}.py"), library, size]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert key in json.loads(done.stdout)


@pytest.mark.slow
def test_the_million_in_small() -> None:
    command = [sys.executable, str(RIVALS / "million.py"), "500"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    found = json.loads(done.stdout)
    assert (found["tasks"], found["problems"]) == (500, [])


# -- the report --------------------------------------------------------------------------------------------------------

ORIGIN = {
    "date": "2030-01-02T03:04:05+00:00",
    "machine": {"cpu_model": "Abacus <1>", "cpus": 2},
    "kernel": "Linux 9",
    "python": "3.11.7",
    "core": "compiled",
    "core_is_stale": False,
    "pure_core": "pure",
    "rimstone_from": str(ROOT / "src/rimstone"),
    "versions": {"gevent": None},
    "commit": "0123456789abcdef",
    "commit_is_modified": True,
}


def rounds(*values: float, **more: Any) -> list[dict[str, Any]]:
    return [
        {"value": value, "value_by_cpu": 2 * value, "wall_seconds": 1.0, "cpu_seconds": 1.0, **more} for value in values
    ]


def row_of(bench: Any, **changes: Any) -> Any:
    server = bench.registry.server
    row = bench.registry.Row("g-row", "what", server("own", "a.py"), server("rival", "b.py"), 0.9, 1.1)
    return replace(row, **changes)


def find(bench: Any, row: Any, own: Any, rival: Any) -> Any:
    return bench.report.find([row], {"upper own 500": own, "upper rival 500": rival})[0]


@pytest.mark.parametrize(
    ("at_most", "figure", "expected"),
    [
        (False, 1.2, "aim"),
        (False, 1.1, "aim"),
        (False, 1.0, "must"),
        (False, 0.9, "must"),
        (False, 0.89, "MISSED"),
        (True, 0.4, "aim"),
        (True, 0.5, "must"),
        (True, 0.75, "must"),
        (True, 0.76, "MISSED"),
        (True, None, "-"),
    ],
)
def test_verdicts(bench: Any, at_most: bool, figure: float | None, expected: str) -> None:
    must, aim = (0.75, 0.4) if at_most else (0.9, 1.1)
    row = row_of(bench, must=must, aim=aim, at_most=at_most)
    assert bench.report.verdict(row, figure, aim) == expected


def test_a_limit_has_to_hold_by_cpu_too(bench: Any) -> None:
    verdict, row = bench.report.verdict, row_of(bench)
    assert [verdict(row, 1.2, 1.1, by_cpu) for by_cpu in (1.2, 1.0, 0.5)] == ["aim", "must", "MISSED"]
    assert verdict(row, 0.5, 1.1, 1.2) == "MISSED"
    less = row_of(bench, must=0.75, aim=0.4, at_most=True)
    assert [verdict(less, 0.3, 0.4, by_cpu) for by_cpu in (0.3, 0.5, 0.8)] == ["aim", "must", "MISSED"]


def test_without_limits_there_is_no_verdict(bench: Any) -> None:
    row = row_of(bench, must=None, aim=None)
    assert bench.report.verdict(row, 5.0, None) == "-"
    assert bench.report.verdict(row_of(bench, aim=None), 5.0, None) == "must"


def test_a_ratio_is_formed_within_each_round(bench: Any) -> None:
    """The machine was ten times slower in the last two rounds: the ratio of the medians would be 10."""
    found = find(bench, row_of(bench), rounds(100, 10, 100), rounds(100, 10, 10))
    assert (found.figure, found.figure_by_cpu, found.verdict) == (1.0, 1.0, "must")


def test_without_a_rival_the_value_is_the_figure(bench: Any) -> None:
    found = find(bench, row_of(bench, rival=None, must=14.0, at_most=True, aim=None), rounds(6, 8, 7), [])
    assert (found.figure, found.verdict) == (7.0, "must")


def test_an_aim_can_be_measured(bench: Any) -> None:
    row = row_of(bench, rival=None, must=1.0)
    row = replace(row, aim=bench.registry.Pair(row.own, bench.registry.server("rival", "b.py")))
    found = find(bench, row, rounds(3, 3), rounds(2, 2))
    assert (found.aim, found.verdict) == (1.5, "aim")


@pytest.mark.parametrize("outcome", ["skipped", "failed"])
def test_a_measurement_that_failed_once_gives_no_figure(bench: Any, outcome: str) -> None:
    found = find(bench, row_of(bench), rounds(1, 1), [*rounds(1), {outcome: "no luck"}])
    assert (found.figure, found.verdict) == (None, "-")
    assert found.reason == f"{outcome}: upper rival 500: no luck"
    assert "no luck" in bench.report.notes(ORIGIN, [found], [], {})[0]


def test_notes_say_what_makes_figures_doubtful(bench: Any) -> None:
    own = bench.registry.server("own", "a.py")

    def notes(each: dict[str, Any], **origin: Any) -> str:
        results = {own.name: [{**rounds(1)[0], **each}]}
        return "\n".join(bench.report.notes({**ORIGIN, **origin}, [], [own], results))

    assert notes({"others": 0.01}) == ""
    assert "other programs used 40% of the CPUs" in notes({"others": 0.4})
    assert "did not keep their CPU busy" in notes({"cpu_seconds": 0.5})
    assert "the pure one" in notes({}, core="pure")
    assert "older than its source" in notes({}, core_is_stale=True)
    assert "imported from /elsewhere" in notes({}, rimstone_from="/elsewhere")


def test_tables_are_markdown_with_a_line_for_each(bench: Any) -> None:
    row = row_of(bench)
    found = find(bench, row, rounds(41234.4), rounds(20617.2))
    assert bench.report.row_table([found]).splitlines() == [
        "| name  | what | ratio | by CPU |    must |     aim | holds |",
        "|-------|------|------:|-------:|--------:|--------:|-------|",
        "| g-row | what |  2.00 |   2.00 | >= 0.90 | >= 1.10 | aim   |",
    ]
    table = bench.report.measurement_table([row.own, row.rival], {row.own.name: rounds(41234.4, p50_us=7)}).splitlines()
    assert len({len(line) for line in table}) == 1
    assert "41,234" in table[2]
    assert [cell.strip() for cell in table[3].split("|")][1:5] == ["upper rival 500", "-", "messages/s", "-"]


def test_files_are_named_after_date_and_python(bench: Any, tmp_path: Path) -> None:
    row = row_of(bench)
    results = {row.own.name: rounds(2, 4), row.rival.name: rounds(1, 1)}
    findings = bench.report.find([row], results)
    paths = bench.report.write(tmp_path / "new", ORIGIN, findings, [row.own, row.rival], results)
    assert [path.name for path in paths] == ["20300102T030405-3.11" + ending for ending in (".json", ".md", ".svg")]
    written = json.loads(paths[0].read_text(encoding="utf-8"))
    assert written["measurements"][0]["rounds"] == results[row.own.name]
    assert (written["rows"][0]["figure"], written["rows"][0]["holds"]) == (3.0, "aim")
    assert "commit 0123456789 (modified)" in paths[1].read_text(encoding="utf-8")


def test_the_plot_has_a_bar_for_each_measurement_with_a_value(bench: Any) -> None:
    row = row_of(bench)
    document = bench.plot.plot([row.own, row.rival], {row.own.name: rounds(2, 4)}, "an <odd> caption")
    root = ET.fromstring(document)
    kinds = [element.tag.rpartition("}")[2] for element in root]
    assert kinds.count("rect") == 2  # the background, and one bar
    texts = [element.text for element in root if element.tag.endswith("text")]
    assert texts == ["upper, messages/s", "own 500", "3", "an <odd> caption"]
    ET.fromstring(bench.plot.plot([], {}, ""))
