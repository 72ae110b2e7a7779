"""Jobs: submitted, looked at, followed, cancelled, paused, resumed and retried."""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from fastapi.responses import Response, StreamingResponse
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from gammabeta import failpoints
from gammabeta.errors import InvalidRequest, WrongState
from gammabeta.failpoints import Failpoint
from gammabeta.schemas.base import Name
from gammabeta.schemas.base import Request as Schema
from gammabeta.schemas.datasets import DatasetManifest
from gammabeta.schemas.jobs import (
    DryRun,
    Event,
    Job,
    JobRequest,
    JobState,
    JobStatus,
    Lane,
    Metrics,
    Series,
    TrainRequest,
)
from gammabeta.schemas.problems import invalid
from gammabeta.schemas.resolution import Resolved, memory_bytes, resolve
from gammabeta.schemas.resolution import dry_run as dry_run_of
from gammabeta.store import datasets, events, jobs, listing
from gammabeta.store.engine import Session
from gammabeta.store.tables import DEFAULT_PROJECT, DatasetRow, JobRow
from service.dependencies import OWNER, Context, Ctx, IdempotencyKey, JsonBody, Named, canonical
from service.events import as_sse, stream
from service.pages import Page, PageQuery, page_of
from service.replays import accepted, given, once

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

EVENTS_AT_ONCE = 1_000
WHOLE_HISTORY = 100_000
EVENT_STREAM = "text/event-stream"
_REQUEST: TypeAdapter[TrainRequest] = TypeAdapter(JobRequest)
_METADATA = re.compile(r"metadata\[([^\[\]]{1,64})\]")


