"""What an attempt starts from: the arrays of a data set, verified, and its manifest."""

from __future__ import annotations

from pathlib import Path

from gammabeta.errors import ArtifactCorrupt
from gammabeta.schemas.datasets import DatasetManifest
from gammabeta.store import datasets
from gammabeta.store.engine import Session
from gammabeta.store.jobs import Claim
from gammabeta.store.stored import Blobs


def manifest_of(session: Session, claim: Claim) -> DatasetManifest:
    """What the job's data set is made of.

    Raises:
        DatasetNotFound: it was deleted.
        ArtifactCorrupt: it has no manifest.
    """
    row = datasets.get(session, claim.project_id, claim.dataset_id or "")
    manifest = datasets.manifest(row)
    if manifest is None:
        raise ArtifactCorrupt(f"The data set {row.id} must have been ingested. Its manifest is missing: upload it.")
    return manifest


class Inputs:
    """The arrays that attempts map. A file is hashed when it is first used and whenever it looks touched since. Used by
    the threads of all slots; at worst two of them hash the same file."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._seen: dict[str, tuple[int, ...]] = {}

    def arrays(self, manifest: DatasetManifest) -> dict[str, Path]:
        """The file of each array, by its hash.

        Raises:
            ArtifactCorrupt: one is missing, or its bytes do not have the hash.
        """
        hashes = {each.sha256 for split in manifest.splits.values() for each in (split.x, split.y)}
        return {sha256: self.file(sha256) for sha256 in sorted(hashes)}

    def file(self, sha256: str) -> Path:
        """The file of one blob.

        Raises:
            ArtifactCorrupt: as above.
        """
        path = self._blobs.path(sha256)
        looks = _looks(path)
        if self._seen.get(sha256) != looks:
            self._blobs.verify(sha256, again=True)
            self._seen[sha256] = looks
        return path


def _looks(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
