"""Jobs: submitted, looked at, followed, cancelled, paused, resumed, retried, deleted; and the files that they made."""

from __future__ import annotations

import hashlib
import re
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from fastapi.responses import FileResponse, Response, StreamingResponse
from pydantic import ConfigDict, Field, field_validator

from gammabeta import failpoints, logs
from gammabeta.errors import InvalidRequest, NotFound, NotReady, WrongState
from gammabeta.failpoints import Failpoint
from gammabeta.schemas.base import Name
from gammabeta.schemas.base import Request as Schema
from gammabeta.schemas.jobs import (
    DryRun,
    Event,
    Job,
    JobState,
    JobStatus,
    Metrics,
    PredictDryRun,
    ResolvedPredictRequest,
    Series,
)
from gammabeta.store import deleting, events, jobs, listing
from gammabeta.store.engine import Session
from gammabeta.store.tables import JobRow
from service import problems, submissions
from service.access import By
from service.dependencies import Context, Ctx, IdempotencyKey, JsonBody, Named, canonical
from service.events import as_sse, stream
from service.keyring import Caller
from service.pages import Page, PageQuery, page_of
from service.replays import CREATED, accepted, given, once
from service.throttle import PACED

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

log = logs.get(__name__)

EVENTS_AT_ONCE = 1_000
WHOLE_HISTORY = 100_000
EVENT_STREAM = "text/event-stream"
FILES = {"predictions.csv": "text/csv; charset=utf-8", "predictions.parquet": "application/vnd.apache.parquet"}
"""The media type of each."""
_TEXT = {"schema": {"type": "string"}}
_BYTES = {kind.partition(";")[0]: {"schema": {"type": "string", "format": "binary"}} for kind in FILES.values()}
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


