"""Data sets: uploaded as raw bodies, read by a job, looked at and deleted."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import Field, field_validator, model_validator

from gammabeta import failpoints, logs
from gammabeta.errors import InvalidRequest, NotReady, WrongState
from gammabeta.failpoints import Failpoint
from gammabeta.schemas.base import Name, not_supported, wrong
from gammabeta.schemas.base import Request as Schema
from gammabeta.schemas.datasets import Dataset, DatasetFormat, Preview, Split
from gammabeta.schemas.jobs import Lane
from gammabeta.store import datasets, idempotency, jobs
from gammabeta.store.engine import Session
from gammabeta.store.limits import QueueLimits
from gammabeta.store.tables import DatasetRow, new_id
from gammabeta.store.usage import Room
from service import uploads
from service.access import By
from service.bodies import check_media_type
from service.dependencies import Context, Ctx, IdempotencyKey, Named, canonical
from service.keyring import Caller
from service.pages import Page, PageQuery
from service.previews import first_rows
from service.replays import CREATED, accepted, once
from service.throttle import PACED
from service.uploads import Received

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])

log = logs.get(__name__)

FILE = {
    "requestBody": {
        "required": True,
        "content": {each: {"schema": {"type": "string", "format": "binary"}} for each in uploads.MEDIA_TYPES},
    }
}


class UploadQuery(Schema):
    """What the file is, and how to read it."""

    name: Name | None = None
    """Of the new data set. Left out where the file is a second one."""
    format: DatasetFormat
    target: str | None = Field(default=None, min_length=1, max_length=512)
    """csv: the column to predict."""
    categorical: str | None = None
    """csv: columns that hold categories although they look like numbers, separated by commas."""
    ignore: str | None = None
    """csv: columns to leave out, separated by commas."""
    test_fraction: float | None = Field(default=None, gt=0, le=0.5)
    """Draw a test split of this size, stratified for classes, where the file has none."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Of that draw."""
    split: Literal["test"] | None = None
    """The file is the test split of the data set `of`."""
    of: Name | None = None

    FORMATS_NOT_YET: ClassVar[frozenset[str]] = frozenset({"parquet"})
    OF_THE_FIRST: ClassVar[tuple[str, ...]] = ("name", "target", "categorical", "ignore", "test_fraction", "seed")

    @field_validator("format", mode="before")
    @classmethod
    def _refuse_not_yet(cls, value: Any) -> Any:
        if value in cls.FORMATS_NOT_YET:
            raise not_supported(f"the format '{value}'", "Send csv, npz or image_zip.")
        return value

    @model_validator(mode="after")
    def _complete(self) -> UploadQuery:
        if (self.split is None) != (self.of is None):
            missing = "of" if self.of is None else "split"
            raise wrong(missing, "is required: a second file needs both split=test and of=<data set>")
        if self.split is not None:
            for key in (key for key in self.OF_THE_FIRST if key in self.model_fields_set):
                raise wrong(key, "is that of the first file. Leave it out for a second one.")
        elif self.name is None:
            raise wrong("name", "is required. Choose one such as 'digits'.")
        elif self.format == "csv" and self.target is None:
            raise wrong("target", "is required for csv: the name of the column to predict")
        return self

    @property
    def options(self) -> dict[str, Any]:
        """What the job that reads the file is told."""
        return {
            "format": self.format,
            "target": self.target,
            "categorical": _listed(self.categorical),
            "ignore": _listed(self.ignore),
            "test_fraction": self.test_fraction,
            "seed": self.seed,
            "split": self.split,
        }


class PreviewQuery(Schema):
    """Which rows."""

    rows: int = Field(default=20, ge=1, le=100)
    split: Split = "train"


