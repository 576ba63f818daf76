"""The comparison of the IO models finds them, plans, counts, judges and draws. How fast any is, is not asserted."""

import json
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from rimstone import iomodel
from rimstone.bench import compiled, counting, measure, processes, syscalls
from rimstone.bench import turns as bench_turns
from rimstone.bench.__main__ import main as bench_main
from rimstone.bench.iomodels import chart, claims, plan, servers, tables
from rimstone.bench.iomodels.figures import Figures
from rimstone.bench.iomodels.limits import LIMITS
from rimstone.bench.iomodels.plan import FULL, MANY, MANY_ACTIVE, PHASES, QUICK, calls_of, cell, phase, turns
from rimstone.bench.registry import Measurement

RIVALS = Path(compiled.__file__).parent / "rivals"


@pytest.fixture
def compiler() -> None:
    try:
        compiled.compiled(RIVALS.parent / "load.c")
    except processes.Skipped as reason:
        pytest.skip(str(reason))


def rounds(*values: float, **more: float) -> list[dict[str, float]]:
    return [{"value": value, **more} for value in values]


# -- which servers, with how many connections --------------------------------------------------------------------------


def test_every_io_model_is_found_and_an_unavailable_one_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iomodel, "available", lambda: {"epoll": None, "telepathy": "nobody listens"})
    found = {server.name: server for server in servers.servers()}
    assert found["epoll"].unavailable is None
    assert (found["telepathy"].unavailable, found["telepathy"].family) == ("nobody listens", "other")
    assert dict(found["telepathy"].environment)["RIMSTONE_IO_MODEL"] == "telepathy"
    planned = plan.measurements(found.values(), QUICK, 1)
    results = {each.name: [measure.measure(each, 0.1)] for each in planned if each.name.startswith("telepathy ")}
    assert list(results.values()) == [[{"skipped": "nobody listens"}]] * len(results)
    owners = dict.fromkeys(results, "telepathy")
    assert tables.reasons(planned, Figures(results), owners) == ["telepathy: skipped: nobody listens"]


def test_nonblocking_is_also_measured_without_its_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iomodel, "available", lambda: {"nonblocking": None})
    (spinning,) = servers.choose([servers.SPINNING])
    assert dict(spinning.environment) == {"RIMSTONE_IO_MODEL": "nonblocking", "RIMSTONE_BACKOFF_MS": "0"}
    monkeypatch.setattr(iomodel, "available", lambda: {"epoll": None})
    with pytest.raises(ValueError, match="is no server"):
        servers.choose([servers.SPINNING])


def test_models_of_this_machine_are_there() -> None:
    names = [server.name for server in servers.servers()]
    assert {*iomodel.available(), "rimstone-blocking"} <= set(names)
    assert len(names) == len(set(names))


def test_an_unknown_server_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"'epol' is no server; use some of .*c-uring"):
        servers.choose(["epol"])
    assert [server.name for server in servers.choose(["c-epoll", "c-uring"])] == ["c-epoll", "c-uring"]


@pytest.mark.parametrize("amount", [FULL, QUICK])
def test_names_are_unique_and_limits_and_claims_refer_to_what_is_planned(amount: plan.Plan) -> None:
    found = [servers._rimstone(name, None) for name in servers.FAMILIES]
    names = [each.name for each in plan.measurements([*found, *servers.OTHERS], amount, 1)]
    assert len(names) == len(set(names))
    for row in LIMITS:
        assert {each.name for each in (row.own, row.rival) if each is not None} <= set(names), row.name
    assert {turns("c-epoll", "c-threads"), cell("c-epoll", 500), cell("c-threads", 500)} <= set(names)
    for connections in (1, 500):
        assert {calls_of("c-uring", connections), calls_of("c-epoll", connections)} <= set(names)
    assert {cell("one-at-a-time", 10), cell("poll", 5000, 500), cell("epoll", MANY, MANY_ACTIVE)} <= set(names)


