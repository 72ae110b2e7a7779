"""Row 21: the holes that others were found to have in the libraries of gammabeta, as the least versions it takes."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NEEDED = {each.name: each for each in map(Requirement, PROJECT["dependencies"])}
PINNED = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)

FIXED = [
    ("CVE-2025-32434", "torch", "2.6.0"),
    ("CVE-2026-24747", "torch", "2.10.0"),
    ("CVE-2019-6446", "numpy", "1.16.3"),
    ("CVE-2024-47874", "starlette", "0.40.0"),
    ("CVE-2023-30798", "starlette", "0.25.0"),
    ("CVE-2025-54121", "starlette", "0.47.2"),
    ("CVE-2025-62727", "starlette", "0.49.1"),
    ("CVE-2026-40192", "pillow", "12.2.0"),
]
"""The hole, the library that had it, and its first version without."""
NEVER = ["python-multipart", "multipart", "pickle5", "dill", "mlserver", "bentoml"]
"""Read bodies or files in ways that gammabeta has no use for."""


@pytest.mark.parametrize(("cve", "library", "fixed"), FIXED, ids=[each[0] for each in FIXED])
def test_a_version_with_the_hole_is_not_taken(cve: str, library: str, fixed: str) -> None:
    least = max(Version(each.version) for each in NEEDED[library].specifier if each.operator == ">=")
    assert least >= Version(fixed)
    assert Version(PINNED[library]) >= Version(fixed)
    assert Version(version(library)) >= Version(fixed)


@pytest.mark.parametrize("library", NEVER)
def test_what_is_not_needed_is_not_there(library: str) -> None:
    assert library not in NEEDED
    assert library not in PINNED
    with pytest.raises(PackageNotFoundError):
        version(library)


def test_every_library_that_is_needed_is_pinned_and_has_a_least_version() -> None:
    pinned = {each.lower().replace("_", "-") for each in PINNED}
    for name, requirement in NEEDED.items():
        assert name in pinned, f"{name} must stand in constraints.txt"
        assert any(each.operator == ">=" for each in requirement.specifier), f"{name} must have a least version"
