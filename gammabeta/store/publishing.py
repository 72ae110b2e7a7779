"""The way to succeeded: what an attempt made becomes visible, in one transaction, under its fence, and once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, insert, null, select, update
from sqlalchemy.orm import Session

from gammabeta.schemas.batchnorm import BatchNormState, to_bytes
from gammabeta.schemas.datasets import DatasetManifest
from gammabeta.schemas.jobs import JobState
from gammabeta.store import events, leases
from gammabeta.store.tables import (
    DatasetRow,
    LayerRow,
    ModelRow,
    ProjectRow,
    StateRow,
    VersionRow,
    core,
    new_id,
    now_ms,
)
from gammabeta.store.together import Together, inserting_if_absent

_JOBS, _MODELS, _VERSIONS = leases.JOBS, core(ModelRow), core(VersionRow)
_PROJECTS, _STATES = core(ProjectRow), core(StateRow)

_SUCCEED = (
    update(_JOBS)
    .where(leases.HELD, _JOBS.c.cancel_requested_ms.is_(None))
    .values(state=JobState.SUCCEEDED.value, finished_ms=now_ms(), worker_id=null(), lease_until_ms=null())
    .returning(_JOBS.c.project_id)
)
_NEXT_VERSION = (
    update(_MODELS)
    .where(_MODELS.c.project_id == bindparam("project"), _MODELS.c.name == bindparam("named"))
    .values(last_version=_MODELS.c.last_version + 1)
    .returning(_MODELS.c.id, _MODELS.c.last_version)
)
_ADD_MODEL = inserting_if_absent(_MODELS, created_ms=now_ms())
_ADD_STATE = inserting_if_absent(_STATES, created_ms=now_ms())
# The lock keeps the state, which goes with the last version that has it, until there is one more.
_STATE = (
    select(_STATES.c.digest).where(_STATES.c.digest == bindparam("digest")).with_for_update(read=True, key_share=True)
)
_ITS: dict[str, Any] = {each.name: bindparam(f"its_{each.name}") for each in _VERSIONS.c if each.name != "created_ms"}
_ADD_VERSION = insert(_VERSIONS).values({**_ITS, "created_ms": now_ms()}).inline()
_SHOW_VERSION = (
    update(_JOBS)
    .where(_JOBS.c.id == bindparam("its_job_id"))
    .values(version=bindparam("its_number"), model=bindparam("named"), result=bindparam("shown"))
)
_SHOW_RESULT = update(_JOBS).where(_JOBS.c.id == bindparam("its_job_id")).values(result=bindparam("shown"))
_MOVE_REVISION = (
    update(_PROJECTS).where(_PROJECTS.c.id == bindparam("project")).values(revision=_PROJECTS.c.revision + 1)
)
_PUBLISH = Together(_ADD_VERSION, _SHOW_VERSION, events.RECORD, _MOVE_REVISION)


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
    place = {"model_id": model_id, "number": number, "job_id": job_id, "fence": fence}
    row = {f"its_{name}": value for name, value in (place | _columns(publication)).items()}
    shown = {"named": publication.model, "shown": {"metrics": _brief(publication.metrics)}}
    data = {"outcome": "success", "model": publication.model, "version": str(number)}
    event = events.given(job_id, fence, "succeeded", data)
    _PUBLISH.execute(session, row | shown | event | {"project": project_id})
    return str(number)


def _columns(publication: Publication) -> dict[str, Any]:
    return {
        "dataset_id": publication.dataset_id,
        "network": publication.network,
        "preprocessing": publication.preprocessing,
        "classes": publication.classes,
        "metrics": publication.metrics,
        "weights_sha256": publication.weights_sha256,
        "weights_bytes": publication.weights_bytes,
        "batchnorm_digest": publication.state.digest,
        "batchnorm_counts": _counts(publication.state),
        "parameters": publication.parameters,
        "parent": publication.parent,
    }


def _brief(metrics: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What a version can do, in single numbers: the progress of a job that stopped early is of another epoch."""
    return {split: single_numbers(values) for split, values in metrics.items()}


def single_numbers(metrics: dict[str, Any]) -> dict[str, Any]:
    """Without those that are of classes, and those that could not be computed."""
    return {name: value for name, value in metrics.items() if isinstance(value, int | float)}


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


def publish_file(session: Session, *, job_id: str, fence: int, result: dict[str, Any]) -> bool:
    """Let the job have a file, which is a blob already; `result` names it by its `sha256`. False: the fence is lost, or
    the job is being cancelled, and nothing was written."""
    if _succeed(session, job_id, fence) is None:
        return False
    session.execute(_SHOW_RESULT, {"its_job_id": job_id, "shown": result})
    data = {"outcome": "success", **{key: result[key] for key in ("file", "rows", "bytes", "sha256")}}
    events.record(session, job_id=job_id, fence=fence, type="succeeded", data=data)
    return True


def move_revision(session: Session, project_id: str) -> None:
    """Tell every process that keeps resolved names to look again. The last statement of a transaction, since all
    writers of the project wait for each other here."""
    session.execute(_MOVE_REVISION, {"project": project_id})


def _succeed(session: Session, job_id: str, fence: int) -> str | None:
    """The guarded step to succeeded: the job's project, or None."""
    project_id: str | None = session.scalar(_SUCCEED, leases.attempt(job_id, fence))
    return project_id


def _next_version(session: Session, project_id: str, name: str) -> tuple[str, int]:
    """The model's id and a number that was never used."""
    named = {"project": project_id, "named": name}
    raised = session.execute(_NEXT_VERSION, named).one_or_none()
    if raised is None:
        values = {"id": new_id("mdl"), "project_id": project_id, "name": name, "last_version": 0}
        _ADD_MODEL(session, values)
        raised = session.execute(_NEXT_VERSION, named).one()
    model_id, number = raised
    return model_id, number


def _counts(state: BatchNormState) -> list[dict[str, int]]:
    """What this training did to each layer. Another one may have come to the same state by another way."""
    return [{key: getattr(layer, key) for key in ("updates", "skipped", "single")} for layer in state.layers]


def _store_state(session: Session, state: BatchNormState) -> None:
    """Versions with the same state share its rows."""
    head = {"digest": state.digest, "layers": len(state.layers)}
    while session.scalar(_STATE, {"digest": state.digest}) is None:
        if _ADD_STATE(session, head):
            _add_layers(session, state)
            return


def _add_layers(session: Session, state: BatchNormState) -> None:
    if not state.layers:
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