def test_the_estimate_leaves_out_what_cannot_be_had() -> None:
    works, fails = servers._rimstone("epoll", None), servers._rimstone("uring", "no ring")
    some, more = (plan.measurements(each, FULL, 1) for each in ([works], [works, fails]))
    assert plan.estimated_seconds(some, 3, 1.0) == plan.estimated_seconds(more, 3, 1.0) > 0


# -- programs ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("family", PHASES)
def test_the_two_phases_are_timed_for_each_family(compiler: None, family: str) -> None:
    program = str(compiled.compiled(RIVALS / "phases.c"))
    cpu, other = processes.cpus()
    found = json.loads(processes.output_of([program, family, str(other), "20", "200", "4096"], cpu, 60))
    if "skipped" in found:
        pytest.skip(found["skipped"])
    assert found["copy_us"] > 0
    assert found["copy_calls"] == (family not in {"blocking", "uring"})
    expected = {"blocking": 1, "uring": 1, "select": 2, "poll": 2, "epoll": 2}
    assert found["calls"] == expected.get(family, found["calls"]) >= 1


@pytest.mark.slow
def test_a_server_without_threads_answers_one_client_of_several(compiler: None) -> None:
    server = Measurement("x", "upper_blocking.py", "", "server", connections=4, patience_seconds=0.3)
    found = measure.measure(server, 0.1)
    assert found.get("answered") == 1, found
    assert found["value"] > 0


@pytest.mark.slow
def test_silence_memory_and_idle_connections_are_measured(compiler: None) -> None:
    server = Measurement("x", "upper_c.c", "", "server", connections=50, active=5, hold_seconds=0.05)
    found = measure.measure(server, 0.1)
    assert {"idle_cpu_share", "bytes_a_connection", "mean_us", "p99_us", "value_by_cpu"} <= set(found), found
    assert found["answered"] == 50


@pytest.mark.slow
def test_the_round_trips_of_two_servers_are_compared_in_turns(compiler: None) -> None:
    planned = plan.measurements(servers.choose(["c-threads", "c-epoll"]), QUICK, 1)
    (measurement,) = (each for each in planned if each.how == "turns")
    found = measure.measure(measurement, 0.2)
    assert found["value"] > 0, found
    assert min(found[key] for key in ("cpu_ratio", "own_us", "rival_us")) > 0


@pytest.mark.slow
def test_of_two_servers_in_turns_each_must_answer(compiler: None, tmp_path: Path) -> None:
    dies = tmp_path / "dies.py"
    dies.write_text(
        "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True);"
        "s.accept(); sys.exit('no more')"
    )
    load, works = str(compiled.compiled(RIVALS.parent / "load.c")), [str(compiled.compiled(RIVALS / "upper_c.c")), "0"]
    with pytest.raises(processes.Failed, match="no more"):
        bench_turns.round_trip_in_turns((works, {}), ([sys.executable, str(dies)], {}), load, 0.2)


@pytest.mark.slow
def test_io_uring_also_serves_in_plain_mode(compiler: None) -> None:
    server = Measurement("x", "upper_c_uring.c", "", "server", connections=5, arguments=("plain",))
    found = measure.measure(server, 0.1)
    if "io_uring is not to be had" in found.get("failed", ""):
        pytest.skip(found["failed"])
    assert (found["errors"], found["unanswered"]) == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["perf", "strace"])
def test_system_calls_are_counted_exactly(compiler: None, monkeypatch: pytest.MonkeyPatch, tool: str) -> None:
    if tool == "strace":
        if shutil.which("strace") is None:
            pytest.skip("strace is not installed")
        monkeypatch.setattr(syscalls, "_tool", lambda: ("strace", ()))
    found = measure.measure(Measurement("x", "upper_c.c", "", "syscalls", connections=1), 0.1)
    if "skipped" in found or found.get("tool", tool) != tool:
        pytest.skip(found.get("skipped", "perf cannot count here"))
    if tool == "strace" and "failed" in found:
        pytest.skip(found["failed"])  # a container may forbid to trace
    assert found["value"] == pytest.approx(3, abs=0.01)  # epoll_wait, recv, send
    assert found["by_name"].get("sendto", 1.0) == pytest.approx(1, abs=0.01)


