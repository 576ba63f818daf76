"""The demo: thousands of slow pages fetched by a plain function, then 500 clients served on one thread. Run: ./dev demo.

Everything runs on 127.0.0.1, and everything in the table is measured: rates with a clock from start to end of the
program, start-up included; requests in flight by the server; processes and threads from outside, with psutil.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import psutil
from rich.console import Console
from rich.table import Table

from fetch import fetch

HERE = Path(__file__).resolve().parent
REQUIRED_RATIO = 10
ROUND_SECONDS = 60  # the most that one program of the demo may take
LOOK_SECONDS = 0.25  # how often a running program's processes and threads are counted


class DemoFailed(Exception):
    """Something came out wrong; the message says what."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        calls: Pages fetched, or messages answered, and checked.
        in_flight: Most of them under way at the same time.
        coroutines: Most coroutines that ran calls at the same time; None where there are none.
        ratio: Calls per second, relative to the default ThreadPoolExecutor; None for other work.
    """

    what: str
    calls: int
    seconds: float
    calls_per_second: float
    in_flight: int
    processes: int
    threads: int
    coroutines: int | None
    ratio: float | None = None


def main() -> int:
    options = parse_options()
    # A proxy of the user's would stand between the demo and its own machine.
    os.environ["no_proxy"] = "127.0.0.1"
    console = Console()
    try:
        with tempfile.TemporaryDirectory(prefix="rimstone-demo-") as folder, http_server() as site:
            console.print(f"rimstone map examples/fetch.py:fetch over {options.urls:,} pages that take 50 ms each")
            mapped = map_with_rimstone(site, options.urls, options.max_in_flight, Path(folder))
            console.print(f"The same function over {options.sample:,} pages with ThreadPoolExecutor()")
            default = map_with_default_threads(site, options.sample)
        console.print(f"{options.clients:,} client threads against the upper-case server on one thread")
        served = serve_upper_case(options.clients, options.messages)
    except DemoFailed as failure:
        print(f"demo: {failure}", file=sys.stderr)
        return 1
    ratio = mapped.calls_per_second / default.calls_per_second
    rows = [with_ratio(mapped, ratio), with_ratio(default, 1.0), served]
    console.print(table(rows))
    options.out.write_text(json.dumps(report(rows), indent=2) + "\n", encoding="utf-8")
    console.print(f"Written to {options.out}")
    if ratio < options.require:
        print(
            f"demo: rimstone map was {ratio:.1f} x the default ThreadPoolExecutor; at least {options.require:g} x is wanted",
            file=sys.stderr,
        )
        return 1
    return 0