class JobQuery(PageQuery):
    """Which jobs. Besides these: `metadata[KEY]=VALUE`, as often as needed."""

    model_config = ConfigDict(extra="allow")

    status: tuple[JobStatus, ...] = ()
    """Any of these; separated by commas, or the parameter repeated."""
    kind: Name | None = None
    model: Name | None = None

    @field_validator("status", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        parts = [value] if isinstance(value, str) else value
        return tuple(word for part in parts for word in part.split(",") if word)

    @property
    def metadata(self) -> dict[str, str]:
        """The values asked for, by their keys.

        Raises:
            InvalidRequest: a parameter that there is not.
        """
        found: dict[str, str] = {}
        for key, value in (self.model_extra or {}).items():
            match = _METADATA.fullmatch(key)
            if match is None:
                raise InvalidRequest.of(key, "is not a parameter here. Leave it out, or look at /docs", value)
            if not isinstance(value, str):
                raise InvalidRequest.of(key, "must be given once", value)
            found[match[1]] = value
        return found


class SubmitQuery(Schema):
    """How to take the request."""

    dry_run: bool = False
    """Say what would happen, and queue nothing."""


class EventQuery(Schema):
    """Which events; the oldest come first."""

    limit: int = Field(default=100, ge=1, le=EVENTS_AT_ONCE)
    after: int = Field(default=0, ge=0)
    """The id of the last event that is known."""


class MetricsQuery(Schema):
    """Which series, and how fine."""

    names: str | None = None
    """Separated by commas; without it: all."""
    max_points: int = Field(default=500, ge=2, le=100_000)
    """Of each series: more are thinned evenly, the first and the last kept."""


@router.post("", status_code=202, response_model=Job, responses={200: {"model": DryRun}})
def submit_job(
    context: Ctx, body: JsonBody, query: Annotated[SubmitQuery, Query()], idempotency_key: IdempotencyKey = None
) -> Response:
    """Queue a job. With `dry_run=true` nothing is queued: the answer is the request with every `auto` resolved, the
    table of layers, and remarks."""
    request = _validated(body)
    if query.dry_run:
        return Response(_dry_run(context, request).model_dump_json(), media_type="application/json")
    digest = hashlib.sha256(b"POST /v1/jobs\n" + canonical(body)).hexdigest()
    with context.database.read() as session:
        answer = given(session, idempotency_key, digest)
        if answer is not None:
            return _accepted(answer)
        new = _new_job(context, session, request)
    with context.database.write() as session:
        answer = once(session, idempotency_key, digest, lambda: _submit(context, session, new))
        failpoints.reached(Failpoint.SUBMIT_BEFORE_COMMIT)
    failpoints.reached(Failpoint.SUBMIT_AFTER_COMMIT)
    return _accepted(answer)


def _accepted(answer: dict[str, Any]) -> Response:
    return accepted(answer, f"/v1/jobs/{answer['id']}")


@router.get("")
def list_jobs(context: Ctx, query: Annotated[JobQuery, Query()]) -> Page[Job]:
    """Jobs, the newest first."""
    with context.database.read() as session:
        found = listing.find(
            session,
            DEFAULT_PROJECT,
            statuses=query.status,
            kind=query.kind,
            model=query.model,
            metadata=query.metadata,
            after=query.after,
            limit=query.one_more,
            ascending=query.ascending,
        )
        shown = [_shown(session, row) for row in found]
    return query.page(shown, lambda job: job.id)


@router.get("/{job_id}")
def get_job(job_id: Named, context: Ctx) -> Job:
    """The job."""
    with context.database.read() as session:
        return _shown(session, jobs.get(session, DEFAULT_PROJECT, job_id))


@router.post("/{job_id}/cancel", status_code=202)
def cancel_job(job_id: Named, context: Ctx) -> Job:
    """Cancel a job; after this it cannot succeed. A running one is `cancelling` until its worker has stopped it."""
    with context.database.write() as session:
        job = _shown(session, jobs.request_cancel(session, DEFAULT_PROJECT, job_id))
        failpoints.reached(Failpoint.CANCEL_BEFORE_COMMIT)
    failpoints.reached(Failpoint.CANCEL_AFTER_COMMIT)
    return job


@router.post("/{job_id}/pause", status_code=202)
def pause_job(job_id: Named, context: Ctx) -> Job:
    """Ask a running job to stop at a checkpoint and wait. It is `running` until its worker has stopped it, and then
    `paused`."""
    with context.database.write() as session:
        _refuse_queued(session, job_id)
        return _shown(session, jobs.request_pause(session, DEFAULT_PROJECT, job_id))


@router.post("/{job_id}/resume", status_code=202)
def resume_job(job_id: Named, context: Ctx) -> Job:
    """Queue a paused job again, in its old place. It goes on from its checkpoint."""
    with context.database.write() as session:
        return _shown(session, jobs.resume(session, DEFAULT_PROJECT, job_id))


@router.post("/{job_id}/retry", status_code=202)
def retry_job(job_id: Named, context: Ctx) -> Job:
    """Queue a failed or cancelled job again, its counters of losses and failures at 0. It begins anew, or, where it
    failed with `deadline_exceeded`, goes on from its checkpoint."""
    with context.database.write() as session:
        return _shown(session, jobs.retry(session, DEFAULT_PROJECT, job_id))


@router.get("/{job_id}/events", response_model=Page[Event], responses={200: {"content": {EVENT_STREAM: {}}}})
def job_events(
    job_id: Named,
    context: Ctx,
    query: Annotated[EventQuery, Query()],
    accept: Annotated[str, Header(include_in_schema=False)] = "",
    last_event_id: Annotated[int | None, Header(ge=0)] = None,
) -> Any:
    """What happened to the job. With `Accept: text/event-stream` the same as server-sent events, and what happens from
    now on, until the job ends; `Last-Event-ID` goes on where a stream broke."""
    after = query.after if last_event_id is None else last_event_id
    with context.database.read() as session:
        job = jobs.get(session, DEFAULT_PROJECT, job_id)
        if after and not events.events_of(session, job_id, after=after - 1, limit=1):
            after = 0  # behind the newest event there is: such a reader would wait for ever
        streamed, ended = EVENT_STREAM in accept, JobState(job.state).terminal
        limit = WHOLE_HISTORY if streamed else query.limit + 1
        found = [] if streamed and not ended else events.events_of(session, job_id, after=after, limit=limit)
        known = [events.to_schema(row) for row in found]
    if not streamed:
        return page_of(known, query.limit, lambda event: str(event.id))
    if ended:
        return _sse(map(as_sse, known))
    return _sse(stream(context.tailer, job_id, after=after, heartbeat=context.settings.stream_heartbeat_seconds))


@router.get("/{job_id}/metrics")
def job_metrics(job_id: Named, context: Ctx, query: Annotated[MetricsQuery, Query()]) -> Metrics:
    """Series by step and epoch, as if the job had never been interrupted."""
    names = None if query.names is None else [name.strip() for name in query.names.split(",")]
    with context.database.read() as session:
        jobs.get(session, DEFAULT_PROJECT, job_id)
        metrics = events.metrics_of(session, job_id, names)
    thinned = tuple(_thinned(series, query.max_points) for series in metrics.series)
    return metrics.model_copy(update={"series": thinned})


def _refuse_queued(session: Session, job_id: str) -> None:
    if jobs.get(session, DEFAULT_PROJECT, job_id).state == JobState.QUEUED:
        raise WrongState("To pause a job, it must be running. This one is queued: wait until it runs, or cancel it.")


def _validated(body: Any) -> TrainRequest:
    try:
        return _REQUEST.validate_python(body)
    except ValidationError as exc:
        raise invalid(exc) from exc


def _dry_run(context: Context, request: TrainRequest) -> DryRun:
    with context.database.read() as session:
        row, manifest = _ready_dataset(session, request.dataset)
    return dry_run_of(_resolved(context, request, row, manifest), manifest)


def _resolved(context: Context, request: TrainRequest, row: DatasetRow, manifest: DatasetManifest) -> Resolved:
    """The request that can run, if a worker's memory may be taken to hold it."""
    resolved, limit = resolve(request, dataset_id=row.id, manifest=manifest), context.settings.max_job_memory_bytes
    needed = memory_bytes(resolved.plan, request.training, manifest)
    if needed > limit:
        message = (
            f"must need at most {limit / 1e9:,.0f} GB to train, as estimated. Write a smaller batch_size or network, "
            "or raise GAMMABETA_MAX_JOB_MEMORY_BYTES."
        )
        raise InvalidRequest.of("network", message, f"{needed / 1e9:,.0f} GB")
    return resolved


def _new_job(context: Context, session: Session, request: TrainRequest) -> jobs.NewJob:
    dataset, manifest = _ready_dataset(session, request.dataset)
    resolved = _resolved(context, request, dataset, manifest).request
    return jobs.NewJob(
        project_id=DEFAULT_PROJECT,
        owner_id=OWNER,
        kind=resolved.kind,
        lane=Lane.TRAIN,
        devices=resolved.resources.devices,
        priority=resolved.priority,
        request=resolved.model_dump(mode="json"),
        model=resolved.model,
        dataset_id=dataset.id,
        metadata=resolved.metadata,
    )


def _submit(context: Context, session: Session, new: jobs.NewJob) -> dict[str, Any]:
    row = jobs.submit(session, new, limits=context.settings.queue_limits)
    return _shown(session, row).model_dump(mode="json")


def _ready_dataset(session: Session, id_or_name: str) -> tuple[DatasetRow, DatasetManifest]:
    row = datasets.get(session, DEFAULT_PROJECT, id_or_name)
    manifest = datasets.manifest(row)
    if row.state != "ready" or manifest is None:
        why = f" ({row.error_message})" if row.error_message else ""
        raise WrongState(f"The data set must be ready. Received: '{row.name}' is {row.state}{why}.")
    return row, manifest


def _shown(session: Session, row: JobRow) -> Job:
    return listing.to_schema(row, queue_position=listing.queue_position(session, row))


def _sse(content: Any) -> StreamingResponse:
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(content, media_type=EVENT_STREAM, headers=headers)


def _thinned(series: Series, limit: int) -> Series:
    count = len(series.step)
    if count <= limit:
        return series
    kept = [round(index * (count - 1) / (limit - 1)) for index in range(limit)]
    return Series(
        name=series.name,
        step=[series.step[index] for index in kept],
        epoch=[series.epoch[index] for index in kept],
        value=[series.value[index] for index in kept],
    )