@pytest.mark.slow
def test_a_server_under_a_tool_does_not_outlive_a_failure(tmp_path: Path) -> None:
    tool = [sys.executable, "-c", "import subprocess, sys; subprocess.run(sys.argv[1:])"]
    program = (
        "import os, sys, time; print(7, flush=True); open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"
    )
    load = tmp_path / "load"
    load.write_text(
        f"#!/bin/sh\nuntil [ -s '{tmp_path}/pid' ]; do sleep 0.01; done\necho 'load: no luck' >&2; exit 1\n"
    )
    load.chmod(0o755)
    began = time.monotonic()
    with pytest.raises(processes.Failed, match="no luck"):
        counting.run_counted(tool, [sys.executable, "-c", program, str(tmp_path / "pid")], {}, str(load), 1, 1)
    assert time.monotonic() - began < 45, "it was waited for: it holds the pipe on which it has printed its port"


def test_both_tools_output_is_understood(tmp_path: Path) -> None:
    output = tmp_path / "count"
    output.write_text(
        "% time     seconds  usecs/call     calls    errors syscall\n"
        "------ ----------- ----------- --------- --------- ----------------\n"
        " 60.00    0.000300           1       300        20 recvfrom\n"
        " 40.00    0.000200                   200           sendto\n"
        "------ ----------- ----------- --------- --------- ----------------\n"
        "100.00    0.000500           1       500        20 total\n"
    )
    assert syscalls._counts_in("strace", output) == {"recvfrom": 300, "sendto": 200, "total": 500}
    output.write_text(
        "# started\n\n29,,raw_syscalls:sys_enter,569369,100.00,,\n7,,syscalls:sys_enter_read,1,100.00,,\n"
    )
    assert syscalls._counts_in("perf", output) == {"total": 29, "read": 7}
    output.write_text("nothing")
    with pytest.raises(processes.Failed, match="perf has counted nothing: nothing"):
        syscalls._counts_in("perf", output)


