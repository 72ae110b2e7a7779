"""The way to succeeded: what an attempt made becomes visible, in one transaction, under its fence, and once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, null, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from gammabeta.schemas.batchnorm import BatchNormState, to_bytes
from gammabeta.schemas.datasets import DatasetManifest
from gammabeta.schemas.jobs import JobState
from gammabeta.store import events, leases
from gammabeta.store.tables import (
    DatasetRow,
    JobRow,
    LayerRow,
    ModelRow,
    ProjectRow,
    StateRow,
    Table,
    VersionRow,
    new_id,
    now_ms,
)


@dataclass(frozen=True, kw_only=True)
class Publication:
    """A trained network. Its weights are a blob already."""

    model: str
    dataset_id: str
    network: dict[str, Any]
    preprocessing: dict[str, Any]
    classes: list[str] | None
    metrics: dict[str, Any]
    weights_sha256: str
    weights_bytes: int
    state: BatchNormState
    parameters: int
    parent: str | None = None


def publish_version(session: Session, *, job_id: str, fence: int, publication: Publication) -> str | None:
    """Publish the attempt's network as a new version of the model, which is made if it is missing. The version; None:
    the fence is lost, or the job is being cancelled, and nothing was written."""
    project_id = _succeed(session, job_id, fence)
    if project_id is None:
        return None
    model_id, number = _next_version(session, project_id, publication.model)
    _store_state(session, publication.state)
    row = VersionRow(
        model_id=model_id,
        number=number,
        job_id=job_id,
        fence=fence,
        dataset_id=publication.dataset_id,
        network=publication.network,
        preprocessing=publication.preprocessing,
        classes=publication.classes,
        metrics=publication.metrics,
        weights_sha256=publication.weights_sha256,
        weights_bytes=publication.weights_bytes,
        batchnorm_digest=publication.state.digest,
        batchnorm_counts=_counts(publication.state),
        parameters=publication.parameters,
        parent=publication.parent,
        created_ms=now_ms(),
    )
    session.add(row)
    session.flush()
    shown = {"version": number, "model": publication.model, "result": {"metrics": _brief(publication.metrics)}}
    session.execute(update(JobRow).where(JobRow.id == job_id).values(**shown))
    data = {"outcome": "success", "model": publication.model, "version": str(number)}
    events.record(session, job_id=job_id, fence=fence, type="succeeded", data=data)
    move_revision(session, project_id)
    return str(number)


def _brief(metrics: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What a version can do, in single numbers: the progress of a job that stopped early is of another epoch."""
    return {
        split: {name: value for name, value in values.items() if isinstance(value, int | float)}
        for split, values in metrics.items()
    }


def publish_dataset(session: Session, *, job_id: str, fence: int, dataset_id: str, manifest: DatasetManifest) -> bool:
    """Make the data set ready. False: the fence is lost, or the job is being cancelled, and nothing was written."""
    if _succeed(session, job_id, fence) is None:
        return False
    ready = {"state": "ready", "manifest": manifest.model_dump(mode="json")}
    session.execute(
        update(DatasetRow)
        .where(DatasetRow.id == dataset_id)
        .values(**ready, error_code=None, error_message=None)
        .execution_options(synchronize_session=False)
    )
    data = {"outcome": "success", "dataset": dataset_id}
    events.record(session, job_id=job_id, fence=fence, type="succeeded", data=data)
    return True


def move_revision(session: Session, project_id: str) -> None:
    """Tell every process that keeps resolved names to look again. The last statement of a transaction, since all
    writers of the project wait for each other here."""
    session.execute(
        update(ProjectRow)
        .where(ProjectRow.id == project_id)
        .values(revision=ProjectRow.revision + 1)
        .execution_options(synchronize_session=False)
    )


def _succeed(session: Session, job_id: str, fence: int) -> str | None:
    """The guarded step to succeeded: the job's project, or None."""
    return session.scalar(
        update(JobRow)
        .where(leases.held(job_id, fence), JobRow.cancel_requested_ms.is_(None))
        .values(state=JobState.SUCCEEDED, finished_ms=now_ms(), worker_id=null(), lease_until_ms=null())
        .returning(JobRow.project_id)
        .execution_options(synchronize_session=False)
    )


def _next_version(session: Session, project_id: str, name: str) -> tuple[str, int]:
    """The model's id and a number that was never used."""
    named = (ModelRow.project_id == project_id, ModelRow.name == name)
    if session.scalar(select(ModelRow.id).where(*named)) is None:
        values = {"id": new_id("mdl"), "project_id": project_id, "name": name, "last_version": 0}
        _insert_if_absent(session, ModelRow, {**values, "created_ms": now_ms()})
    raised = update(ModelRow).where(*named).values(last_version=ModelRow.last_version + 1)
    model_id, number = session.execute(
        raised.returning(ModelRow.id, ModelRow.last_version).execution_options(synchronize_session=False)
    ).one()
    return model_id, number


def _counts(state: BatchNormState) -> list[dict[str, int]]:
    """What this training did to each layer. Another one may have come to the same state by another way."""
    return [{key: getattr(layer, key) for key in ("updates", "skipped", "single")} for layer in state.layers]


def _store_state(session: Session, state: BatchNormState) -> None:
    """Versions with the same state share its rows."""
    if session.scalar(select(StateRow.digest).where(StateRow.digest == state.digest)) is not None:
        return
    head = {"digest": state.digest, "layers": len(state.layers), "created_ms": now_ms()}
    if not _insert_if_absent(session, StateRow, head) or not state.layers:
        return
    session.execute(
        insert(LayerRow),
        [
            {
                "digest": state.digest,
                "position": position,
                "name": layer.name,
                "channels": layer.channels,
                "axis": layer.axis,
                "epsilon": layer.epsilon,
                "gamma": None if layer.gamma is None else to_bytes(layer.gamma),
                "beta": None if layer.beta is None else to_bytes(layer.beta),
                "moving_mean": to_bytes(layer.moving_mean),
                "moving_variance": to_bytes(layer.moving_variance),
            }
            for position, layer in enumerate(state.layers)
        ],
    )


def _insert_if_absent(session: Session, table: type[Table], values: dict[str, Any]) -> bool:
    """False: another transaction was first, and has committed."""
    try:
        with session.begin_nested():
            session.execute(insert(table).values(**values))
    except IntegrityError:
        return False
    return True
