"""The settings of the service: those of the store, and its own. Each is read from `GAMMABETA_<NAME>`."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from gammabeta.store.limits import QueueLimits
from gammabeta.store.settings import StoreSettings
from gammabeta.store.usage import StorageLimit
from service.runtime.extras import has_onnx

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]")


class ServiceSettings(StoreSettings):
    """Where the service listens, how much it takes, and how it predicts."""

    host: str = "127.0.0.1"
    """The address to listen on. One that is not of loopback needs an API key: `gammabeta keys create`."""
    port: int = Field(default=8000, ge=0, le=65_535)
    """The port to listen on; 0 takes a free one."""
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Host names, besides `GAMMABETA_HOST` and those of loopback, by which requests may address the service; separated
    by commas."""
    max_upload_bytes: int = Field(default=2 * 1024**3, gt=0)
    """The largest file that is taken."""
    max_predict_bytes: int = Field(default=64 * 1024**2, gt=0)
    """The largest body of a prediction."""
    max_json_bytes: int = Field(default=1024**2, gt=0)
    """The largest other body."""
    body_seconds: float = Field(default=60, gt=0, le=3_600)
    """How long a body may take, from when it is first waited for until all of it is there; of an upload, how long it
    may pause. A slower one is refused with 408."""
    max_queued: int | None = Field(default=None, ge=1)
    """How many jobs may be queued, ingestions included; one more is refused with 429. By default any number."""
    max_queued_per_key: int | None = Field(default=None, ge=1)
    """The same for the jobs of one key, or of all keys of one owner."""
    submits_per_second: float | None = Field(default=None, gt=0, le=100_000)
    """How often one key, or all keys of one owner, may submit or retry jobs and send files, on average; ten seconds'
    worth may come at once; dry runs and what is sent again count. More is refused with 429. Each process of the service
    counts for itself. By default any number."""
    max_job_memory_bytes: int = Field(default=64 * 1024**3, gt=0)
    """The most memory that a job may need, as the dry run estimates it."""
    project_bytes: int = Field(default=0, ge=0)
    """How many bytes a project may have stored: data sets, weights of versions, files and checkpoints of jobs. An
    upload that would bring more, and a job once there are as many, is refused with 507. 0: any number."""
    predict_threads: int = Field(default=1, ge=1, le=256)
    """How many threads torch uses inside one prediction. One is fastest for small networks."""
    predict_workers: int = Field(default=2, ge=1, le=64)
    """How many predictions are computed at once."""
    predict_engine: Literal["auto", "torch", "onnxruntime"] = "auto"
    """What computes predictions. `auto` is ONNX Runtime where the extra `onnx` is installed, and torch elsewhere; ONNX
    Runtime gives way to torch for a version of which it does not compute the same. `onnxruntime` is `auto` where the
    extra is installed; elsewhere the service does not start."""
    predict_fold: bool = True
    """Whether batch norms are folded into the layers beside them for predictions."""
    predict_memory_bytes: int = Field(default=2 * 1024**3, gt=0)
    """How many bytes of loaded networks are kept, weights that several versions share counted once; those that were
    used longest ago go first. A version that needs more alone is refused."""
    max_batch_rows: int = Field(default=64, ge=1, le=65_536)
    """How many rows of the same version are computed at once, at most, be they of one request or of several that wait
    together; 1 computes each row by itself."""
    max_wait_ms: float = Field(default=0, ge=0, le=1_000)
    """How long a request that waits together with others stays waiting for more of them, at most, in milliseconds. By
    default a batch is what waits when a thread is free; a lone request never waits."""
    max_queued_rows: int = Field(default=1_024, ge=1)
    """How many rows may wait for one version; a request beyond that is refused with 429. Of a large request, which
    is computed in pieces in turn with the others, as many rows count as one piece has."""
    max_queued_ms: float = Field(default=1_000, gt=0, le=3_600_000)
    """How long a request may have to wait for its turn behind others, to be read and to be computed, in milliseconds;
    one that would have to wait longer is refused with 429."""
    max_queued_bytes: int = Field(default=256 * 1024**2, ge=1)
    """How many bytes of bodies may wait to be read, and of rows to be computed, in the whole process; a request beyond
    that is refused with 429."""
    lease_seconds: float = Field(default=30, gt=0)
    """After how much silence a worker is shown as `silent`: the worker's setting of the same name."""
    watch_seconds: float = Field(default=0.25, gt=0, le=1)
    """How often the database is asked for moved aliases, new versions and new events."""
    watch_schema_seconds: float = Field(default=5, gt=0)
    """How often it looks whether the database was upgraded, and still serves this version."""
    stream_heartbeat_seconds: float = Field(default=15.0, gt=0)
    """After how much silence an event stream says that it lives."""
    drain_seconds: int = Field(default=10, ge=0)
    """How long requests in progress may take when the service is told to stop."""
    metrics_host: str = "127.0.0.1"
    """The address at which metrics are told without a key. Whoever reaches it may read them: they name the models of
    all projects, and nothing of data."""
    metrics_port: int | None = Field(default=None, ge=0, le=65_535)
    """The port of a `GET /metrics` that asks for no key; 0 takes a free one. By default there is only the one of
    `GAMMABETA_PORT`, which asks for the scope `admin` once there are keys."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """How much is logged: debug, info, warning or error."""
    access_log: bool = False
    """Whether each request is logged."""

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(each.strip() for each in value.split(",") if each.strip()) if isinstance(value, str) else value

    @field_validator("predict_engine")
    @classmethod
    def _installed(cls, value: str) -> str:
        if value == "onnxruntime" and not has_onnx():
            raise ValueError("needs the extra 'onnx'. Run: pip install 'gammabeta[onnx]', or set it to auto")
        return value

    @property
    def on_loopback(self) -> bool:
        """Whether `host` can be reached from this machine only."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False

    @property
    def queue_limits(self) -> QueueLimits:
        """What is checked when a job is submitted."""
        return QueueLimits(jobs=self.max_queued, of_owner=self.max_queued_per_key)

    @property
    def storage_limit(self) -> StorageLimit:
        """What is checked when something comes that will be stored."""
        return StorageLimit(bytes=self.project_bytes)

    @property
    def hosts(self) -> frozenset[str]:
        """Every name by which requests may address the service, in lower case and without a port."""
        own = f"[{self.host.strip('[]')}]" if ":" in self.host else self.host
        return frozenset(host.lower() for host in (*LOOPBACK_HOSTS, own, *self.allowed_hosts))
