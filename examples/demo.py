"""The demo: thousands of slow pages fetched by a plain function, then 500 clients on one thread. Run it: ./dev demo.

Everything happens on 127.0.0.1, and everything in the table is measured. The servers and clients keep the time, from
the first request to the last answer, and count what is in flight; processes and threads are counted from outside.
"""

import argparse
import contextlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import psutil
from fetch import fetch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
DEMO_SECONDS = 80  # the most that all of it may take
MOST_ROUNDS = 3  # a busy machine may spoil a round
LOOK_SECONDS = 0.1  # how often the processes and threads of a running program are counted


class DemoFailed(Exception):
    """Something came out wrong; the message says what."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: What ran.
        calls: Pages fetched, or messages answered; each was checked.
        seconds: From the first request to the last answer.
        total_seconds: From start to end of the program, or of the executor.
        in_flight: Most calls, or conversations, under way at the same time.
        processes: Processes that ran calls.
        threads: Threads of these processes, those that run no calls included.
        coroutines: Most coroutines that ran calls at the same time, one each; None where a call has a thread.
        ratio: Calls per second against the default ThreadPoolExecutor; None where the work is another.
        rounds: How often it was measured; this is the best of them.
    """

    what: str
    calls: int
    seconds: float
    total_seconds: float
    in_flight: int
    processes: int
    threads: int
    coroutines: int | None
    ratio: float | None = None
    rounds: int = 1

    @property
    def calls_per_second(self) -> float:
        return self.calls / self.seconds


def main() -> int:
    options = parse_options()
    os.environ["no_proxy"] = "127.0.0.1"
    end_children_when_ended()
    console = Console()
    try:
        rows = run_rounds(options, console)
        console.print(table_of(rows))
        write_report(rows, options.out)
        console.print(f"Written to {options.out}")
        require_ratio(rows[0], options.require)
    except DemoFailed as failure:
        print(f"demo: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Show what rimstone does on this machine, in one table.")
    parser.add_argument("--urls", type=int, default=5000, help="pages for rimstone map (5000)")
    parser.add_argument("--sample", type=int, default=300, help="pages for the default ThreadPoolExecutor (300)")
    parser.add_argument("--max-in-flight", type=int, default=1000, help="as of rimstone map (1000)")
    parser.add_argument("--clients", type=int, default=500, help="client threads of the upper-case server (500)")
    parser.add_argument("--messages", type=int, default=20, help="messages a client (20)")
    parser.add_argument("--require", type=float, default=10, help="least ratio; below it the exit code is 1 (10)")
    parser.add_argument("--out", type=Path, default=Path("demo.json"), help="where the numbers go (demo.json)")
    return parser.parse_args()


def end_children_when_ended() -> None:
    """Let signals and the end of time arrive as exceptions, which leave each `with running(...)` on their way."""

    def leave(number: int, _: object) -> NoReturn:
        sys.exit(128 + number)

    def out_of_time(*_: object) -> NoReturn:
        raise DemoFailed(f"not done after {DEMO_SECONDS} s")

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)
    signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(DEMO_SECONDS)


def run_rounds(options: argparse.Namespace, console: Console) -> list[Row]:
    with slow_site() as site:
        console.print(f"ThreadPoolExecutor() as it comes, {options.sample:,} pages that take 50 ms each ...")
        default = map_with_default_threads(site, options.sample)
        wanted = options.require * default.calls_per_second
        rounds: list[Row] = []
        while not rounds or (len(rounds) < MOST_ROUNDS and rounds[-1].calls_per_second < wanted):
            console.print(f"rimstone map examples/fetch.py:fetch, {options.urls:,} of these pages ...")
            rounds.append(map_with_rimstone(site, options.urls, options.max_in_flight))
        best = max(rounds, key=lambda row: row.calls_per_second)
    console.print(f"The upper-case server on one thread, {options.clients:,} client threads ...")
    served = serve_upper_case(options.clients, options.messages)
    ratio = best.calls_per_second / default.calls_per_second
    return [replace(best, ratio=ratio, rounds=len(rounds)), replace(default, ratio=1.0), served]


