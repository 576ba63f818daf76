"""What the documents say is true: their programs run and print what they promise, their links and names lead somewhere.

The Python blocks of one document are one program, run in order in one process. Everything else in the document becomes
an empty line, so a traceback shows the document's own line numbers. Three rules:

- `# prints TEXT` (in Chinese, `# 打印 TEXT`) promises the next lines of the program's output, in order; other lines may
  come in between, from `print` calls without a promise.
- An address that begins with https://example.com stands for a local server, which answers every request at once.
- Nothing may reach stderr: there is no warning and no error of a task that nobody waits for.
"""

import ast
import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/rimstone"
WITH_PROGRAMS = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted((ROOT / "docs/guides").glob("*.md"))]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
STAND_IN = "https://example.com"


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


# -- programs ----------------------------------------------------------------------------------------------------------


def program_of(document: str) -> str:
    """The Python blocks of a document, each line where it stands there."""
    lines = []
    in_block = False
    for line in document.splitlines():
        if line.startswith("```"):
            in_block = line == "```python"
            lines.append("")
        else:
            lines.append(line if in_block else "")
    return "\n".join(lines) + "\n"


def promised_by(program: str) -> list[str]:
    return [line.strip() for line in re.findall(r"# (?:prints|打印) (.+)$", program, re.MULTILINE)]


def broken_promise(promised: list[str], printed: list[str]) -> str | None:
    """The first line that was promised and not printed in its turn."""
    remaining = iter(printed)
    return next((line for line in promised if line not in remaining), None)


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"a page"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    request_queue_size = 1024  # a pool connects with all its calls at once
    daemon_threads = False  # so that server_close waits for them


