"""What the worker can be told, each thing declared once."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field, model_validator

from gammabeta.store.limits import RunningLimits
from gammabeta.store.retention import Retention
from gammabeta.store.settings import StoreSettings

_HARMLESS = ("PATH", "HOME", "USER", "SHELL", "TERM", "TMPDIR", "TZ", "LANG", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
_HARMLESS_PREFIXES = ("LC_", "PYTHON", "CUDA_", "NVIDIA_", "OMP_", "MKL_", "OPENBLAS_", "COVERAGE_")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerSettings(StoreSettings):
    """Read from the environment, as GAMMABETA_LEASE_SECONDS and so on."""

    devices: str = "auto"
    """Where trainings, and predictions of data sets, run: `auto` (every GPU, else the CPU), `cpu`, or names such as
    `cuda:0,cuda:1`."""

    cpu_ranks: int = Field(default_factory=_cores, ge=1, le=1_024)
    """How many trainings, and predictions of data sets, run at a time on a machine without a GPU; by default one for
    each core."""

    threads: int = Field(default=1, ge=1, le=1_024)
    """The most CPU threads of one training or prediction of a data set. For small networks one is fastest."""

    poll_seconds: float | None = Field(default=None, gt=0)
    """How often a free slot looks for a job without being told that there is one. By default every 0.2 s on SQLite, and
    every 2 s on PostgreSQL, which tells at once (`NOTIFY`); write 0.2 where a pooler such as PgBouncer in transaction
    mode passes no notifications on."""

    max_running_per_model: int | None = Field(default=None, ge=1)
    """How many trainings of one model, and predictions of data sets by it, run at a time, on all workers together; by
    default any number. Give every worker the same."""

    max_running_per_key: int | None = Field(default=None, ge=1)
    """The same for those of one key, or of all keys of one owner."""

    heartbeat_seconds: float = Field(default=5, gt=0)
    """How often the lease of a running job is renewed."""

    lease_seconds: float = Field(default=30, gt=0)
    """How long a job stays with a worker that is not heard of. At least twice the heartbeat."""

    reap_seconds: float = Field(default=5, gt=0)
    """How often the worker looks for jobs whose lease has expired."""

    report_seconds: float = Field(default=0.5, gt=0)
    """How often progress and metrics of a running job are written, at most."""

    max_blind_seconds: float = Field(default=900, gt=0)
    """How long a running job goes on while the database does not answer."""

    cancel_grace_seconds: float = Field(default=10, ge=0)
    """How long a training may take to stop when asked to, before it is killed."""

    leave_seconds: float = Field(default=15, ge=0)
    """How long, after that grace, a worker that was told to stop waits for the database and for its last checkpoints to
    be stored. Then it leaves, and its jobs are repeated from the checkpoints before, as after a crash."""

    checkpoint_seconds: float = Field(default=10, ge=0)
    """The shortest time between two checkpoints."""

    retry_seconds: float = Field(default=2, ge=0)
    """The pause before a lost attempt is repeated. It doubles with each, up to five minutes."""

    ingest_memory_bytes: int = Field(default=4 << 30, ge=2 << 30)
    """Address space of the process that reads an uploaded file, at least 2 GiB: a csv file needs more than 1 GiB,
    however small, and more on a machine with many cores."""

    ingest_cpu_seconds: int = Field(default=1_800, ge=1)
    """Processor time of the process that reads an uploaded file."""

    ingest_rows: int = Field(default=100_000_000, ge=1)
    """The most rows of a data set."""

    ingest_decoded_bytes: int = Field(default=8 << 30, ge=1)
    """The most bytes of a data set as arrays."""

    keep_jobs_days: int | None = Field(default=None, ge=1)
    """After how many days a job that has ended is deleted, unless the version that it made is there; by default never.
    Where data sets are deleted too, a job stays for as long as the data set that it used may be counted unused."""

    keep_versions: int | None = Field(default=None, ge=1)
    """How many versions of a model are kept, the newest, besides those with an alias; by default all."""

    keep_datasets_days: int | None = Field(default=None, ge=1)
    """After how many days without use by a job a data set is deleted; by default never."""

    metrics_host: str = "127.0.0.1"
    """The address at which metrics are told. Whoever reaches it may read them: they name kinds of jobs, and nothing of
    data or models."""

    metrics_port: int | None = Field(default=None, ge=0, le=65_535)
    """The port of `GET /metrics`; 0 takes a free one. By default metrics are not told."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """How much is logged: debug, info, warning or error."""

    @model_validator(mode="after")
    def _lease_outlives_heartbeats(self) -> WorkerSettings:
        if self.lease_seconds < 2 * self.heartbeat_seconds:
            raise ValueError(
                f"GAMMABETA_LEASE_SECONDS must be at least twice GAMMABETA_HEARTBEAT_SECONDS. Received: "
                f"{self.lease_seconds:g} and {self.heartbeat_seconds:g}. Raise the first, or lower the second."
            )
        return self

    @property
    def running_limits(self) -> RunningLimits:
        """What a claim keeps to."""
        return RunningLimits(of_model=self.max_running_per_model, of_owner=self.max_running_per_key)

    @property
    def retention(self) -> Retention:
        """What the sweep keeps."""
        return Retention(
            jobs_days=self.keep_jobs_days, versions=self.keep_versions, datasets_days=self.keep_datasets_days
        )

    @property
    def resolved_poll_seconds(self) -> float:
        if self.poll_seconds is not None:
            return self.poll_seconds
        return 0.2 if self.resolved_database_url.startswith("sqlite") else 2.0

    @property
    def stop_seconds(self) -> float:
        """The longest from SIGTERM to the end of the worker."""
        return self.cancel_grace_seconds + self.leave_seconds

    @property
    def lease_ms(self) -> int:
        return round(self.lease_seconds * 1_000)

    @property
    def retry_ms(self) -> int:
        return round(self.retry_seconds * 1_000)


def visible_gpus() -> str | None:
    """Which GPUs CUDA shows to programs, and in what order; None: all."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def forget_environment() -> None:
    """Take everything out of this process' environment that a child has no use for. The settings have been read; what
    is started from here on inherits no address, key or password, by whatever way it is started."""
    for name in list(os.environ):
        if name not in _HARMLESS and not name.startswith(_HARMLESS_PREFIXES):
            del os.environ[name]