@router.post(
    "",
    status_code=202,
    response_model=Dataset,
    responses={202: CREATED},
    openapi_extra=FILE,
    dependencies=[PACED],
)
async def upload_dataset(
    request: Request,
    context: Ctx,
    caller: By,
    query: Annotated[UploadQuery, Query()],
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Send a file as the raw body (`curl -X POST -T FILE URL`). It is read by a job of its own: the data set is
    `validating` until that has ended, then `ready` or `failed`."""
    check_media_type(request, uploads.MEDIA_TYPES, remedy="Send the file as the raw body: curl -X POST -T FILE URL.")
    dataset_id = new_id("ds")
    place = await context.in_thread(context.blobs.receiving_path, dataset_id)
    room = await context.in_thread(_room, context, caller, idempotency_key)
    async with uploads.received(request, context, place, room) as file:
        answer = await context.in_thread(_create, context, caller, query, file, idempotency_key, dataset_id)
    return accepted(answer, f"/v1/datasets/{answer['id']}")


@router.get("")
def list_datasets(context: Ctx, caller: By, query: Annotated[PageQuery, Query()]) -> Page[Dataset]:
    """Data sets, the newest first."""
    with context.database.read() as session:
        found = datasets.find(
            session, caller.project_id, after=query.after, limit=query.one_more, ascending=query.ascending
        )
    return query.page([datasets.to_schema(row) for row in found], lambda dataset: dataset.id)


@router.get("/{dataset}")
def get_dataset(dataset: Named, context: Ctx, caller: By) -> Dataset:
    """The data set with this id or name."""
    with context.database.read() as session:
        return datasets.to_schema(datasets.get(session, caller.project_id, dataset))


@router.get("/{dataset}/preview")
def preview_dataset(dataset: Named, context: Ctx, caller: By, query: Annotated[PreviewQuery, Query()]) -> Preview:
    """The first rows of a split, as they will be trained on."""
    with context.database.read() as session:
        row = datasets.get(session, caller.project_id, dataset)
    manifest = datasets.manifest(row)
    if manifest is None:
        raise WrongState(f"A data set can be looked at when it is ready. This one is {row.state}.")
    if query.split not in manifest.splits:
        splits = ", ".join(manifest.splits)
        raise InvalidRequest.of("split", f"must be a split of the data set: {splits}", query.split)
    return Preview(split=query.split, rows=first_rows(manifest, query.split, query.rows, context.blobs))


@router.delete("/{dataset}", status_code=204)
def delete_dataset(dataset: Named, context: Ctx, caller: By) -> None:
    """Delete the data set. 409 while a job uses it."""
    with context.database.write() as session:
        row = datasets.get(session, caller.project_id, dataset)
        datasets.delete(session, caller.project_id, row.id)
    try:
        context.blobs.delete_upload(row.id)
    except NotReady as error:  # it is deleted all the same
        log.warning("left to the sweep", dataset=row.id, why=error.message)


def _room(context: Context, caller: Caller, key: str | None) -> Room | None:
    """None too under the key of an upload that was answered before: it is answered again."""
    with context.database.read() as session:
        if key is not None and idempotency.is_answered(session, caller.project_id, caller.owner_id, key, prefix="ds"):
            return None
        return context.settings.storage_limit.room(session, caller.project_id)


def _create(
    context: Context, caller: Caller, query: UploadQuery, file: Received, key: str | None, dataset_id: str
) -> dict[str, Any]:
    """Everything in one transaction, but for what takes long of storing the file, which comes before. The file takes
    its place last, so that an error leaves nothing behind."""
    asked = query.model_dump(mode="json")
    failpoints.reached(Failpoint.UPLOAD_RECEIVED)
    digest = hashlib.sha256(b"POST /v1/datasets\n" + canonical([asked, file.sha256])).hexdigest()

    def create() -> dict[str, Any]:
        context.settings.storage_limit.check(session, caller.project_id, file.bytes)
        row, options = (
            _first(session, caller, query, file, dataset_id)
            if query.of is None
            else _second(session, caller, query, file)
        )
        _queue(session, caller, row, options, context.settings.queue_limits)
        context.blobs.keep_upload(file.path, row.id)
        failpoints.reached(Failpoint.UPLOAD_KEPT)
        return datasets.to_schema(row).model_dump(mode="json")

    try:
        context.blobs.stage_upload(file.path)
        with context.database.write() as session:
            answer = once(session, caller, key, digest, create)
    finally:
        context.blobs.discard_upload(file.path)
    failpoints.reached(Failpoint.UPLOAD_COMMITTED)
    return answer


def _first(
    session: Session, caller: Caller, query: UploadQuery, file: Received, dataset_id: str
) -> tuple[DatasetRow, dict[str, Any]]:
    """The data set, and what the job that reads the file is told."""
    row = datasets.create(
        session,
        id=dataset_id,
        project_id=caller.project_id,
        name=query.name or dataset_id,
        format=query.format,
        bytes=file.bytes,
        sha256=file.sha256,
        options=query.options,
    )
    return row, query.options


def _second(session: Session, caller: Caller, query: UploadQuery, file: Received) -> tuple[DatasetRow, dict[str, Any]]:
    """The same for a second file."""
    row = datasets.get(session, caller.project_id, query.of or "")
    if row.format != query.format:
        raise InvalidRequest.of("format", f"must be that of the first file: {row.format}", query.format)
    inherited = {key: row.options.get(key) for key in ("target", "categorical", "ignore")}
    options = {**query.options, **inherited, "test_fraction": None}
    row = datasets.begin_second_split(session, row, bytes=file.bytes, sha256=file.sha256, options=options)
    return row, options


def _queue(session: Session, caller: Caller, row: DatasetRow, options: dict[str, Any], limits: QueueLimits) -> None:
    jobs.submit(
        session,
        jobs.NewJob(
            project_id=caller.project_id,
            owner_id=caller.owner_id,
            kind=jobs.INGEST,
            lane=Lane.LIGHT,
            devices=0,
            request=options,
            dataset_id=row.id,
        ),
        limits=limits,
    )


def _listed(words: str | None) -> list[str]:
    return [word.strip() for word in (words or "").split(",") if word.strip()]
