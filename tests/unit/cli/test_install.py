from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """As much of the project as `scripts/install` looks at."""
    (tmp_path / "scripts").mkdir()
    for name in ("pyproject.toml", "constraints.txt", "scripts/install"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def install(checkout: Path) -> str:
    """What it says, with a Python that makes no environment."""
    command = ["/bin/sh", checkout / "scripts/install", "demo"]
    return subprocess.run(
        command, check=False, env={"PYTHON": "false", "PATH": "/usr/bin:/bin"}, capture_output=True
    ).stderr.decode()


def test_an_install_that_takes_time_is_announced(checkout: Path) -> None:
    assert install(checkout).startswith("Installing into .venv/ (about a minute) …\n")


def test_nothing_is_said_where_nothing_is_installed(checkout: Path) -> None:
    stamp = subprocess.run(
        ["/bin/sh", "-c", "cat pyproject.toml constraints.txt scripts/install | cksum"],
        cwd=checkout,
        capture_output=True,
        check=True,
    ).stdout
    (checkout / ".venv").mkdir()
    (checkout / ".venv/installed-demo").write_bytes(stamp)
    assert install(checkout) == ""
