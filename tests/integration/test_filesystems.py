"""SQLite's file lies on a disk of this machine, or nothing starts."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from gammabeta.store import filesystems
from gammabeta.store.engine import Database


@pytest.mark.parametrize(("magic", "name"), filesystems.FOREIGN.items())
def test_a_database_on_a_network_is_refused(magic: int, name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(f"which is on {name}, where SQLite loses data. Set GAMMABETA_HOME")):
        Database(f"sqlite:///{tmp_path / 'data' / 'gammabeta.db'}", filesystem=lambda _: magic)


def test_a_link_is_followed_to_where_the_file_lies(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "gammabeta.db").symlink_to(tmp_path / "far" / "gammabeta.db")
    on_a_network = {tmp_path / "far": 0x6969}
    with pytest.raises(ValueError, match="on nfs"):
        Database(f"sqlite:///{tmp_path / 'gammabeta.db'}", filesystem=on_a_network.get)


def test_a_kernel_that_does_not_say_is_trusted(tmp_path: Path) -> None:
    Database(f"sqlite:///{tmp_path / 'gammabeta.db'}", filesystem=lambda _: None).dispose()


def test_a_postgresql_server_looks_after_its_own_disk() -> None:
    Database("postgresql://nobody@/none", filesystem=lambda _: 0x6969).dispose()


def test_the_kernel_is_asked_as_stat_asks_it(tmp_path: Path) -> None:
    told = subprocess.run(["stat", "-f", "-c", "%t", tmp_path], capture_output=True, text=True, check=True)
    assert filesystems.kind(tmp_path) == int(told.stdout, 16)
    assert filesystems.kind(tmp_path / "not there") is None