def require_ratio(row: Row, required: float) -> None:
    if row.ratio is None or row.ratio < required:
        raise DemoFailed(
            f"rimstone map was {row.ratio:.1f} x as fast as the default ThreadPoolExecutor in the best of "
            f"{row.rounds} rounds; at least {required:g} x is required (is the machine busy with other things?)"
        )


# -- what is measured --------------------------------------------------------------------------------------------------


def map_with_default_threads(site: str, count: int) -> Row:
    threads = set()

    def fetch_here(url: str) -> str:
        threads.add(threading.get_ident())
        return fetch(url)

    urls = urls_of(site, count)
    started = time.perf_counter()
    with ThreadPoolExecutor() as pool:
        pages = dict(zip(urls, pool.map(fetch_here, urls), strict=True))
    total_seconds = time.perf_counter() - started
    check_pages(pages, site, count)
    seconds, in_flight = take_report(site, count)
    return Row("ThreadPoolExecutor()", count, seconds, total_seconds, in_flight, 1, len(threads), coroutines=None)


def map_with_rimstone(site: str, count: int, max_in_flight: int) -> Row:
    with tempfile.TemporaryDirectory(prefix="rimstone-demo-") as folder:
        inputs, results = Path(folder, "urls.txt"), Path(folder, "results.jsonl")
        inputs.write_text("".join(f"{url}\n" for url in urls_of(site, count)), encoding="utf-8")
        command = [sys.executable, "-m", "rimstone", "map", f"{HERE / 'fetch.py'}:fetch", str(inputs)]
        command += ["--max-in-flight", str(max_in_flight), "--out", str(results)]
        started = time.perf_counter()
        with running(command) as mapping:
            workers = wait_watching(mapping, lambda: psutil.Process(mapping.pid).children())
        total_seconds = time.perf_counter() - started
        records = [json.loads(line) for line in results.open(encoding="utf-8")] if results.exists() else []
    errors = [record for record in records if "error" in record]
    if mapping.returncode != 0:
        first = f"; the first of {len(errors)} errors: {errors[0]}" if errors else ""
        raise DemoFailed(f"rimstone map ended with exit code {mapping.returncode}{first}")
    check_pages({record["input"]: record["value"] for record in records}, site, count)
    seconds, in_flight = take_report(site, count)
    used = (workers.processes, workers.threads, in_flight)
    return Row("rimstone map", count, seconds, total_seconds, in_flight, *used)


def serve_upper_case(clients: int, messages: int) -> Row:
    # A backlog that holds all clients: what the kernel does beyond it is a matter for tests, not for rates.
    server_command = [sys.executable, str(HERE / "upper_server.py"), "0", str(clients)]
    with running(server_command, stdout=subprocess.PIPE) as server:
        port = read_port(server)
        started = time.perf_counter()
        clients_command = [sys.executable, str(HERE / "upper_clients.py"), str(port), str(clients), str(messages)]
        with running(clients_command, stdout=subprocess.PIPE) as talking:
            used = wait_watching(talking, lambda: [psutil.Process(server.pid)])
            text = talking.stdout.read() if talking.stdout else ""
        total_seconds = time.perf_counter() - started
    found = re.match(r"(\d+) clients at once, (\d+) right replies, 0 clients failed, ([\d.]+) s", text)
    if talking.returncode != 0 or found is None:
        raise DemoFailed(f"not all clients of the upper-case server were content: {text.strip() or 'no report'}")
    at_once, replies, seconds = int(found[1]), int(found[2]), float(found[3])
    return Row("upper-case server", replies, seconds, total_seconds, at_once, used.processes, used.threads, at_once)


# -- the slow site -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def slow_site() -> Iterator[str]:
    """Run the slow HTTP server; yields its address. It also ends by itself when this process is gone."""
    command = [sys.executable, str(HERE / "slow_http_server.py")]
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        yield f"http://127.0.0.1:{read_port(server)}"


def urls_of(site: str, count: int) -> list[str]:
    return [f"{site}/{number}" for number in range(count)]