@router.post(
    "",
    status_code=202,
    response_model=Job,
    responses={202: CREATED, 200: {"model": DryRun | PredictDryRun}},
    dependencies=[PACED],
)
def submit_job(
    context: Ctx,
    caller: By,
    body: JsonBody,
    query: Annotated[SubmitQuery, Query()],
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Queue a job. With `dry_run=true` nothing is queued: the answer is the request with every `auto` and every name
    resolved, and of a training the table of layers, and remarks."""
    request = submissions.validated(body)
    if query.dry_run:
        with context.database.read() as session:
            planned = submissions.dry_run(session, context.settings, caller, request)
        return Response(planned.model_dump_json(), media_type="application/json")
    digest = hashlib.sha256(b"POST /v1/jobs\n" + canonical(body)).hexdigest()
    with context.database.read() as session:
        answer = given(session, caller, idempotency_key, digest)
        if answer is not None:
            return _accepted(answer)
        new = submissions.new_job(session, context.settings, caller, request)
        room = context.settings.storage_limit.room(session, caller.project_id)
        if room is not None:
            room.check(1)
    with context.database.write() as session:
        answer = once(session, caller, idempotency_key, digest, lambda: _submit(context, session, new))
        failpoints.reached(Failpoint.SUBMIT_BEFORE_COMMIT)
    failpoints.reached(Failpoint.SUBMIT_AFTER_COMMIT)
    return _accepted(answer)


def _accepted(answer: dict[str, Any]) -> Response:
    return accepted(answer, f"/v1/jobs/{answer['id']}")


@router.get("")
def list_jobs(context: Ctx, caller: By, query: Annotated[JobQuery, Query()]) -> Page[Job]:
    """Jobs, the newest first."""
    with context.database.read() as session:
        found = listing.find(
            session,
            caller.project_id,
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
def get_job(job_id: Named, context: Ctx, caller: By) -> Job:
    """The job."""
    with context.database.read() as session:
        return _shown(session, jobs.get(session, caller.project_id, job_id))


@router.post("/{job_id}/cancel", status_code=202)
def cancel_job(job_id: Named, context: Ctx, caller: By) -> Job:
    """Cancel a job; after this it cannot succeed. A running one is `cancelling` until its worker has stopped it."""
    with context.database.write() as session:
        job = _shown(session, jobs.request_cancel(session, caller.project_id, job_id))
        failpoints.reached(Failpoint.CANCEL_BEFORE_COMMIT)
    failpoints.reached(Failpoint.CANCEL_AFTER_COMMIT)
    return job


@router.post("/{job_id}/pause", status_code=202)
def pause_job(job_id: Named, context: Ctx, caller: By) -> Job:
    """Ask a running job to stop at a checkpoint and wait. It is `running` until its worker has stopped it, and then
    `paused`."""
    with context.database.write() as session:
        _refuse_queued(session, caller, job_id)
        return _shown(session, jobs.request_pause(session, caller.project_id, job_id))


@router.post("/{job_id}/resume", status_code=202)
def resume_job(job_id: Named, context: Ctx, caller: By) -> Job:
    """Queue a paused job again, in its old place. It goes on from its checkpoint."""
    with context.database.write() as session:
        return _shown(session, jobs.resume(session, caller.project_id, job_id))


@router.post("/{job_id}/retry", status_code=202, dependencies=[PACED])
def retry_job(job_id: Named, context: Ctx, caller: By) -> Job:
    """Queue a failed or cancelled job again, its counters of losses and failures at 0. It begins anew, or, where it
    failed with `deadline_exceeded`, goes on from its checkpoint."""
    with context.database.write() as session:
        return _shown(session, jobs.retry(session, caller.project_id, job_id))


@router.delete("/{job_id}", status_code=204)
def delete_job(job_id: Named, context: Ctx, caller: By) -> None:
    """Delete a job that has ended, with its events, series, checkpoints and files. 409 before that, and for as long as
    the version that it made is there."""
    with context.database.write() as session:
        deleting.delete_job(session, caller.project_id, job_id)
    try:
        context.blobs.delete_prefix(f"jobs/{job_id}")
    except NotReady as error:  # it is deleted all the same
        log.warning("left to the sweep", job=job_id, why=error.message)


@router.get("/{job_id}/events", response_model=Page[Event], responses={200: {"content": {EVENT_STREAM: {}}}})
def job_events(
    job_id: Named,
    context: Ctx,
    caller: By,
    query: Annotated[EventQuery, Query()],
    accept: Annotated[str, Header(include_in_schema=False)] = "",
    last_event_id: Annotated[int | None, Header(ge=0)] = None,
) -> Any:
    """What happened to the job. With `Accept: text/event-stream` the same as server-sent events, and what happens from
    now on, until the job ends; `Last-Event-ID` goes on where a stream broke."""
    after = query.after if last_event_id is None else last_event_id
    with context.database.read() as session:
        job = jobs.get(session, caller.project_id, job_id)
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
    allowed = partial(context.keyring.works, caller)
    heartbeat = context.settings.stream_heartbeat_seconds
    there = partial(context.in_thread, _is_there, context, job_id)
    return _sse(stream(context.tailer, job_id, after=after, heartbeat=heartbeat, allowed=allowed, there=there))


def _is_there(context: Context, job_id: str) -> bool:
    with context.database.read() as session:
        return session.get(JobRow, job_id) is not None


@router.get("/{job_id}/metrics")
def job_metrics(job_id: Named, context: Ctx, caller: By, query: Annotated[MetricsQuery, Query()]) -> Metrics:
    """Series by step and epoch, as if the job had never been interrupted."""
    names = None if query.names is None else [name.strip() for name in query.names.split(",")]
    with context.database.read() as session:
        jobs.get(session, caller.project_id, job_id)
        metrics = events.metrics_of(session, job_id, names)
    thinned = tuple(_thinned(series, query.max_points) for series in metrics.series)
    return metrics.model_copy(update={"series": thinned})


@router.get(
    "/{job_id}/files/{name}",
    response_class=FileResponse,
    responses={
        200: {"content": _BYTES, "headers": {"ETag": _TEXT}},
        206: {"content": _BYTES, "headers": {"ETag": _TEXT, "Content-Range": _TEXT}, "description": "The Range."},
        304: {"headers": {"ETag": _TEXT}, "description": "If-None-Match names it."},
        400: {"content": {"text/plain": _TEXT, problems.MEDIA_TYPE: {}}, "description": "Bad Request: no such Range."},
        416: {"content": {"text/plain": _TEXT}, "headers": {"Content-Range": _TEXT}, "description": "Beyond its end."},
    },
)
def get_job_file(
    job_id: Named,
    name: Named,
    context: Ctx,
    caller: By,
    range: Annotated[str, Header(description="Of bytes: `bytes=0-99`.")] = "",  # noqa: ARG001
    if_none_match: Annotated[str, Header()] = "",
) -> Response:
    """A file that the job has made, once it has succeeded: of a predict job `predictions.csv` or `predictions.parquet`,
    as its `result` says. The ETag is the sha256 of the bytes; a Range of them may be asked for."""
    with context.database.read() as session:
        sha256 = _file(jobs.get(session, caller.project_id, job_id), name)
    # The bytes behind this name never change.
    headers = {"ETag": f'"{sha256}"', "Cache-Control": "private, max-age=31536000, immutable"}
    if headers["ETag"] in (each.strip().removeprefix("W/") for each in if_none_match.split(",")):
        return Response(status_code=304, headers=headers)
    return FileResponse(context.blobs.verify(sha256), headers=headers, media_type=FILES[name], filename=name)


def _file(row: JobRow, name: str) -> str:
    """The sha256 of the job's file.

    Raises:
        NotFound: there is none of this name, or not yet.
    """
    made = ResolvedPredictRequest.model_validate(row.request).file if row.kind == jobs.PREDICT else None
    if made is None or made != name:
        there = f"It makes {made}." if made else f"A job of kind '{row.kind}' makes none."
        raise NotFound(f"The job {row.id} has no file '{name}'. {there}")
    if row.state != JobState.SUCCEEDED or row.result is None:
        raise NotFound(f"The job {row.id} has no file yet: it must have succeeded, and is {row.state}.")
    return str(row.result["sha256"])


def _refuse_queued(session: Session, caller: Caller, job_id: str) -> None:
    if jobs.get(session, caller.project_id, job_id).state == JobState.QUEUED:
        raise WrongState("To pause a job, it must be running. This one is queued: wait until it runs, or cancel it.")


def _submit(context: Context, session: Session, new: jobs.NewJob) -> dict[str, Any]:
    row = jobs.submit(session, new, limits=context.settings.queue_limits)
    return _shown(session, row).model_dump(mode="json")


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
