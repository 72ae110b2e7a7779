"""How many bytes a project has stored, and how many it may have.

    upload ──► Room: before the first byte, and while they come ──► StorageLimit.check: in the transaction that keeps it
    submit ──► StorageLimit.check: whether there is any room

Counted is what rows name, so that what is deleted counts no more although its bytes lie there until the sweep. What was
accepted is never refused: ingestions, trainings and predictions store their results, and may go beyond.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from gammabeta.errors import ProjectFull
from gammabeta.schemas.jobs import JobState
from gammabeta.schemas.usage import UsedBytes
from gammabeta.store import limits
from gammabeta.store.jobs import PREDICT
from gammabeta.store.tables import CheckpointRow, DatasetRow, JobRow, ModelRow, VersionRow


def measure(session: Session, project_id: str) -> UsedBytes:
    """What the project has now."""
    datasets, models, jobs = _datasets(session, project_id), _models(session, project_id), _jobs(session, project_id)
    return UsedBytes(datasets=datasets, models=models, jobs=jobs, total=datasets + models + jobs)


@dataclass(frozen=True, kw_only=True)
class Room:
    """What a project had stored a moment ago, and may have. None: any number."""

    project_id: str
    used: UsedBytes
    limit: int

    def check(self, more: int) -> None:
        """Whether so many bytes can come.

        Raises:
            ProjectFull.
        """
        if self.used.total + more > self.limit:
            raise ProjectFull(self._message(more))

    def _message(self, more: int) -> str:
        used = self.used
        each = f"data sets {used.datasets:,}, models {used.models:,}, jobs {used.jobs:,}"
        coming = f", and {more:,} or more would come" if more > 1 else ""
        return (
            f"A project may have {self.limit:,} bytes (GAMMABETA_PROJECT_BYTES). '{self.project_id}' has "
            f"{used.total:,} ({each}){coming}. Delete data sets, versions or jobs that are not needed."
        )


@dataclass(frozen=True, kw_only=True)
class StorageLimit:
    """How many bytes each project may have; 0: any number."""

    bytes: int = 0

    def room(self, session: Session, project_id: str) -> Room | None:
        """What there is now. None: as much as anybody wants."""
        if not self.bytes:
            return None
        return Room(project_id=project_id, used=measure(session, project_id), limit=self.bytes)

    def check(self, session: Session, project_id: str, more: int) -> None:
        """Whether so many bytes may come. Exact: who asks in a transaction that keeps them waits for those before him.

        Raises:
            ProjectFull.
        """
        if self.bytes:
            limits.take_turns(session, limits.STORING)
        room = self.room(session, project_id)
        if room is not None:
            room.check(more)


def _datasets(session: Session, project_id: str) -> int:
    columns = (DatasetRow.state, DatasetRow.bytes, DatasetRow.manifest["splits"], DatasetRow.options["second"])
    arrays: dict[str, int] = {}
    waiting = 0
    for state, size, splits, second in session.execute(select(*columns).where(DatasetRow.project_id == project_id)):
        arrays.update(_arrays(splits or {}))
        if state == "validating":
            waiting += size if second is None else second["bytes"]
    return sum(arrays.values()) + waiting


def _arrays(splits: dict[str, Any]) -> Iterator[tuple[str, int]]:
    for split in splits.values():
        for array in (split["x"], split["y"]):
            yield array["sha256"], array["bytes"]


def _models(session: Session, project_id: str) -> int:
    weights = select(VersionRow.weights_sha256, func.max(VersionRow.weights_bytes).label("bytes")).join(
        ModelRow, ModelRow.id == VersionRow.model_id
    )
    each = weights.where(ModelRow.project_id == project_id).group_by(VersionRow.weights_sha256).subquery()
    return int(session.scalar(select(func.coalesce(func.sum(each.c.bytes), 0))) or 0)


def _jobs(session: Session, project_id: str) -> int:
    of_project = JobRow.project_id == project_id
    made = (of_project, JobRow.kind == PREDICT, JobRow.state == JobState.SUCCEEDED)
    results = session.execute(select(JobRow.result["sha256"].as_string(), JobRow.result["bytes"]).where(*made))
    files: dict[str, int] = {sha256: size for sha256, size in results}  # noqa: C416 - mypy knows no rows as pairs
    kept = select(func.coalesce(func.sum(CheckpointRow.bytes), 0)).join(JobRow, JobRow.id == CheckpointRow.job_id)
    return sum(files.values()) + int(session.scalar(kept.where(of_project)) or 0)
