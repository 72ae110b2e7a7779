"""SECURITY.md: each row of the threat model has its control and its tests, which exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "SECURITY.md").read_text()
ROWS = re.findall(r"^\| (\d+) \| (.+?) \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)
NAMED = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)


def _tests(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def test_every_row_is_there_with_its_tests() -> None:
    assert [int(number) for number, *_ in ROWS] == list(range(1, 23))
    assert [number for number, *_, tests in ROWS if not re.search(r"`tests/", tests)] == []


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMED)), ids=lambda each: each.rpartition("/")[2])
def test_each_test_that_the_page_names_exists(file: str, name: str) -> None:
    assert (ROOT / file).exists()
    assert not name or (name.startswith("test_") and name in _tests(ROOT / file))


@pytest.mark.parametrize("file", sorted(Path(__file__).parent.glob("test_*.py")), ids=lambda each: each.name)
def test_each_file_of_this_folder_is_named(file: Path) -> None:
    assert file.name == Path(__file__).name or f"tests/threats/{file.name}::" in PAGE


def test_the_holes_that_the_tests_are_named_after_stand_in_their_rows() -> None:
    for row in ROWS:
        for year, number in re.findall(r"test_cve_(\d{4})_(\d+)", row[3]):
            assert f"CVE-{year}-{number}" in PAGE
