"""Which blobs are needed: the hashes that rows name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from gammabeta.store.tables import DatasetRow, JobRow, ModelRow, VersionRow


@dataclass(frozen=True, kw_only=True)
class Named:
    """A blob that a row names."""

    sha256: str
    bytes: int | None
    """None: the row does not say."""
    by: str
    """What it is, for a sentence: `the weights of version 3 of 'digits'`."""


def named_blobs(session: Session) -> set[str]:
    """Their hashes."""
    return {each.sha256 for each in named(session)}


def named(session: Session) -> Iterator[Named]:
    """Weights, the arrays of data sets, and the files that jobs made. Of documents every `sha256` counts, wherever it
    stands in them: one too many costs room, one too few costs data."""
    weights = select(VersionRow.weights_sha256, VersionRow.weights_bytes, VersionRow.number, ModelRow.name)
    for sha256, size, number, name in session.execute(weights.join(ModelRow, ModelRow.id == VersionRow.model_id)):
        yield Named(sha256=sha256, bytes=size, by=f"the weights of version {number} of '{name}'")
    for name, document in session.execute(_having(DatasetRow.name, DatasetRow.manifest)):
        yield from _in(document, f"an array of the data set '{name}'")
    for job_id, document in session.execute(_having(JobRow.id, JobRow.result)):
        yield from _in(document, f"a file of {job_id}")


def _having(whose: Any, document: Any) -> Any:
    return select(whose, document).where(document.is_not(None))


def _in(document: Any, by: str) -> Iterator[Named]:
    if isinstance(document, dict):
        sha256, size = document.get("sha256"), document.get("bytes")
        if isinstance(sha256, str):
            yield Named(sha256=sha256, bytes=size if isinstance(size, int) else None, by=by)
        for value in document.values():
            yield from _in(value, by)
    elif isinstance(document, list):
        for value in document:
            yield from _in(value, by)
