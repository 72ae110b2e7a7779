"""What a job is made of when it is submitted: every name resolved, and refused here if it could not run.

body ──validated──► TrainRequest | PredictDatasetRequest ──new_job──► NewJob
                                                         └─dry_run──► DryRun | PredictDryRun
"""

from __future__ import annotations

from typing import Any, TypeAlias

from pydantic import TypeAdapter, ValidationError

from gammabeta.errors import InvalidRequest, WrongState
from gammabeta.schemas import readings
from gammabeta.schemas.datasets import DatasetManifest
from gammabeta.schemas.jobs import (
    DryRun,
    JobRequest,
    Lane,
    PredictDatasetRequest,
    PredictDryRun,
    ResolvedPredictRequest,
    TrainRequest,
)
from gammabeta.schemas.models import Version
from gammabeta.schemas.problems import invalid
from gammabeta.schemas.resolution import Resolved, memory_bytes, resolve
from gammabeta.schemas.resolution import dry_run as dry_run_of
from gammabeta.store import datasets, jobs, models
from gammabeta.store.engine import Session
from gammabeta.store.tables import DatasetRow
from service.keyring import Caller
from service.settings import ServiceSettings

Submission: TypeAlias = TrainRequest | PredictDatasetRequest

_REQUEST: TypeAdapter[Submission] = TypeAdapter(JobRequest)


def validated(body: Any) -> Submission:
    """The body of a submission.

    Raises:
        InvalidRequest
    """
    try:
        return _REQUEST.validate_python(body)
    except ValidationError as exc:
        raise invalid(exc) from exc


def dry_run(session: Session, settings: ServiceSettings, caller: Caller, request: Submission) -> DryRun | PredictDryRun:
    """What the submission would do. It raises what the submission would."""
    row, manifest = _ready_dataset(session, caller, request.dataset)
    if isinstance(request, PredictDatasetRequest):
        return readings.dry_run(*_predicting(session, caller, request, row, manifest), manifest)
    return dry_run_of(_training(settings, request, row, manifest), manifest)


def new_job(session: Session, settings: ServiceSettings, caller: Caller, request: Submission) -> jobs.NewJob:
    """The job to be queued.

    Raises:
        InvalidRequest: it could not run.
        DatasetNotFound, ModelNotFound, VersionNotFound.
        WrongState: the data set is not ready.
    """
    row, manifest = _ready_dataset(session, caller, request.dataset)
    resolved: Any
    if isinstance(request, PredictDatasetRequest):
        resolved, devices = _predicting(session, caller, request, row, manifest)[0], 1
    else:
        resolved = _training(settings, request, row, manifest).request
        devices = resolved.resources.devices
    # Predictions too are in the lane of trainings: one of a whole data set may take hours, and compute as hard. In the
    # lane of uploads it would block each of them for so long.
    return jobs.NewJob(
        project_id=caller.project_id,
        owner_id=caller.owner_id,
        kind=resolved.kind,
        lane=Lane.TRAIN,
        devices=devices,
        priority=resolved.priority,
        request=resolved.model_dump(mode="json"),
        model=resolved.model,
        dataset_id=row.id,
        uses_version=resolved.version if isinstance(resolved, ResolvedPredictRequest) else None,
        metadata=resolved.metadata,
    )


def _training(settings: ServiceSettings, request: TrainRequest, row: DatasetRow, manifest: DatasetManifest) -> Resolved:
    """The request that can run, if a worker's memory may be taken to hold it."""
    resolved, limit = resolve(request, dataset_id=row.id, manifest=manifest), settings.max_job_memory_bytes
    needed = memory_bytes(resolved.plan, request.training, manifest)
    if needed > limit:
        message = (
            f"must need at most {limit / 1e9:,.0f} GB to train, as estimated. Write a smaller batch_size or network, "
            "or raise GAMMABETA_MAX_JOB_MEMORY_BYTES."
        )
        raise InvalidRequest.of("network", message, f"{needed / 1e9:,.0f} GB")
    return resolved


def _predicting(
    session: Session, caller: Caller, request: PredictDatasetRequest, row: DatasetRow, manifest: DatasetManifest
) -> tuple[ResolvedPredictRequest, Version]:
    found = models.get_version(session, caller.project_id, request.model, version=request.version, alias=request.alias)
    version = models.version_schema(found)
    return readings.resolve(request, version=version, dataset_id=row.id, manifest=manifest), version


def _ready_dataset(session: Session, caller: Caller, id_or_name: str) -> tuple[DatasetRow, DatasetManifest]:
    row = datasets.get(session, caller.project_id, id_or_name)
    manifest = datasets.manifest(row)
    if row.state != "ready" or manifest is None:
        why = f" ({row.error_message})" if row.error_message else ""
        raise WrongState(f"The data set must be ready. Received: '{row.name}' is {row.state}{why}.")
    return row, manifest