@pytest.fixture
def site() -> Iterator[str]:
    with _Server(("127.0.0.1", 0), _Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def run(program: str, folder: Path, site: str) -> "subprocess.CompletedProcess[str]":
    script = folder / "document.py"
    script.write_text(program.replace(STAND_IN, site), encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-X", "utf8", str(script)],
        cwd=ROOT,
        env={**os.environ, "no_proxy": "127.0.0.1"},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("path", WITH_PROGRAMS, ids=name_of)
def test_programs_run_and_print_what_they_promise(path: Path, tmp_path: Path, site: str) -> None:
    program = program_of(read(path))
    done = run(program, tmp_path, site)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    missing = broken_promise(promised_by(program), done.stdout.splitlines())
    assert missing is None, f"{missing!r} was not printed in its turn; printed was:\n{done.stdout}"


@pytest.mark.parametrize("path", WITH_PROGRAMS, ids=name_of)
def test_programs_reach_no_other_site(path: Path) -> None:
    addresses = re.findall(r"https?://[^\s\"'{]*", program_of(read(path)))
    assert [address for address in addresses if not address.startswith(STAND_IN)] == []


@pytest.mark.parametrize("path", WITH_PROGRAMS, ids=name_of)
def test_each_has_programs(path: Path) -> None:
    assert ast.parse(program_of(read(path))).body


def test_only_python_blocks_are_run_and_keep_their_lines() -> None:
    document = "text\n```python\nfirst\n```\n```console\n$ no\n```\n```python\nlast\n```"
    assert program_of(document).splitlines() == ["", "", "first", "", "", "", "", "", "last", ""]


def test_a_broken_promise_is_noticed() -> None:
    promised = promised_by("print(1)  # prints 1\nprint(x)\nprint(2)  # 打印 2")
    assert promised == ["1", "2"]
    assert broken_promise(promised, ["1", "unpromised", "2"]) is None
    assert broken_promise(promised, ["1", "unpromised"]) == "2"
    assert broken_promise(promised, ["2", "1"]) == "2"


# -- links and names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_lead_to_files(path: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", read(path))
    local = [target.partition("#")[0] for target in targets if "://" not in target]
    assert [target for target in local if target and not (path.parent / target).exists()] == []


def test_environment_variables_are_those_of_the_source() -> None:
    looked_up = set().union(*map(variables_looked_up_in, SOURCE.rglob("*.py")))
    assert looked_up
    known = looked_up | variables_looked_up_in(ROOT / "setup.py")  # what matters to a build only
    mentioned = {path: set(re.findall(r"RIMSTONE_[A-Z_]+", read(path))) for path in DOCUMENTS}
    unknown = {name_of(path): names - known for path, names in mentioned.items() if names - known}
    assert unknown == {}
    explained = set().union(*(mentioned[guide] for guide in (ROOT / "docs/guides").glob("*.md")))
    assert looked_up - explained == set(), "a guide must explain each of them"


def variables_looked_up_in(file: Path) -> set[str]:
    return set(re.findall(r"(?:environ\.get\(|environ\[|getenv\()\s*[\"'](RIMSTONE_\w+)", read(file)))


def test_public_names_in_documents_exist() -> None:
    import rimstone
    from rimstone import errors

    for path in WITH_PROGRAMS:
        for module, name in re.findall(r"`rimstone\.(errors\.)?(\w+)`", read(path)):
            owner = errors if module else rimstone
            assert hasattr(owner, name) or (SOURCE / name).is_dir(), f"{name_of(path)}: rimstone.{module}{name}"


# -- ARCHITECTURE.md ---------------------------------------------------------------------------------------------------


def paths_in_tree(document: str) -> list[str]:
    """The paths of the first block without a language: a tree, two blanks a level, folders end with a slash.

    Files that belong together may share a line: `a.py b.py  what they are`.
    """
    block = re.search(r"^```\n(.*?)^```", document, re.DOTALL | re.MULTILINE)
    assert block, "there is no tree"
    folders: list[str] = []
    paths = []
    for line in block[1].splitlines():
        first, *others = line.split()
        names = [first, *itertools.takewhile(lambda word: word.endswith(".py"), others)]
        depth = (len(line) - len(line.lstrip())) // 2
        del folders[depth:]
        paths += ["".join(folders) + name for name in names]
        if first.endswith("/"):
            folders.append(first)
    return paths


def paths_in_text(document: str) -> list[str]:
    """What stands in backticks and has a slash or a file's ending."""
    text = re.sub(r"^```.*?^```", "", document, flags=re.DOTALL | re.MULTILINE)
    names = re.findall(r"`([\w./-]+)`", text)
    return [name for name in names if "/" in name.strip("./") or name.endswith((".py", ".md"))]


def paths_in_all_trees() -> list[str]:
    """Those of ARCHITECTURE.md, and of the folder that has a map of its own."""
    own = read(SOURCE / "bench/README.md")
    return paths_in_tree(read(ROOT / "ARCHITECTURE.md")) + [f"src/rimstone/bench/{path}" for path in paths_in_tree(own)]


def test_paths_in_the_trees_exist() -> None:
    paths = paths_in_all_trees()
    missing = [path for path in paths if not (ROOT / path).exists() or path.endswith("/") != (ROOT / path).is_dir()]
    assert missing == []
    assert len(paths) == len(set(paths))


def test_paths_in_the_text_exist() -> None:
    """They are relative to the checkout or to src/rimstone."""
    paths = paths_in_text(read(ROOT / "ARCHITECTURE.md"))
    assert paths
    assert [path for path in paths if not (ROOT / path).exists() and not (SOURCE / path).exists()] == []


def test_every_source_file_is_in_the_tree() -> None:
    # The lessons of the tour are its data; `tour/chapters.py` names them, and tests/tour checks that. The rivals of the
    # benchmarks are what is measured, not what measures.
    data = {SOURCE / "tour/lessons", SOURCE / "bench/rivals"}
    sources = [file for file in SOURCE.rglob("*.py") if not data & set(file.parents)]
    files = {name_of(file) for file in sources if file.name != "__init__.py"}
    assert files - set(paths_in_all_trees()) == set()


def test_the_architecture_is_read_in_one_sitting() -> None:
    assert len(read(ROOT / "ARCHITECTURE.md").splitlines()) <= 150


def test_tree_lines_become_paths() -> None:
    tree = "```\na/\n  b.py  what it is\n  c/\n    d.py  as b.py\n  e.py g.py  more\nf.md\n```\n"
    assert paths_in_tree(tree) == ["a/", "a/b.py", "a/c/", "a/c/d.py", "a/e.py", "a/g.py", "f.md"]


# -- the table of README.md --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def readme_table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readme_table", ROOT / "docs/readme_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def report() -> dict[str, Any]:
    row = {"what": "map", "calls": 5000, "calls_per_second": 1234.5, "in_flight": 900, "processes": 2, "threads": 8}
    return {
        "machine": {"architecture": "x86_64", "cpus": 2, "memory_bytes": 8 << 30},
        "kernel": "Linux 6.1",
        "python": "3.11.7",
        "core": "pure Python",
        "io_model": "epoll",
        "commit": None,
        "rows": [{**row, "coroutines": 900, "ratio": 12.34}, {**row, "coroutines": None, "ratio": None}],
    }


def test_the_table_is_rewritten_between_its_markers(readme_table: ModuleType, tmp_path: Path) -> None:
    numbers, readme = tmp_path / "demo.json", tmp_path / "README.md"
    numbers.write_text(json.dumps(report()), encoding="utf-8")
    readme.write_text("before\n<!-- demo table -->\nold\n<!-- end -->\nafter\n", encoding="utf-8")
    assert readme_table.main([str(numbers), str(readme)]) == 0
    once = read(readme)
    assert once.startswith("before\n<!-- demo table -->\n|  | calls |")
    assert once.endswith("\n<!-- end -->\nafter\n")
    assert "old" not in once
    assert "| `map` | 5,000 | 1,234 | 900 | 2 | 8 | 900 | 12.3 x |\n" in once
    assert "| `map` | 5,000 | 1,234 | 900 | 2 | 8 | - | - |\n" in once
    assert readme_table.main([str(numbers), str(readme)]) == 0
    assert read(readme) == once


def test_without_markers_nothing_is_rewritten(readme_table: ModuleType, tmp_path: Path) -> None:
    numbers, readme = tmp_path / "demo.json", tmp_path / "README.md"
    numbers.write_text(json.dumps(report()), encoding="utf-8")
    readme.write_text("nothing here\n", encoding="utf-8")
    assert readme_table.main([str(numbers), str(readme)]) == 1
    assert read(readme) == "nothing here\n"


def test_the_readme_holds_a_measured_table(readme_table: ModuleType) -> None:
    text = read(ROOT / "README.md")
    assert readme_table.replaced(text, "") != text
    assert re.search(r"<!-- demo table -->\n\|.* ratio \|\n(\|.*\n)+\nMeasured on .*\n<!-- end -->", text)
