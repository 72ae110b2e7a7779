"""What the supervisor and its child say to each other over their pipe, one JSON object a message, never a pickle.

    supervisor                                                  trainer
        JobFile ──────────────────────────────────────────────►
                 ◄────────────────────────────────────────────── Started
                 ◄── Progress · MetricsRow · Event · Warned · Checkpoint (a folder; complete) ───
        Stop(why) ────────────────────────────────────────────►
                 ◄────────────────────────────────────────────── Done(folder) | Stopped | Failed

After one of the last three the trainer ends. If it ends without, the attempt was lost. The child that ingests a data
set gets an `IngestFile`, and answers Progress, Warned, and one of Done, Refused (the file is bad) and Failed. The one
that answers a data set gets a `PredictFile`, and says Started, Progress, and one of Answered and Failed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from gammabeta.schemas.datasets import DatasetFormat, DatasetManifest
from gammabeta.schemas.jobs import Progress as JobProgress
from gammabeta.schemas.jobs import ResolvedPredictRequest, ResolvedTrainRequest
from gammabeta.schemas.training import LossName

MANIFEST = "manifest.json"
"""The file in which a finished ingestion hands over its `DatasetManifest`."""

StopReason: TypeAlias = Literal["cancel", "pause", "drain"]


class Message(BaseModel):
    """Frozen; closed, since both ends are of one release."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class JobFile(Message):
    """One attempt: all that the trainer gets to know."""

    type: Literal["job"] = "job"
    job_id: str
    fence: int
    request: ResolvedTrainRequest
    manifest: DatasetManifest
    arrays: dict[str, Path]
    """The local file of each array of the manifest, by its sha256."""
    scratch: Path
    """An empty folder of the attempt's own, on the file system where checkpoints and results are wanted."""
    resume: Path | None = None
    """A checkpoint folder to go on from."""
    device: str = "cpu"
    """`cpu` or `cuda:0`."""
    threads: int = Field(default=1, ge=1)
    """The most CPU threads that the trainer may use; a small network gets one. A resumed run takes the number that
    its checkpoint was made with."""
    checkpoint_seconds: float = Field(default=60.0, ge=0)
    """The shortest time between two checkpoints."""


class IngestOptions(BaseModel):
    """How the upload asked for its file to be read; keys that are for the service alone are left out."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)

    format: DatasetFormat
    target: str | None = None
    categorical: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    test_fraction: float | None = None
    seed: int = 0
    split: Literal["test"] | None = None


class IngestLimits(Message):
    """What reading a file may take."""

    memory_bytes: int
    """Of address space."""
    cpu_seconds: int
    rows: int
    decoded_bytes: int
    """Of the arrays that come out."""


class IngestFile(Message):
    """One attempt to read an uploaded file."""

    type: Literal["ingest"] = "ingest"
    job_id: str
    fence: int
    upload: Path
    """The raw file."""
    options: IngestOptions
    existing: DatasetManifest | None = None
    """What is there already, where the file is a second split."""
    scratch: Path
    """An empty folder of the attempt's own."""
    limits: IngestLimits


class PredictFile(Message):
    """One attempt to answer a split of a data set."""

    type: Literal["predict"] = "predict"
    job_id: str
    fence: int
    request: ResolvedPredictRequest
    version: Path
    """The folder that has all of the version but its weights, see `worker.results`."""
    weights: Path
    digest: str
    """Of the batch-norm state."""
    loss: LossName | None
    """What the version was trained by, which its answers are measured by."""
    manifest: DatasetManifest
    arrays: dict[str, Path]
    """The local file of each array of the manifest, by its sha256."""
    scratch: Path
    """A folder of the attempt's own."""
    device: str = "cpu"
    threads: int = Field(default=1, ge=1)


class Stop(Message):
    """Stop soon. `cancel`: nothing is kept; `pause`, `drain`: a checkpoint is written first."""

    type: Literal["stop"] = "stop"
    why: StopReason


class Started(Message):
    """The first step is about to run. `resumed_at` is the step of the checkpoint that it goes on from, and 0
    where it was given one of another version, and begins again."""

    type: Literal["started"] = "started"
    device: str
    steps: int
    resumed_at: int | None = None


class Progress(JobProgress):
    """How far the run is; at most four a second."""

    type: Literal["progress"] = "progress"


class MetricsRow(Message):
    """Values at a step; None where one was not finite. `epoch` counts from 1."""

    type: Literal["metrics"] = "metrics"
    step: int
    epoch: int
    values: dict[str, float | None]


class Event(Message):
    """Something that belongs into the history of the job."""

    type: Literal["event"] = "event"
    name: str
    data: dict[str, Any] = {}


class Warned(Message):
    """Something that the user should know about a run that goes on."""

    type: Literal["warning"] = "warning"
    code: str
    message: str


class Checkpoint(Message):
    """A checkpoint is complete; the folder is the supervisor's now."""

    type: Literal["checkpoint"] = "checkpoint"
    path: Path
    step: int


class Stopped(Message):
    """The trainer did what `Stop` asked. `checkpoint` is None after `cancel`, where nothing was done yet, and where
    the last `Checkpoint` that was sent is of this very step."""

    type: Literal["stopped"] = "stopped"
    why: StopReason
    checkpoint: Path | None
    step: int


class Failed(Message):
    """The attempt cannot go on."""

    type: Literal["failed"] = "failed"
    code: str
    message: str
    retryable: bool = False


class Refused(Message):
    """The file was read, and is not a data set; `code` says which rule it broke."""

    type: Literal["refused"] = "refused"
    code: str
    message: str


class Done(Message):
    """The result is complete in this folder (of a training: `worker.results` reads it)."""

    type: Literal["done"] = "done"
    path: Path


class Answered(Message):
    """Every row is answered, and the file complete."""

    type: Literal["answered"] = "answered"
    path: Path
    rows: int
    metrics: dict[str, Any] | None
    """By the targets of the rows; None where the model does not know them."""


Order: TypeAlias = JobFile | IngestFile | PredictFile | Stop
Report: TypeAlias = (
    Started | Progress | MetricsRow | Event | Warned | Checkpoint | Stopped | Failed | Refused | Done | Answered
)

_ORDERS: TypeAdapter[Order] = TypeAdapter(Annotated[Order, Field(discriminator="type")])
_REPORTS: TypeAdapter[Report] = TypeAdapter(Annotated[Report, Field(discriminator="type")])


def encode(message: Order | Report) -> bytes:
    """For `Connection.send_bytes`."""
    return message.model_dump_json().encode()


def decode_order(data: bytes) -> Order:
    """What the supervisor sent."""
    return _ORDERS.validate_json(data)


def decode_report(data: bytes) -> Report:
    """What the trainer sent."""
    return _REPORTS.validate_json(data)
