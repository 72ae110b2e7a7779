"""What the worker can be told, each thing declared once."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field, model_validator

from gammabeta.store.settings import StoreSettings

_HARMLESS = ("PATH", "HOME", "USER", "SHELL", "TERM", "TMPDIR", "TZ", "LANG", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
_HARMLESS_PREFIXES = ("LC_", "PYTHON", "CUDA_", "NVIDIA_", "OMP_", "MKL_", "OPENBLAS_", "COVERAGE_")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerSettings(StoreSettings):
    """Read from the environment, as GAMMABETA_LEASE_SECONDS and so on."""

    devices: str = "auto"
    """Where trainings run: `auto` (every GPU, else the CPU), `cpu`, or names such as `cuda:0,cuda:1`."""

    cpu_ranks: int = Field(default_factory=_cores, ge=1, le=1_024)
    """How many trainings run at a time on a machine without a GPU; by default one for each core."""

    threads: int = Field(default=1, ge=1, le=1_024)
    """The most CPU threads of one training. For small networks one is fastest."""

    poll_seconds: float = Field(default=0.2, gt=0)
    """How often a free slot looks for a job."""

    heartbeat_seconds: float = Field(default=5, gt=0)
    """How often the lease of a running job is renewed."""

    lease_seconds: float = Field(default=30, gt=0)
    """How long a job stays with a worker that is not heard of. At least twice the heartbeat."""

    reap_seconds: float = Field(default=5, gt=0)
    """How often the worker looks for jobs whose lease has expired."""

    report_seconds: float = Field(default=0.5, gt=0)
    """How often progress and metrics of a running job are written, at most."""

    max_blind_seconds: float = Field(default=900, gt=0)
    """How long a training goes on while the database does not answer."""

    cancel_grace_seconds: float = Field(default=10, ge=0)
    """How long a training may take to stop when asked to, before it is killed."""

    checkpoint_seconds: float = Field(default=10, ge=0)
    """The shortest time between two checkpoints."""

    retry_seconds: float = Field(default=2, ge=0)
    """The pause before a lost attempt is repeated. It doubles with each, up to five minutes."""

    ingest_memory_bytes: int = Field(default=4 << 30, ge=1 << 28)
    """Address space of the process that reads an uploaded file."""

    ingest_cpu_seconds: int = Field(default=1_800, ge=1)
    """Processor time of the process that reads an uploaded file."""

    ingest_rows: int = Field(default=100_000_000, ge=1)
    """The most rows of a data set."""

    ingest_decoded_bytes: int = Field(default=8 << 30, ge=1)
    """The most bytes of a data set as arrays."""

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
    def lease_ms(self) -> int:
        return round(self.lease_seconds * 1_000)

    @property
    def retry_ms(self) -> int:
        return round(self.retry_seconds * 1_000)


def forget_environment() -> None:
    """Take everything out of this process' environment that a child has no use for. The settings have been read; what
    is started from here on inherits no address, key or password, by whatever way it is started."""
    for name in list(os.environ):
        if name not in _HARMLESS and not name.startswith(_HARMLESS_PREFIXES):
            del os.environ[name]
