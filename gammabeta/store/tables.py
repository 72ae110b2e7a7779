"""The tables.

    projects ─┬─ datasets
              ├─ jobs ─┬─ job_events, job_metrics, checkpoints
              │        └──────────────┐ one version at most per job
              ├─ models ── versions ──┤
              │        └─ aliases     └─► batchnorm_states ── batchnorm_layers
              ├─ api_keys
              └─ idempotency                                    workers, served_programs

Times are milliseconds of the database's clock (`now_ms()`), never of a program's. Jobs and versions name their data set
by its id without a foreign key: the data set may be deleted, and where a model came from stays known.
"""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Dialect,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Text,
    TypeDecorator,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.sql.functions import Function

DEFAULT_PROJECT = "default"

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id(prefix: str) -> str:
    """`job_` and 23 characters that sort by time: 55 bits of microseconds, 60 random bits."""
    number = (time.time_ns() // 1_000) << 60 | secrets.randbits(60)
    return f"{prefix}_" + "".join(_ALPHABET[number >> shift & 31] for shift in range(110, -1, -5))


def now_ms() -> Function[int]:
    """The database's clock."""
    return func.now_ms(type_=BigInteger)


def moment(ms: int) -> datetime:
    """A stored time as the schemas show it."""
    return datetime.fromtimestamp(ms / 1_000, UTC)


def clean(words: str) -> str:
    """Without what PostgreSQL refuses to store or compare: NUL and lone surrogates become U+FFFD. They come in with
    addresses and with the errors of hostile files."""
    return words.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\ufffd")


class Words(TypeDecorator[str]):
    """Text, cleaned on its way in, compared values too."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002 (overrides)
        return None if value is None else clean(value)


Json = JSON(none_as_null=True)
Serial = BigInteger().with_variant(Integer, "sqlite")


class Table(DeclarativeBase):
    """What every table has: names of constraints that a migration can rely on."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {
        str: Words,
        int: BigInteger,
        float: Double,
        bytes: LargeBinary,
        dict[str, Any]: Json,
        dict[str, str]: Json,
        list[str]: Json,
        list[dict[str, str]]: Json,
        list[dict[str, int]]: Json,
        int | list[int]: Json,
    }


def core(rows: type[Table]) -> sa.Table:
    """The table without its class. A statement over it that a module keeps is built, and given the key under which its
    text is kept, once; one over the class anew each time, which costs several times what the database needs for it."""
    return rows.metadata.tables[rows.__tablename__]


RETIRED = {"jobs": {"deadline_ms": BigInteger()}}
"""Columns that the database has for programs of earlier versions, and this one neither reads nor writes. A column goes
in two steps: first here, then, once the migration serves no program that mentions it, from the database."""


class ProjectRow(Table):
    """Whose things they are. `revision` moves whenever what a name of a model means may have changed."""

    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    revision: Mapped[int]
    created_ms: Mapped[int]


