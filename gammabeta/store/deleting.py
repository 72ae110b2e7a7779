"""Deleting jobs, versions and models, and what keeps them. `datasets.delete` is that of data sets.

    data set ◄── job that has not ended
    job      ◄── version that it made
    version  ◄── alias · predict job that has not ended · version of which it is the parent
    model    ◄── any of that, and a training that has not ended

What is kept by something is refused, with its name; nothing else goes with what is deleted. Whoever is about to point
at a row locks it before (`jobs.submit`, `jobs.retry`, `models.set_alias`, `publishing`), and here it is locked before
anybody is looked for, so that one of the two sees the other. Bytes go by the sweep, once no row names them.

The row of a model stays with its last number, so that a version which is trained under its name later has a new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import ColumnElement, delete, exists, select
from sqlalchemy.orm import Session

from gammabeta.errors import WrongState
from gammabeta.store import jobs, models
from gammabeta.store.publishing import move_revision
from gammabeta.store.tables import (
    AliasRow,
    CheckpointRow,
    EventRow,
    JobRow,
    LayerRow,
    ModelRow,
    PointRow,
    StateRow,
    VersionRow,
)

DELETED = "deleted_version"
"""In the result of a job: the version that it made, and that is no more."""
NAMED_JOBS = 3
"""How many of those that keep something a message names."""
_UNSYNCHRONIZED = {"synchronize_session": False}


def delete_job(session: Session, project_id: str, job_id: str) -> None:
    """Remove a job that has ended, with its events, series and checkpoints. Its files are those of nobody then.

    Raises:
        JobNotFound.
        WrongState: it has not ended; or its version is still there.
    """
    row = jobs.locked(session, project_id, job_id, "delete", jobs.ENDED)
    made = select(ModelRow.name, VersionRow.number).join(VersionRow, VersionRow.model_id == ModelRow.id)
    version = session.execute(made.where(VersionRow.job_id == row.id)).one_or_none()
    if version is not None:
        raise WrongState(
            f"A job stays for as long as its version. Delete version {version.number} of '{version.name}' first."
        )
    for kind in (EventRow, PointRow, CheckpointRow):
        session.execute(delete(kind).where(kind.job_id == row.id), execution_options=_UNSYNCHRONIZED)
    session.delete(row)
    session.flush()


def delete_version(session: Session, project_id: str, name: str, version: str) -> None:
    """Remove a version. Its job stays, and says so.

    Raises:
        ModelNotFound, VersionNotFound.
        WrongState: an alias, a job that has not ended, or another version needs it; the message names them.
    """
    model = models.locked(session, project_id, name)
    row = models.numbered(session, model, version, lock=True)
    what = f"Version {row.number} of '{name}'"
    aliases = select(AliasRow.alias).where(AliasRow.model_id == model.id, AliasRow.number == row.number)
    _refuse_aliased(what, session.scalars(aliases.order_by(AliasRow.alias)).all())
    predicting = (JobRow.kind == jobs.PREDICT, JobRow.request["version"].as_string() == str(row.number))
    _refuse_used(what, _using(session, model, *predicting))
    children = select(VersionRow.number).where(VersionRow.model_id == model.id, VersionRow.parent == str(row.number))
    child = session.scalar(children.limit(1))
    if child is not None:
        raise WrongState(f"{what} is the parent of version {child}. Delete that first.")
    _remove(session, model, [row])


def delete_model(session: Session, project_id: str, name: str) -> None:
    """Remove all versions of a model, and so the model. Its name is free again, the numbers are not.

    Raises:
        ModelNotFound.
        WrongState: it has an alias, or a job that has not ended names it; the message names them.
    """
    model = models.locked(session, project_id, name)
    versions = select(VersionRow).where(VersionRow.model_id == model.id).order_by(VersionRow.number)
    rows = session.scalars(versions.with_for_update(of=VersionRow)).all()
    what = f"The model '{name}'"
    aliases = select(AliasRow.alias).where(AliasRow.model_id == model.id).order_by(AliasRow.alias)
    _refuse_aliased(what, session.scalars(aliases).all())
    _refuse_used(what, _using(session, model))
    _remove(session, model, rows)


def _refuse_aliased(what: str, aliases: Sequence[str]) -> None:
    if aliases:
        plural = "es" if len(aliases) > 1 else ""
        raise WrongState(
            f"{what} has the alias{plural} {', '.join(aliases)}. Move what names it to another version, or remove it."
        )


def _using(session: Session, model: ModelRow, *which: ColumnElement[bool]) -> list[JobRow]:
    """The jobs that have not ended, and name the model: one more than a message names."""
    live = (JobRow.project_id == model.project_id, JobRow.model == model.name, JobRow.state.in_(jobs.LIVE))
    query = select(JobRow).where(*live, *which)
    return list(session.scalars(query.order_by(JobRow.id).limit(NAMED_JOBS + 1)))


def _refuse_used(what: str, rows: Sequence[JobRow]) -> None:
    if rows:
        named = ", ".join(f"{row.id} ({row.state})" for row in rows[:NAMED_JOBS])
        more = " and others" if len(rows) > NAMED_JOBS else ""
        raise WrongState(f"{what} is used by {named}{more}. Cancel what uses it, or wait for it to end.")


def _remove(session: Session, model: ModelRow, rows: Sequence[VersionRow]) -> None:
    for row in rows:
        _tell_job(session, row)
        session.delete(row)
    session.flush()
    _forget_states(session, {row.batchnorm_digest for row in rows})
    move_revision(session, model.project_id)


def _tell_job(session: Session, row: VersionRow) -> None:
    """What it shows must be there."""
    job = session.scalars(select(JobRow).where(JobRow.id == row.job_id).with_for_update()).one()
    job.version = None
    job.result = {**(job.result or {}), DELETED: str(row.number)}


def _forget_states(session: Session, digests: Iterable[str]) -> None:
    """Remove the batch-norm states that no version has any more. In order, since two who delete may share several."""
    for digest in sorted(digests):
        # Whoever publishes locks the state before he names it.
        session.execute(select(StateRow.digest).where(StateRow.digest == digest).with_for_update())
        if not session.scalar(select(exists().where(VersionRow.batchnorm_digest == digest))):
            for kind in (LayerRow, StateRow):
                session.execute(delete(kind).where(kind.digest == digest), execution_options=_UNSYNCHRONIZED)
