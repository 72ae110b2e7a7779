"""Which blobs are needed: the hashes that rows name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from gammabeta.store.tables import DatasetRow, JobRow, VersionRow


def named_blobs(session: Session) -> set[str]:
    """The hashes of weights, of the arrays of data sets, and of the files that jobs made. Of documents every `sha256`
    counts, wherever it stands in them: one too many costs room, one too few costs data."""
    named = set(session.scalars(select(VersionRow.weights_sha256)))
    for column in (DatasetRow.manifest, JobRow.result):
        for document in session.scalars(select(column).where(column.is_not(None))):
            named.update(_hashes(document))
    return named


def _hashes(document: Any) -> Iterator[str]:
    if isinstance(document, dict):
        for key, value in document.items():
            if key == "sha256" and isinstance(value, str):
                yield value
            else:
                yield from _hashes(value)
    elif isinstance(document, list):
        for value in document:
            yield from _hashes(value)
