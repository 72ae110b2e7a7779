"""A file goes in, a manifest and its arrays come out."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gammabeta.errors import DatasetInvalid
from gammabeta.schemas.datasets import DatasetManifest, Split
from worker.ingestion import ingest
from worker.messages import IngestFile, IngestLimits, IngestOptions

LIMITS = IngestLimits(memory_bytes=4 << 30, cpu_seconds=60, rows=1_000_000, decoded_bytes=1 << 30)


@dataclass(frozen=True)
class Ingested:
    manifest: DatasetManifest
    folder: Path

    def x(self, split: Split = "train") -> NDArray[Any]:
        return np.load(self.folder / f"{split}-x.npy")

    def y(self, split: Split = "train") -> NDArray[Any]:
        return np.load(self.folder / f"{split}-y.npy")


class Ingest:
    """Ingests bytes, in this process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = itertools.count()

    def __call__(self, data: bytes, *, existing: DatasetManifest | None = None, **options: Any) -> Ingested:
        limits = options.pop("limits", LIMITS)
        scratch = self._folder / str(next(self._count))
        scratch.mkdir()
        upload = scratch.with_suffix(".upload")
        upload.write_bytes(data)
        order = IngestFile(
            job_id="job_1",
            fence=1,
            upload=upload,
            options=IngestOptions(**options),
            existing=existing,
            scratch=scratch,
            limits=limits,
        )
        return Ingested(ingest(order), scratch)

    def csv(self, text: str, target: str | None = "y", **options: Any) -> Ingested:
        return self(text.encode(), format="csv", target=target, **options)

    def npz(
        self, *, existing: DatasetManifest | None = None, test_fraction: float | None = None, **arrays: Any
    ) -> Ingested:
        return self(npz(**arrays), format="npz", existing=existing, test_fraction=test_fraction)

    def refused(self, how: Callable[[], Any]) -> DatasetInvalid:
        with pytest.raises(DatasetInvalid) as caught:
            how()
        assert not list(self._folder.glob("*/manifest.json"))
        return caught.value


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


@pytest.fixture
def ingest_file(tmp_path: Path) -> Ingest:
    return Ingest(tmp_path)
