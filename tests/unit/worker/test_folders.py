"""Folders that are complete or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker import folders


def test_folder_appears_when_it_is_full(tmp_path: Path) -> None:
    with folders.complete(tmp_path / "a") as filling:
        (filling / "x").write_text("1")
        assert not (tmp_path / "a").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a" / "x").read_text() == "1"


def test_nothing_is_left_of_a_folder_that_was_not_filled(tmp_path: Path) -> None:
    def fill() -> None:
        with folders.complete(tmp_path / "a") as filling:
            (filling / "x").write_text("1")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fill()
    assert not list(tmp_path.iterdir())