class DatasetRow(Table):
    """A data set. Its arrays are blobs, named by the manifest."""

    __tablename__ = "datasets"
    __table_args__ = (
        UniqueConstraint("project_id", "name"),
        CheckConstraint("state IN ('validating', 'ready', 'failed')", name="state"),
        CheckConstraint("state <> 'ready' OR manifest IS NOT NULL", name="manifest"),
        CheckConstraint("(state = 'failed') = (error_code IS NOT NULL)", name="error"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str]
    state: Mapped[str]
    format: Mapped[str]
    bytes: Mapped[int]
    sha256: Mapped[str]
    options: Mapped[dict[str, Any]]
    manifest: Mapped[dict[str, Any] | None]
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    created_ms: Mapped[int]


class JobRow(Table):
    """A unit of work. JOBS of the design has its states; the checks hold what one row can show of the invariants."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint("state IN ('queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled')", name="state"),
        CheckConstraint("lane IN ('train', 'light')", name="lane"),
        CheckConstraint("(worker_id IS NOT NULL) = (state = 'running')", name="worker"),
        CheckConstraint("(lease_until_ms IS NOT NULL) = (state = 'running')", name="lease"),
        CheckConstraint("(finished_ms IS NOT NULL) = (state IN ('succeeded', 'failed', 'cancelled'))", name="finished"),
        CheckConstraint("state <> 'succeeded' OR cancel_requested_ms IS NULL", name="cancel"),
        CheckConstraint("fence >= 0 AND failures >= 0 AND losses >= 0 AND failures + losses <= fence", name="counters"),
        CheckConstraint("max_failures >= 1 AND max_losses >= 1 AND devices >= 0", name="limits"),
        Index(
            "job_ready",
            "lane",
            text("priority DESC"),
            "created_ms",
            "id",
            "run_after_ms",
            postgresql_where=text("state = 'queued'"),
            sqlite_where=text("state = 'queued'"),
        ),
        Index(
            "job_lease",
            "lease_until_ms",
            postgresql_where=text("state = 'running'"),
            sqlite_where=text("state = 'running'"),
        ),
        Index("job_listed", "project_id", "id"),
        Index("job_in_state", "project_id", "state", "id"),
        Index("job_of_model", "project_id", "model", "id"),
        Index("job_dataset", "dataset_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    owner_id: Mapped[str]
    kind: Mapped[str]
    state: Mapped[str]
    lane: Mapped[str]
    devices: Mapped[int]
    priority: Mapped[int]
    created_ms: Mapped[int]
    run_after_ms: Mapped[int]
    started_ms: Mapped[int | None]
    finished_ms: Mapped[int | None]
    fence: Mapped[int]
    failures: Mapped[int]
    losses: Mapped[int]
    max_failures: Mapped[int]
    max_losses: Mapped[int]
    worker_id: Mapped[str | None]
    lease_until_ms: Mapped[int | None]
    cancel_requested_ms: Mapped[int | None]
    pause_requested_ms: Mapped[int | None]
    reason: Mapped[str | None]
    message: Mapped[str | None]
    device: Mapped[str | None]
    model: Mapped[str | None]
    dataset_id: Mapped[str | None]
    version: Mapped[int | None]
    progress: Mapped[dict[str, Any] | None]
    result: Mapped[dict[str, Any] | None]
    warnings: Mapped[list[dict[str, str]]]
    labels: Mapped[dict[str, str]] = mapped_column("metadata")
    request: Mapped[dict[str, Any]]


class EventRow(Table):
    """Something that happened to a job. Append-only; written under the lock of the job's row, so that within a job the
    order of ids is the order of commits, and a reader's cursor misses nothing."""

    __tablename__ = "job_events"
    __table_args__ = (Index("job_event_order", "job_id", "id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(Serial, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    fence: Mapped[int]
    type: Mapped[str]
    data: Mapped[dict[str, Any]]
    created_ms: Mapped[int]


class PointRow(Table):
    """The values of a job's metrics at one step, as one attempt measured them."""

    __tablename__ = "job_metrics"
    __table_args__ = (Index("job_metric_order", "job_id", "id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(Serial, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    fence: Mapped[int]
    step: Mapped[int]
    epoch: Mapped[int]
    values: Mapped[dict[str, Any]]


class CheckpointRow(Table):
    """From where a job can go on. The newest is the one with the largest (fence, step)."""

    __tablename__ = "checkpoints"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    fence: Mapped[int] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    uri: Mapped[str]
    sha256: Mapped[str]
    bytes: Mapped[int]
    created_ms: Mapped[int]


class ModelRow(Table):
    """A name with versions; without one it is not shown, and stays for `last_version`, which only grows, so that a
    number is never used again."""

    __tablename__ = "models"
    __table_args__ = (UniqueConstraint("project_id", "name"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str]
    last_version: Mapped[int]
    created_ms: Mapped[int]


class StateRow(Table):
    """The batch-norm state of a network, named by its digest. Versions share it where it is the same, so that it has
    only what the digest covers: what else is known of a layer belongs to the version."""

    __tablename__ = "batchnorm_states"

    digest: Mapped[str] = mapped_column(primary_key=True)
    layers: Mapped[int]
    created_ms: Mapped[int]


class LayerRow(Table):
    """One batch-norm layer. The four arrays are little-endian float32; gamma is NULL with `scale` off, beta with
    `center` off. `axis` is a number, or a list of several."""

    __tablename__ = "batchnorm_layers"

    digest: Mapped[str] = mapped_column(ForeignKey("batchnorm_states.digest"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    channels: Mapped[int]
    axis: Mapped[int | list[int]]
    epsilon: Mapped[float]
    gamma: Mapped[bytes | None]
    beta: Mapped[bytes | None]
    moving_mean: Mapped[bytes]
    moving_variance: Mapped[bytes]


class VersionRow(Table):
    """A trained network: weights by hash, batch-norm state by digest. It never changes. `batchnorm_counts` has
    `{"updates": …, "skipped": …, "single": …}` of each batch-norm layer, by position."""

    __tablename__ = "versions"
    __table_args__ = (CheckConstraint("number >= 1", name="number"),)

    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), unique=True)
    fence: Mapped[int]
    dataset_id: Mapped[str]
    network: Mapped[dict[str, Any]]
    preprocessing: Mapped[dict[str, Any]]
    classes: Mapped[list[str] | None]
    metrics: Mapped[dict[str, Any]]
    weights_sha256: Mapped[str]
    weights_bytes: Mapped[int]
    batchnorm_digest: Mapped[str] = mapped_column(ForeignKey("batchnorm_states.digest"))
    batchnorm_counts: Mapped[list[dict[str, int]]] = mapped_column(server_default="[]")
    parameters: Mapped[int]
    parent: Mapped[str | None]
    created_ms: Mapped[int]

    model: Mapped[ModelRow] = relationship(lazy="joined", innerjoin=True)


class AliasRow(Table):
    """A word for a version."""

    __tablename__ = "aliases"
    __table_args__ = (ForeignKeyConstraint(["model_id", "number"], ["versions.model_id", "versions.number"]),)

    model_id: Mapped[str] = mapped_column(primary_key=True)
    alias: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int]
    updated_ms: Mapped[int]


class WorkerRow(Table):
    """A worker program that said it lives."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True)
    hostname: Mapped[str]
    pid: Mapped[int]
    devices: Mapped[list[str]]
    slots: Mapped[dict[str, Any]]
    started_ms: Mapped[int]
    beat_ms: Mapped[int]


class ServedRow(Table):
    """A version of gammabeta that may use the database as it is, by the newest migration that comes with it. Each
    migration writes anew which these are."""

    __tablename__ = "served_programs"

    head: Mapped[str] = mapped_column(primary_key=True)


class KeyRow(Table):
    """An API key, by the hash of its text; nobody can make the key from it. A row is never deleted: that a key was
    revoked, and by which key something was done, stays known."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    owner_id: Mapped[str]
    name: Mapped[str]
    secret_sha256: Mapped[bytes]
    scopes: Mapped[list[str]]
    created_ms: Mapped[int]
    expires_ms: Mapped[int | None]
    revoked_ms: Mapped[int | None]
    last_used_ms: Mapped[int | None]


class AnswerRow(Table):
    """The first answer under an Idempotency-Key. `status` is NULL while the request that reserved the key runs."""

    __tablename__ = "idempotency"

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    owner_id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_hash: Mapped[str]
    status: Mapped[int | None]
    body: Mapped[dict[str, Any] | None]
    created_ms: Mapped[int]
