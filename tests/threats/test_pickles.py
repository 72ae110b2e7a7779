"""Rows 1 and 2: no pickle on any path. Each file here makes a folder when it is unpickled; nobody ever does."""

from __future__ import annotations

import ast
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from gammabeta import tensorfiles
from gammabeta.errors import ArtifactCorrupt
from gammabeta.schemas.datasets import DatasetFormat
from tests.test_architecture import MODULES, ROOT, _imports
from tests.threats import hostile
from tests.threats.conftest import Stocked
from tests.unit.ingestion.conftest import LIMITS
from worker.ingestion import answer
from worker.messages import IngestFile, IngestOptions, Refused

LOADING = {"torch.load", "torch.save", "torch.export.load", "torch.jit.load", "torch.package.PackageImporter"}
UNPICKLING = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle", "pandas"}
RUNNING = {"eval", "exec", "compile", "__import__"}
MEDIA_TYPES = {
    "pkl": "application/vnd.bentoml+pickle",
    "pt": "application/x-pytorch",
    "pth": "application/vnd.pytorch",
    "pt2": "application/x-pt2",
    "joblib": "application/x-joblib",
    "npy": "application/x-npy",
}
FORMATS: tuple[DatasetFormat, ...] = ("csv", "npz", "image_zip")


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


def test_the_files_are_loaded(canary: Path) -> None:
    """By who unpickles: else the tests below would prove nothing."""
    pickle.loads(hostile.files(canary)["pkl"])  # noqa: S301
    assert canary.exists()


@pytest.mark.parametrize("module", MODULES)
def test_cve_2025_32434_and_2026_24747_no_torch_load(module: str) -> None:
    assert {each.split(".")[0] for each in _imports(module)} & UNPICKLING == set()
    tree = ast.parse(MODULES[module].read_text())
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert called & (LOADING | RUNNING) == set()
    # What multiprocessing's pipes unpickle: children answer in JSON, by `recv_bytes`.
    assert not {each for each in called if each.endswith((".recv", ".get_nowait")) and "onnection" in each}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load"):
            assert "allow_pickle=False" in ast.unparse(node), f"{module}:{node.lineno}"


def test_the_rules_of_the_linter_hold_without_exception() -> None:
    """S301 and S302: pickle and marshal; S307: eval; S608: SQL put together as text."""
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--select", "S301,S302,S307,S608", "--ignore-noqa"]
    done = subprocess.run(
        [*command, "gammabeta", "service", "worker"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("ending", MEDIA_TYPES)
def test_cve_2025_32434_and_2026_24747_files_of_models_are_415(stocked: Stocked, canary: Path, ending: str) -> None:
    query = {"name": "d", "format": "npz"}
    headers = {"Content-Type": MEDIA_TYPES[ending]}
    content = hostile.files(canary)[ending]
    answered = stocked.ask("POST", "/v1/datasets", params=query, content=content, headers=headers)
    assert (answered.status_code, answered.json()["code"]) == (415, "unsupported_media_type")
    assert not canary.exists()


@pytest.mark.parametrize("ending", hostile.files(Path("x")))
@pytest.mark.parametrize("format", FORMATS)
def test_cve_2025_32434_and_2026_24747_files_of_models_are_no_data(
    tmp_path: Path, canary: Path, ending: str, format: DatasetFormat
) -> None:
    """Whatever they are said to be."""
    assert isinstance(_ingested(tmp_path, hostile.files(canary)[ending], format), Refused)
    assert not canary.exists()


def test_cve_2019_6446_npz_object_array(tmp_path: Path, canary: Path) -> None:
    refused = _ingested(tmp_path, hostile.npz(canary), "npz")
    assert isinstance(refused, Refused)
    assert refused.code == "object_array"
    assert not canary.exists()


def _ingested(folder: Path, data: bytes, format: DatasetFormat) -> object:
    upload, scratch = folder / "upload", folder / "scratch"
    upload.write_bytes(data)
    scratch.mkdir()
    options = IngestOptions(format=format, target="y" if format == "csv" else None)
    order = IngestFile(job_id="job_1", fence=1, upload=upload, options=options, scratch=scratch, limits=LIMITS)
    return answer(order)


@pytest.mark.parametrize("ending", hostile.files(Path("x")))
def test_files_of_models_are_no_weights(tmp_path: Path, canary: Path, ending: str) -> None:
    path = tmp_path / "weights"
    path.write_bytes(hostile.files(canary)[ending])
    with pytest.raises(ArtifactCorrupt):
        tensorfiles.read(path, load_file)
    assert not canary.exists()


@pytest.mark.parametrize("ending", hostile.files(Path("x")))
@pytest.mark.parametrize("media_type", [None, "application/json", "text/csv", "image/png"])
def test_files_of_models_are_no_rows(stocked: Stocked, canary: Path, ending: str, media_type: str | None) -> None:
    headers = {} if media_type is None else {"Content-Type": media_type}
    content = hostile.files(canary)[ending]
    answered = stocked.ask("POST", "/v1/models/income/predict", content=content, headers=headers)
    assert answered.status_code in (400, 415, 422)
    assert not canary.exists()
