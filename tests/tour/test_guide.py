"""The guide's pictures are what the script draws, they can be read by anybody, and its table is a measured one."""

import importlib.util
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType

import pytest

from rimstone import machine
from rimstone.tour import CHAPTERS

DOCS = Path(__file__).parents[2] / "docs"
GUIDE = DOCS / "guides/io-models.md"
SVG = "{http://www.w3.org/2000/svg}"


def loaded(path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(path.parent))  # as for a script
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return loaded(DOCS / "pictures/io_models.py", monkeypatch)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return loaded(DOCS / "io_models_table.py", monkeypatch)


def test_the_pictures_are_what_the_script_draws(pictures: ModuleType, tmp_path: Path) -> None:
    assert pictures.main([str(tmp_path)]) == 0
    drawn = {file.name: file.read_text(encoding="utf-8") for file in tmp_path.iterdir()}
    kept = {file.name: file.read_text(encoding="utf-8") for file in (DOCS / "guides/pictures").glob("io-*.svg")}
    assert drawn == kept, "run docs/pictures/io_models.py"
    shown = re.findall(r"!\[.+\]\(pictures/(.+)\)", GUIDE.read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(drawn)


def test_each_picture_says_in_words_what_it_shows(pictures: ModuleType) -> None:
    for picture in pictures.PICTURES:
        root = ET.fromstring(pictures.draw(picture))
        assert root.get("role") == "img"
        named = {root.find(f"{SVG}{tag}").get("id") for tag in ("title", "desc")}
        assert named == set(root.get("aria-labelledby").split())
        assert root.findtext(f"{SVG}title") == picture.title
        assert root.findtext(f"{SVG}desc") == picture.description


def test_each_picture_has_colours_for_dark_and_light(pictures: ModuleType) -> None:
    for picture in pictures.PICTURES:
        root = ET.fromstring(pictures.draw(picture))
        light, dark = root.findtext(f"{SVG}style").split("@media (prefers-color-scheme: dark)")
        used = {element.get("class") for element in root.iter() if element.get("class")} - {"head", "code"}
        for name in used:
            assert f".{name} {{" in light
            assert f".{name} {{" in dark


def test_nothing_is_drawn_outside(pictures: ModuleType) -> None:
    for picture in pictures.PICTURES:
        for element in ET.fromstring(pictures.draw(picture)).iter():
            bottom = max(int(element.get(name, "0")) for name in ("y", "y1", "y2")) + int(element.get("height", "0"))
            assert bottom <= pictures.HEIGHT
    for picture in pictures.PICTURES:
        times = [time for bar in picture.bars for time in (bar.start, bar.end)]
        assert times == sorted(times), "the bars follow each other"
        assert [arrow.at for arrow in picture.arrows] == sorted(arrow.at for arrow in picture.arrows)


def test_the_guide_names_every_lesson_of_its_chapter() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    lessons = next(chapter.lessons for chapter in CHAPTERS if chapter.name == "io-models")
    assert [lesson.name for lesson in lessons if f"`{lesson.name}`" not in text] == []


@pytest.mark.slow
def test_the_table_is_measured_and_written_between_its_markers(
    table: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = tmp_path / "guide.md"
    guide.write_text("before\n<!-- io models table -->\nold\n<!-- end -->\nafter\n", encoding="utf-8")
    monkeypatch.setattr(table, "ROUNDS", 1)
    assert table.main([str(guide), "0.1"]) == 0
    text = guide.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- io models table -->\n| IO model | messages/s |")
    assert text.endswith(".\n<!-- end -->\nafter\n")
    assert "old" not in text
    assert re.search(r"^\| `select` \| [\d,]+ \| [\d.]+ µs \| [\d.]+ % \|$", text, re.MULTILINE)
    assert re.search(r"^\| `blocking` \|", text, re.MULTILINE)


def test_the_table_holds_medians(table: ModuleType) -> None:
    line = "epoll: {} messages/s, {} us of CPU each, {}% CPU when silent"
    lines = [line.format("1,000", "9.0", "0.0"), line.format("90", "2.0", "0.5"), line.format("1,200", "3.0", "9.0")]
    block = table.block_of(lines)
    assert "\n| `epoll` | 1,000 | 3.0 µs | 0.5 % |\n" in block
    assert f"\n\nMedians of 3 rounds, measured on {machine.cpus().value} CPUs, " in block


def test_lines_that_are_no_models_line_are_refused(table: ModuleType) -> None:
    with pytest.raises(ValueError, match="Traceback"):
        table.block_of(["Traceback (most recent call last):"])


def test_the_guide_holds_a_measured_table() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    assert re.search(r"<!-- io models table -->\n\|.* \|\n(\|.*\n)+\nMedians of .*\n<!-- end -->", text)
