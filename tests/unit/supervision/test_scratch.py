"""The scratch folders of workers that come and go at once."""

from __future__ import annotations

from pathlib import Path

from worker.supervisor import own_scratch


def test_folders_of_workers_that_ended_are_removed_and_those_of_living_ones_kept(tmp_path: Path) -> None:
    (tmp_path / "dead").mkdir()
    with own_scratch(tmp_path, "first") as first:
        with own_scratch(tmp_path, "second") as second:
            assert sorted(tmp_path.iterdir()) == [first, second]
        assert list(tmp_path.iterdir()) == [first]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_goes_while_it_is_looked_at_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")  # is listed, and cannot be opened
    with own_scratch(tmp_path, "mine") as mine:
        assert mine.is_dir()