def check_pages(pages: dict[str, Any], site: str, count: int) -> None:
    expected = {f"{site}/{number}": f"page {number}" for number in range(count)}
    if pages != expected:
        wrong = [url for url in {**expected, **pages} if pages.get(url) != expected.get(url)]
        raise DemoFailed(
            f"{len(wrong)} of {count} pages are missing, wrong or too many; "
            f"the first: {wrong[0]} gave {pages.get(wrong[0])!r}, expected {expected.get(wrong[0])!r}"
        )


def take_report(site: str, count: int) -> tuple[float, int]:
    """The server's own seconds and most in flight for the *count* pages it has just served."""
    with urllib.request.urlopen(f"{site}/report", timeout=10) as response:
        report = json.load(response)
    if report["pages"] != count:
        raise DemoFailed(f"{count} pages were to be fetched, once each, and the server was asked for {report['pages']}")
    return report["seconds"], report["in_flight"]


# -- programs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """Most processes that were seen at once, and most threads of all of them together."""

    processes: int = 0
    threads: int = 0


@contextlib.contextmanager
def running(command: list[str], **options: Any) -> Iterator["subprocess.Popen[str]"]:
    """Run a program for the time of a `with` block; whatever ends the block ends the program."""
    # In a session of its own Ctrl-C does not reach it: it hears of it from us, once, and has nothing to say about it.
    with subprocess.Popen(command, text=True, start_new_session=True, **options) as program:
        try:
            yield program
        finally:
            program.terminate()
            try:
                program.wait(5)
            except subprocess.TimeoutExpired:
                program.kill()


def wait_watching(program: "subprocess.Popen[str]", watched: Callable[[], list[psutil.Process]]) -> Seen:
    """Wait until *program* ends, and count meanwhile the processes that *watched* returns and their threads."""
    seen = Seen()
    while program.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            threads = [process.num_threads() for process in watched()]
            seen = Seen(max(seen.processes, len(threads)), max(seen.threads, sum(threads)))
        with contextlib.suppress(subprocess.TimeoutExpired):
            program.wait(LOOK_SECONDS)
    return seen


def read_port(server: "subprocess.Popen[str]") -> int:
    line = server.stdout.readline() if server.stdout else ""
    if not line.strip().isdecimal():
        raise DemoFailed("a server did not start; what it wrote above says why")
    return int(line)


# -- what is shown -----------------------------------------------------------------------------------------------------


def table_of(rows: list[Row]) -> Table:
    table = Table(title="rimstone on this machine", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("", no_wrap=True)
    for column in ("calls", "calls/s", "most\nin flight", "processes / threads\n/ coroutines", "ratio"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        used = f"{row.processes} / {row.threads} / {'-' if row.coroutines is None else row.coroutines}"
        ratio = "-" if row.ratio is None else f"{row.ratio:.1f} x"
        table.add_row(
            row.what, f"{row.calls:,}", f"{round(row.calls_per_second, 1):,.0f}", f"{row.in_flight:,}", used, ratio
        )
    return table


def write_report(rows: list[Row], out: Path) -> None:
    try:
        out.write_text(json.dumps(report_of(rows), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise DemoFailed(f"cannot write the numbers to {out}: {error.strerror}; name another file with --out") from None


def report_of(rows: list[Row]) -> dict[str, Any]:
    doctor = subprocess.run(
        [sys.executable, "-m", "rimstone", "doctor", "--json"], capture_output=True, text=True, check=True, timeout=30
    )
    known = json.loads(doctor.stdout)
    return {
        "machine": {
            "architecture": platform.machine(),
            "cpus": known["limits"]["cpus"]["value"],
            "memory_bytes": psutil.virtual_memory().total,
        },
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "core": known["core"],
        "io_model": known["io_model"]["chosen"],
        "commit": commit(),
        "rows": [{**asdict(row), "calls_per_second": round(row.calls_per_second, 1)} for row in rows],
    }


def commit() -> str | None:
    """The commit of this checkout, `-dirty` when files have been changed; None where there is no git to ask."""
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


sys.exit(main())
