"""What has been kept for as long as the settings say, a batch at a time: candidates for `deleting`, which refuses those
that something has come to need meanwhile. Of all projects.

    jobs        that ended so many days ago and whose version, if they made one, is gone
    versions    of each model all but the newest, besides those with an alias
    data sets   that no job has used for so many days
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Subquery, Text, cast, exists, func, not_, or_, select
from sqlalchemy.orm import Session, aliased

from gammabeta.store import jobs
from gammabeta.store.tables import AliasRow, DatasetRow, JobRow, ModelRow, VersionRow, now_ms

DAY_MS = 86_400_000


@dataclass(frozen=True, kw_only=True)
class Retention:
    """For how long, and how many; None: all, for ever."""

    jobs_days: int | None = None
    versions: int | None = None
    datasets_days: int | None = None


def old_jobs(session: Session, keep: Retention, *, limit: int) -> list[tuple[str, str]]:
    """Project and id of jobs that ended long ago, the oldest first. What a data set was used by is what its own time
    goes by: where that is limited too, its jobs stay for as long."""
    if keep.jobs_days is None:
        return []
    ended = (JobRow.state.in_(jobs.ENDED), JobRow.finished_ms < _days_ago(keep.jobs_days))
    made = exists().where(VersionRow.job_id == JobRow.id)
    query = select(JobRow.project_id, JobRow.id).where(*ended, not_(made))
    if keep.datasets_days is not None:
        its_dataset = exists().where(DatasetRow.id == JobRow.dataset_id)
        query = query.where(or_(not_(its_dataset), JobRow.finished_ms < _days_ago(keep.datasets_days)))
    return [(project, job) for project, job in session.execute(query.order_by(JobRow.id).limit(limit))]


def surplus_versions(session: Session, keep: Retention, *, limit: int) -> list[tuple[str, str, str]]:
    """Project, model and number of versions that are not among the newest, the oldest first. One with an alias is
    neither counted nor listed, and one that something else needs is not listed: it would be refused each time, and take
    the place of others."""
    if keep.versions is None:
        return []
    ranked = _ranked()
    query = (
        select(ModelRow.project_id, ModelRow.name, ranked.c.number)
        .join(ranked, ranked.c.model_id == ModelRow.id)
        .where(ranked.c.place > keep.versions, not_(_is_needed(ranked)))
    )
    found = session.execute(query.order_by(ModelRow.id, ranked.c.number).limit(limit))
    return [(project, name, str(number)) for project, name, number in found]


def _ranked() -> Subquery:
    named = exists().where(AliasRow.model_id == VersionRow.model_id, AliasRow.number == VersionRow.number)
    place = func.row_number().over(partition_by=VersionRow.model_id, order_by=VersionRow.number.desc())
    return select(VersionRow.model_id, VersionRow.number, place.label("place")).where(not_(named)).subquery()


def _is_needed(ranked: Subquery) -> ColumnElement[bool]:
    number, child = cast(ranked.c.number, Text), aliased(VersionRow)
    predicting = exists().where(
        JobRow.state.in_(jobs.LIVE),
        JobRow.kind == jobs.PREDICT,
        JobRow.project_id == ModelRow.project_id,
        JobRow.model == ModelRow.name,
        JobRow.request["version"].as_string() == number,
    )
    return or_(predicting, exists().where(child.model_id == ranked.c.model_id, child.parent == number))


def unused_datasets(session: Session, keep: Retention, *, limit: int) -> list[tuple[str, str]]:
    """Project and id of data sets that nobody has used for long, the oldest first. Used they were when they came, by
    jobs until those ended."""
    if keep.datasets_days is None:
        return []
    before = _days_ago(keep.datasets_days)
    used = exists().where(
        JobRow.dataset_id == DatasetRow.id, or_(JobRow.state.in_(jobs.LIVE), JobRow.finished_ms >= before)
    )
    query = select(DatasetRow.project_id, DatasetRow.id).where(DatasetRow.created_ms < before, not_(used))
    return [(project, dataset) for project, dataset in session.execute(query.order_by(DatasetRow.id).limit(limit))]


def _days_ago(days: int) -> ColumnElement[int]:
    return now_ms() - days * DAY_MS
