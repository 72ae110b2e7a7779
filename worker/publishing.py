"""What a child made, taken over: bytes become blobs, the rest a value for the database. Nothing is visible yet.

A trainer is not trusted to hash its own work: what is published is what was stored, and is looked at once more.
"""

from __future__ import annotations

from pathlib import Path

from gammabeta.errors import ArtifactCorrupt
from gammabeta.schemas.datasets import DatasetManifest
from gammabeta.store.jobs import Claim
from gammabeta.store.publishing import Publication
from gammabeta.store.stored import Blobs
from worker import results
from worker.messages import MANIFEST


def publication(folder: Path, claim: Claim, blobs: Blobs) -> Publication:
    """A finished training.

    Raises:
        ArtifactCorrupt: its batch-norm state must not be served.
        NoSpace.
    """
    result, state = results.read(folder)
    problem = state.problem()
    if problem is not None:
        raise ArtifactCorrupt(f"The batch-norm state must be finite, and no variance negative. Received: {problem}.")
    sha256, size = blobs.put_file(folder / results.WEIGHTS)
    return Publication(
        model=claim.model or "",
        dataset_id=claim.dataset_id or "",
        network=result.network.model_dump(mode="json"),
        preprocessing=result.preprocessing.model_dump(mode="json"),
        classes=None if result.classes is None else list(result.classes),
        metrics=result.metrics,
        weights_sha256=sha256,
        weights_bytes=size,
        state=state,
        parameters=result.parameters,
    )


def ingested(folder: Path, blobs: Blobs, existing: DatasetManifest | None) -> DatasetManifest:
    """A file that was read; its arrays are blobs afterwards.

    Raises:
        ArtifactCorrupt: the manifest names an array that is not there.
        NoSpace.
    """
    manifest = DatasetManifest.model_validate_json((folder / MANIFEST).read_bytes())
    stored = {blobs.put_file(path)[0] for path in sorted(folder.glob("*.npy"))}
    if existing is not None:
        stored |= _arrays(existing)
    missing = _arrays(manifest) - stored
    if missing:
        raise ArtifactCorrupt(f"Each array must be stored under its hash. Missing: {', '.join(sorted(missing))}.")
    return manifest


def _arrays(manifest: DatasetManifest) -> set[str]:
    return {each.sha256 for split in manifest.splits.values() for each in (split.x, split.y)}
