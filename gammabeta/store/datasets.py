"""Data sets.

    create ─► validating ─► ready ─► validating (a second file) ─► ready
                    └─► failed                        └─► ready, as it was before the second file

`publishing` has the steps that an ingestion job makes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, bindparam, or_, select
from sqlalchemy import delete as delete_rows
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from gammabeta.errors import DatasetNotFound, NameTaken, WrongState
from gammabeta.schemas.datasets import Dataset, DatasetError, DatasetFormat, DatasetManifest, DatasetState
from gammabeta.store.jobs import INGEST, LIVE
from gammabeta.store.tables import DatasetRow, JobRow, core, moment, new_id, now_ms


def create(
    session: Session,
    *,
    project_id: str,
    name: str,
    format: DatasetFormat,
    bytes: int,
    sha256: str,
    options: dict[str, Any],
    id: str | None = None,
) -> DatasetRow:
    """A data set whose file was received and is to be read; it takes the place of one of its name whose file was
    refused. `id`: one that was made with `new_id("ds")` before.

    Raises:
        NameTaken: the project has one of this name.
    """
    refused = (DatasetRow.project_id == project_id, DatasetRow.name == name, DatasetRow.state == "failed")
    session.execute(delete_rows(DatasetRow).where(*refused).execution_options(synchronize_session=False))
    row = DatasetRow(
        id=id or new_id("ds"),
        project_id=project_id,
        name=name,
        state="validating",
        format=format,
        bytes=bytes,
        sha256=sha256,
        options=options,
        created_ms=now_ms(),
    )
    session.add(row)
    try:
        session.flush()
    except IntegrityError as exc:
        raise NameTaken(
            f"The name of a data set must be new. There is already a '{name}': choose another one, or delete that."
        ) from exc
    session.refresh(row)
    return row


def get(session: Session, project_id: str, id_or_name: str) -> DatasetRow:
    """The data set with this id, else with this name.

    Raises:
        DatasetNotFound.
    """
    return _get(session, project_id, id_or_name, lock=False)


def _get(session: Session, project_id: str, id_or_name: str, *, lock: bool) -> DatasetRow:
    rows: list[DatasetRow] = list(
        session.scalars(_LOCK if lock else _READ, {"of_project": project_id, "named": id_or_name})
    )
    if not rows:
        raise DatasetNotFound(f"There is no data set '{id_or_name}'. GET /v1/datasets lists those that exist.")
    return next((row for row in rows if row.id == id_or_name), rows[0])


_DATASETS = core(DatasetRow)
_NAMED = select(_DATASETS).where(
    _DATASETS.c.project_id == bindparam("of_project"),
    or_(_DATASETS.c.id == bindparam("named"), _DATASETS.c.name == bindparam("named")),
)
_READ = select(DatasetRow).from_statement(_NAMED).execution_options(populate_existing=True)
_LOCK = select(DatasetRow).from_statement(_NAMED.with_for_update()).execution_options(populate_existing=True)


def find(
    session: Session,
    project_id: str,
    *,
    states: Iterable[DatasetState] = (),
    after: str | None = None,
    limit: int = 20,
    ascending: bool = False,
) -> list[DatasetRow]:
    """A page of data sets in the order of their ids, which is the order of upload. `states`: any of them; none:
    all."""
    query = select(DatasetRow).where(DatasetRow.project_id == project_id)
    if states:
        query = query.where(DatasetRow.state.in_(list(states)))
    if after is not None:
        query = query.where(DatasetRow.id > after if ascending else DatasetRow.id < after)
    return list(session.scalars(query.order_by(DatasetRow.id if ascending else DatasetRow.id.desc()).limit(limit)))


def begin_second_split(
    session: Session, row: DatasetRow, *, bytes: int, sha256: str, options: dict[str, Any]
) -> DatasetRow:
    """Take a second file into a ready data set, which is validating again. `bytes` grows by the second file; `sha256`
    stays that of the first. Where the file turns out to be bad, the data set is ready again without it.

    Raises:
        WrongState: it is not ready, has a test split already, or a job has used it.
    """
    held = _get(session, row.project_id, row.id, lock=True)
    if held.state != "ready":
        raise WrongState(f"A data set must be ready to take a second file. This one is {held.state}.")
    if used_by_job(session, held.id):
        raise WrongState("A data set never changes once a job has used it. Upload both files as a new data set.")
    splits = sorted((held.manifest or {}).get("splits", ()))
    if "test" in splits:
        raise WrongState(f"A data set takes one test split. This one has the splits {', '.join(splits)}.")
    held.state = "validating"
    held.bytes += bytes
    held.options = {**held.options, "second": {**options, "bytes": bytes, "sha256": sha256}}
    session.flush()
    return held


def used_by_job(session: Session, dataset_id: str) -> bool:
    """Whether a job other than an ingestion names it."""
    query = select(JobRow.id).where(JobRow.dataset_id == dataset_id, JobRow.kind != INGEST)
    return session.scalar(query.limit(1)) is not None


def _live(dataset_id: str) -> tuple[ColumnElement[bool], ...]:
    """Jobs that have not ended and name it."""
    return JobRow.dataset_id == dataset_id, JobRow.state.in_(LIVE)


def upload_is_read(session: Session, dataset_id: str) -> bool:
    """Whether no job is going to read the uploaded file. It stays so until the transaction ends, since a second file is
    taken in under the same lock."""
    session.execute(select(DatasetRow.id).where(DatasetRow.id == dataset_id).with_for_update())
    waiting = select(JobRow.id).where(*_live(dataset_id), JobRow.kind == INGEST)
    return session.scalar(waiting.limit(1)) is None


def delete(session: Session, project_id: str, id_or_name: str) -> None:
    """Remove the data set; its name is free again.

    Raises:
        DatasetNotFound.
        WrongState: a job that has not ended uses it.
    """
    row = _get(session, project_id, id_or_name, lock=True)
    using = session.execute(select(JobRow.id, JobRow.state).where(*_live(row.id)).limit(1)).one_or_none()
    if using is not None:
        raise WrongState(
            f"A data set can be deleted when no job uses it. Received: {using.id} is {using.state}. Cancel the job, or "
            "wait for it to end."
        )
    session.delete(row)
    session.flush()


def manifest(row: DatasetRow) -> DatasetManifest | None:
    """What the last ingestion found. None before the first."""
    return None if row.manifest is None else DatasetManifest.model_validate(row.manifest)


def to_schema(row: DatasetRow) -> Dataset:
    """The data set as the service shows it."""
    found = manifest(row)
    error = None
    if row.error_code is not None:
        error = DatasetError(code=row.error_code, message=row.error_message or "")
    return Dataset.model_validate(
        {
            "id": row.id,
            "name": row.name,
            "state": row.state,
            "error": error,
            "format": row.format,
            "bytes": row.bytes,
            "sha256": row.sha256,
            "splits": {} if found is None else {split: files.n for split, files in found.splits.items()},
            "features": () if found is None else found.features,
            "target": None if found is None else found.target,
            "created_at": moment(row.created_ms),
        }
    )
