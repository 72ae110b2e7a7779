"""The same tests for a folder and for a bucket."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import from_url

from gammabeta.store.blobs import FolderBlobs
from gammabeta.store.caches import Cache
from gammabeta.store.objects import ObjectBlobs, open_objects
from gammabeta.store.stored import Blobs, key_of
from tests.buckets import S3, s3

__all__ = ["bucket", "s3", "store"]

DATA = bytes(range(256)) * 9_000
SHA256 = hashlib.sha256(DATA).hexdigest()
KEY = key_of(SHA256)


class Folder:
    """A folder as a test sees it from outside."""

    def __init__(self, tmp_path: Path) -> None:
        self.root = tmp_path / "blobs"
        self.blobs: Blobs = FolderBlobs(self.root)

    def another(self) -> Blobs:
        """One that has read nothing yet."""
        return FolderBlobs(self.root)

    def stored(self) -> list[str]:
        """All that is stored."""
        return sorted(path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file())

    def write(self, key: str, data: bytes) -> None:
        (self.root / key).write_bytes(data)

    def remove(self, key: str) -> None:
        (self.root / key).unlink()


class Bucket:
    """A bucket, and caches of it."""

    def __init__(self, tmp_path: Path, s3: S3) -> None:
        self.address, self._tmp_path, self._caches = s3.address(), tmp_path, 0
        self.raw: Any = from_url(self.address, client_options={"allow_http": True})
        self.blobs = self.another()

    def another(self, *, limit_bytes: int = 1 << 30) -> ObjectBlobs:
        """One on another machine, which has nothing in its cache."""
        self._caches += 1
        cache = Cache(self._tmp_path / f"cache-{self._caches}", limit_bytes=limit_bytes)
        return open_objects(self.address, cache, retry_seconds=1)

    def stored(self) -> list[str]:
        return sorted(each["path"] for each in obstore.list(self.raw).collect())

    def write(self, key: str, data: bytes) -> None:
        obstore.put(self.raw, key, data)

    def remove(self, key: str) -> None:
        obstore.delete(self.raw, key)


@pytest.fixture
def bucket(tmp_path: Path, s3: S3, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return Bucket(tmp_path, s3)


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Folder | Bucket:
    makers: dict[str, Callable[[], Folder | Bucket]] = {
        "folder": lambda: Folder(tmp_path),
        "bucket": lambda: request.getfixturevalue("bucket"),
    }
    return makers[request.param]()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(b"weights")
    (folder / "training.json").write_bytes(b"{}")
    return folder
