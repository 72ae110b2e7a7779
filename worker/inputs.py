"""What an attempt starts from: the arrays of a data set, verified."""

from __future__ import annotations

from pathlib import Path

from gammabeta.schemas.datasets import DatasetManifest
from gammabeta.store.blobs import FolderBlobs


class Inputs:
    """The arrays that attempts map. A file is hashed when it is first used and whenever it looks touched since. Used by
    the threads of all slots; at worst two of them hash the same file."""

    def __init__(self, blobs: FolderBlobs) -> None:
        self._blobs = blobs
        self._seen: dict[str, tuple[int, ...]] = {}

    def arrays(self, manifest: DatasetManifest) -> dict[str, Path]:
        """The file of each array, by its hash.

        Raises:
            ArtifactCorrupt: one is missing, or its bytes do not have the hash.
        """
        hashes = {each.sha256 for split in manifest.splits.values() for each in (split.x, split.y)}
        return {sha256: self._verified(sha256) for sha256 in sorted(hashes)}

    def _verified(self, sha256: str) -> Path:
        path = self._blobs.path(sha256)
        looks = _looks(path)
        if self._seen.get(sha256) != looks:
            self._blobs.verify(sha256, again=True)
            self._seen[sha256] = looks
        return path


def _looks(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