def test_programs_are_compiled_into_a_cache_that_can_be_written(
    compiler: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    compiled.build_folder.cache_clear()
    try:
        (tmp_path / "a.h").write_text("#define RESULT 3\n")
        (tmp_path / "a.c").write_text('#include "a.h"\nint main(void) { return RESULT; }\n')
        first = compiled.compiled(tmp_path / "a.c")
        assert first.parent == tmp_path / "cache/rimstone/bench"
        assert subprocess.run([first], check=False).returncode == 3
        assert compiled.compiled(tmp_path / "a.c") == first
        (tmp_path / "a.h").write_text("#define RESULT 4\n")
        assert subprocess.run([compiled.compiled(tmp_path / "a.c")], check=False).returncode == 4
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a.h" / "no folder"))
        compiled.build_folder.cache_clear()
        assert not compiled.build_folder().is_relative_to(tmp_path / "a.h")
        assert os.access(compiled.build_folder(), os.W_OK)
    finally:
        compiled.build_folder.cache_clear()


# -- judging -----------------------------------------------------------------------------------------------------------


def phases_as_taught() -> dict[str, Any]:
    """Waiting takes long and, but for one family, no CPU; copying takes a moment."""
    return {
        phase(family): rounds(
            1000,
            wait_us=1000,
            wait_cpu_share=1.0 if family == "nonblocking" else 0.01,
            copy_us=5,
            calls=2,
            copy_calls=1,
        )
        for family in PHASES
    }


TAUGHT: dict[str, Any] = {
    **phases_as_taught(),
    cell("one-at-a-time", 1): rounds(9000),
    cell("one-at-a-time", 10): rounds(9000, answered=1),
    turns("c-epoll", "c-threads"): rounds(1.1, own_us=55, rival_us=50, cpu_ratio=1.2),
    calls_of("c-epoll", 1): rounds(3),
    calls_of("c-threads", 1): rounds(2),
    cell("c-epoll", 500): rounds(200),
    cell("c-threads", 500): rounds(100),
    cell("select", 500): rounds(50),
    cell("select", 5000): [{"failed": "descriptor 1024 is too large"}],
    cell("poll", 500): rounds(100),
    cell("poll", 5000, 500): rounds(40),
    cell("epoll", 500): rounds(100),
    cell("epoll", 5000, 500): rounds(80),
    cell("c-epoll", 5000, 500): rounds(199),
    calls_of("c-uring", 500): rounds(0.1),
    calls_of("c-epoll", 500): rounds(2.1),
    cell("epoll", MANY, MANY_ACTIVE): rounds(100, p99_us=30, bytes_a_connection=7168),
    cell("epoll", MANY_ACTIVE): rounds(100, p99_us=20),
}


def verdicts(**changed: Any) -> list[str]:
    return [claim.verdict for claim in claims.judged(Figures({**TAUGHT, **changed}))]


def test_claims_hold_for_figures_as_they_are_taught() -> None:
    assert verdicts() == ["held"] * len(claims.CLAIMS)


def test_claims_say_that_nothing_was_measured() -> None:
    assert {claim.verdict for claim in claims.judged(Figures({}))} == {"not measured"}


@pytest.mark.parametrize(
    ("number", "name", "found"),
    [
        (0, cell("one-at-a-time", 10), rounds(9000, answered=10)),
        (1, phase("select"), rounds(1, wait_us=1000, wait_cpu_share=0.5, copy_us=5, calls=2, copy_calls=1)),
        (1, phase("poll"), rounds(1, wait_us=1000, wait_cpu_share=0.0, copy_us=2000, calls=2, copy_calls=1)),
        (2, phase("nonblocking"), rounds(1, wait_us=1000, wait_cpu_share=0.5, copy_us=5, calls=9, copy_calls=1)),
        (3, turns("c-epoll", "c-threads"), rounds(0.9, own_us=45, rival_us=50, cpu_ratio=1.2)),
        (3, calls_of("c-epoll", 1), rounds(2)),
        (4, cell("c-epoll", 500), rounds(99)),
        (5, cell("select", 5000), rounds(50)),
        (6, cell("poll", 5000, 500), rounds(99)),
        (6, cell("epoll", 5000, 500), rounds(39)),
        (6, cell("c-epoll", 5000, 500), rounds(150)),
        (7, calls_of("c-uring", 500), rounds(2.2)),
        (8, cell("epoll", MANY, MANY_ACTIVE), rounds(100, p99_us=41)),
    ],
)
def test_each_claim_can_be_refuted(number: int, name: str, found: Any) -> None:
    assert verdicts(**{name: found})[number] == "refuted"


def test_a_skipped_model_leaves_its_claim_open_with_the_reason() -> None:
    skipped = [{"skipped": "no poll here"}]
    found = list(claims.judged(Figures({**TAUGHT, cell("poll", 5000, 500): skipped, cell("poll", 500): skipped})))
    assert found[6].verdict == "not measured"
    assert "epoll keeps 80%" in str(found[6])


def test_figures_are_medians_and_ratios_within_rounds() -> None:
    figures = Figures({"a": rounds(100, 10, 30), "b": rounds(50, 5, 60), "c": [*rounds(1), {"failed": "no luck"}]})
    assert (figures.median("a", "value"), figures.ratio("a", "b")) == (30, 2.0)
    assert (figures.median("c", "value"), figures.ratio("a", "c")) == (None, None)
    assert figures.why_missing("c") == "failed: no luck"


# -- what is written ---------------------------------------------------------------------------------------------------


def test_the_plot_has_a_panel_for_each_group_and_names_each_line() -> None:
    found = [*servers.choose(["epoll"]), *servers.OTHERS]
    results = {
        cell(server.name, connections): rounds(connections * 10, idle_cpu_share=0.5, bytes_a_connection=-3)
        for server in found
        for connections in (1, 500, 5000)
    }
    root = ET.fromstring(chart.draw(found, Figures(results), "an <odd> caption"))
    texts = [element.text for element in root if element.tag.endswith("text")]
    assert [text for text in texts if text and "all active" in text] == [
        f"{group}: messages/s, all active" for group in chart.GROUPS
    ]
    assert {server.name for server in found} <= set(texts)
    assert "an <odd> caption" in texts
    assert not any("one in ten" in str(text) for text in texts), "no value, no panel"
    ET.fromstring(chart.draw([], Figures({}), ""))


def test_the_table_has_what_was_measured_and_no_more() -> None:
    found = [server for server in servers.OTHERS if server.name in {"c-epoll", "gevent"}]
    results = {cell("c-epoll", 500): rounds(1000, value_by_cpu=2000, p99_us=7, bytes_a_connection=4, idle_cpu_share=0)}
    table = tables.cell_table(found, Figures(results), [(1, 1), (500, 500)]).splitlines()
    assert len(table) == 3
    cells = [each.strip() for each in table[2].split("|")]
    assert cells[1:7] == ["c-epoll", "C", "500", "500", "1,000", "500"]
    assert "gevent" not in tables.rate_table(found, Figures(results), [(500, 500)])


# -- the command line --------------------------------------------------------------------------------------------------


def run(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "rimstone", "bench", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=110)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("io-models", "upper"), "'io-models' is a run of its own"),
        (("upper", "--quick"), "--quick and --servers are for 'io-models'"),
        (("io-models", "--servers", "epol"), "'epol' is no server"),
        (("io-models", "--list", "--servers", "epol"), "'epol' is no server"),
    ],
)
def test_mistakes_get_one_line(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
    assert told in done.stderr


@pytest.mark.parametrize(
    ("option", "given", "allowed"),
    [
        ("--rounds", "0", "use a whole number, 1 or more"),
        ("--rounds", "x", "use a whole number, 1 or more"),
        ("--seconds", "-1", "use a number of seconds above 0"),
        ("--seconds", "nan", "use a number of seconds above 0"),
        ("--seconds", "x", "use a number of seconds above 0"),
    ],
)
def test_a_wrong_number_is_told_with_what_is_allowed(
    capsys: pytest.CaptureFixture[str], option: str, given: str, allowed: str
) -> None:
    with pytest.raises(SystemExit) as leaving:
        bench_main([f"{option}={given}"])
    assert leaving.value.code == 2
    said = capsys.readouterr().err
    assert f"argument {option}: {given!r} is no " in said
    assert allowed in said


def test_the_list_names_every_server_and_what_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(iomodel, "available", lambda: {"epoll": None, "telepathy": "nobody listens"})
    monkeypatch.setattr(servers, "core", lambda: "pure")
    assert bench_main(["io-models", "--list"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert list(lines) == ["epoll", "telepathy", *(server.name for server in servers.OTHERS)]
    assert lines["telepathy"].endswith("(not here: nobody listens)")
    assert "a thread for each connection" in lines["rimstone-blocking"]
    assert "one client at a time" in lines["one-at-a-time"]
    assert bench_main(["io-models", "--list", "--servers", "c-epoll"]) == 0
    assert capsys.readouterr().out.split()[0] == "c-epoll"


@pytest.mark.slow
def test_help_is_that_of_the_benchmarks(tmp_path: Path) -> None:
    done = run("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "usage: rimstone bench" in done.stdout
    assert "io-models" in done.stdout


@pytest.mark.slow
def test_a_run_of_one_server_writes_all_three_files(compiler: None, tmp_path: Path) -> None:
    done = run("io-models", "--quick", "--seconds", "0.05", "--servers", "one-at-a-time", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "blocking without threads serves one client at a time: held" in done.stdout
    files = {path.suffix: path.read_text(encoding="utf-8") for path in (tmp_path / "bench-results").iterdir()}
    assert set(files) == {".json", ".md", ".svg"}
    written = json.loads(files[".json"])
    assert [server["name"] for server in written["servers"]] == ["one-at-a-time"]
    assert written["claims"][0]["verdict"] == "held"
    assert "## Limits" in files[".md"]
    ET.fromstring(files[".svg"])
