"""The README's first job, run as it stands: each block in its order, in an empty folder, against a running service."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.stack import Stack

README = Path(__file__).resolve().parents[2] / "README.md"
BLOCK = re.compile(r"^```(?P<kind>[a-z]+)(?: (?P<file>\S+))?\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
ADDRESS = "http://127.0.0.1:8000"


def first_job() -> list[tuple[str, str | None, str]]:
    """Kind, file name and text of each block of the section."""
    section = README.read_text().partition("\n## A first job\n")[2].partition("\n## ")[0]
    return [(each["kind"], each["file"], each["text"]) for each in BLOCK.finditer(section)]


def test_section_teaches_by_curl_by_command_line_and_by_python() -> None:
    text = "\n".join(block for kind, _, block in first_job() if kind in ("bash", "python"))
    assert "curl" in text
    assert "gammabeta train" in text
    assert "Client(" in text


def test_blocks_of_the_first_job_run(stack: Stack, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the README's data come with scikit-learn: pip install 'gammabeta[demo]'")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "GAMMABETA_URL": stack.url, "COLUMNS": "100", "NO_COLOR": "1"}
    outputs = []
    for kind, file, text in first_job():
        code = text.replace(ADDRESS, stack.url)
        if file:
            (tmp_path / file).write_text(code)
        if kind not in ("bash", "python"):
            continue
        command = ["bash", "-euo", "pipefail", "-c", code] if kind == "bash" else [sys.executable, "-c", code]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=180, check=False
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
        outputs.append(done.stdout)
    everything = "\n".join(outputs)
    assert '"batchnorm":{"mode":"eval","digest":"sha256:' in everything.replace(" ", "")
    assert "moving_mean" in everything
