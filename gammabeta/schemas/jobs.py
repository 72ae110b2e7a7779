"""Jobs: what is submitted, what is shown, what a dry run says.

The stored states, and the words derived from them:

    queued ──► running ──► succeeded | failed | cancelled
       ▲          │                        └────┬────┘
       ├─ paused ◄┘                             │
       └────────────────── retry ───────────────┘
    cancelling = running and a cancel was requested; retrying = queued after an attempt
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

from gammabeta.schemas.base import Answer, Count, Name, Request, not_supported, refuse_not_yet, told_by
from gammabeta.schemas.datasets import Split
from gammabeta.schemas.networks import LayersNetwork, NetworkSpec
from gammabeta.schemas.preprocessing import PreprocessingSpec
from gammabeta.schemas.training import TrainingSpec


class JobState(StrEnum):
    """What the database stores."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


TERMINAL = frozenset(state.value for state in JobState if state.terminal)
"""The event that ends a job has the name of its last state as its type."""

JobStatus: TypeAlias = Literal[
    "queued", "running", "paused", "succeeded", "failed", "cancelled", "cancelling", "retrying"
]


class Lane(StrEnum):
    """Which slots a job may take: `light` for short work, so that a long training never blocks an upload."""

    TRAIN = "train"
    LIGHT = "light"


class Resources(Request):
    """What the job needs of a worker."""

    devices: Literal[1] = 1


MAX_SECONDS = 30 * 86_400
"""The longest limit of an attempt: 30 days."""


def _short(value: dict[str, str]) -> dict[str, str]:
    for key, text in value.items():
        if not 1 <= len(key) <= 64 or len(text) > 512:
            raise PydanticCustomError("metadata", "keys must have 1 to 64 characters, values at most 512")
    return value


DatasetWord: TypeAlias = Annotated[str, Field(min_length=1, max_length=64)]
Priority: TypeAlias = Annotated[Count, Field(ge=-1_000, le=1_000)]
Seconds: TypeAlias = Annotated[Count, Field(ge=1, le=MAX_SECONDS)]
Metadata: TypeAlias = Annotated[dict[str, str], Field(max_length=32), AfterValidator(_short)]

EXAMPLE: dict[str, JsonValue] = {
    "kind": "train",
    "dataset": "digits",
    "model": "digits",
    "network": {"preset": "mlp", "hidden": [64], "batch_norm": {"momentum": 0.9}, "activation": "relu"},
    "preprocessing": {"image": "standard"},
    "training": {
        "epochs": 10,
        "batch_size": 32,
        "optimizer": {"name": "adam", "learning_rate": 0.001},
        "schedule": {"name": "cosine", "warmup_steps": 20},
        "early_stopping": {"metric": "val_loss", "patience": 3},
    },
}


class TrainRequest(Request):
    """Train `network` on `dataset` and publish the result as a new version of `model`."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    kind: Literal["train"] = "train"
    dataset: DatasetWord
    """The id (`ds_…`) or the name of a data set."""
    model: Name
    network: NetworkSpec
    preprocessing: PreprocessingSpec = PreprocessingSpec()
    training: TrainingSpec = TrainingSpec()
    resources: Resources = Resources()
    priority: Priority = 0
    """Higher goes first."""
    max_seconds: Seconds | None = None
    """The longest that an attempt may run. Beyond it the job fails with `deadline_exceeded` and keeps its checkpoints,
    from which a retry goes on. None: as long as it takes."""
    metadata: Metadata = Field(default_factory=dict)

    NOT_YET: ClassVar[frozenset[str]] = frozenset({"init_from", "freeze_batch_norm"})

    @model_validator(mode="before")
    @classmethod
    def _refuse_not_yet(cls, value: Any) -> Any:
        return refuse_not_yet(value, cls.NOT_YET, "a train job")


AnswerFormat: TypeAlias = Literal["csv", "parquet"]


class PredictDatasetRequest(Request):
    """Answer every row of a split of `dataset` by a version of `model`, into a file."""

    model_config = ConfigDict(json_schema_extra=told_by("kind"))

    kind: Literal["predict"] = "predict"
    model: Name
    version: str | None = Field(default=None, max_length=64)
    """None, and no alias: that of the alias `production`, or else the newest. Which it is, is settled when the job is
    submitted."""
    alias: str | None = Field(default=None, max_length=64)
    dataset: DatasetWord
    """The id (`ds_…`) or the name of a data set."""
    split: Split | None = None
    """None: `test` where the data set has one, else `train`."""
    format: AnswerFormat = "csv"
    priority: Priority = 0
    """Higher goes first."""
    max_seconds: Seconds | None = None
    """The longest that an attempt may run. Beyond it the job fails with `deadline_exceeded`; a retry begins anew. None:
    as long as it takes."""
    metadata: Metadata = Field(default_factory=dict)


KINDS_NOT_YET = frozenset({"evaluate", "recalibrate", "compare", "export"})


def _refuse_kinds_not_yet(value: Any) -> Any:
    if isinstance(value, dict) and isinstance(value.get("kind"), str) and value["kind"] in KINDS_NOT_YET:
        raise not_supported(f"a job of kind '{value['kind']}'", 'Write "kind": "train" or "predict".', key="kind")
    return value


def _job_kind(value: Any) -> str | None:
    kind = value.get("kind", "train") if isinstance(value, dict) else getattr(value, "kind", None)
    return kind if isinstance(kind, str) else None


JobRequest: TypeAlias = Annotated[
    Annotated[TrainRequest, Tag("train")] | Annotated[PredictDatasetRequest, Tag("predict")],
    Discriminator(
        _job_kind,
        custom_error_type="kind",
        custom_error_message='must be an object with "kind": "train" or "kind": "predict"',
    ),
    BeforeValidator(_refuse_kinds_not_yet),
]


class ResolvedTrainRequest(Answer):
    """A train request with every `auto` and every name resolved: what runs, and what is shown and stored."""

    kind: Literal["train"] = "train"
    dataset: str
    """Always the id."""
    model: str
    network: LayersNetwork
    preprocessing: PreprocessingSpec
    training: TrainingSpec
    resources: Resources
    priority: int
    max_seconds: int | None = None
    metadata: dict[str, str]


class ResolvedPredictRequest(Answer):
    """A predict request with every name resolved: what runs, and what is shown and stored. Moving an alias, or
    publishing a newer version, changes nothing of it."""

    kind: Literal["predict"] = "predict"
    model: str
    version: str
    dataset: str
    """Always the id."""
    split: Split
    format: AnswerFormat
    priority: int
    max_seconds: int | None = None
    metadata: dict[str, str]

    @property
    def file(self) -> str:
        """The name of the file of answers."""
        return f"predictions.{self.format}"


class Progress(Answer):
    """How far a running job is."""

    step: int = 0
    """predict: the rows that were answered."""
    steps: int = 0
    epoch: int = 0
    """The epoch under way, from 1."""
    epochs: int = 0
    fraction: float = 0.0
    eta_seconds: float | None = None
    samples_per_second: float | None = None
    metrics: dict[str, float] = {}
    """The newest of each: loss, accuracy or mae, val_loss, …"""


class JobError(Answer):
    """Why a job failed."""

    code: str
    message: str


class JobWarning(Answer):
    """Something that the user should know about a run that went on."""

    code: str
    message: str


class Job(Answer):
    """A job as the service shows it."""

    id: str
    kind: str
    status: JobStatus
    queue_position: int | None = None
    """1: next of its lane. None unless queued. Jobs that are passed over for now, since they wait before they are
    repeated or since a limit on running jobs holds them back, count like all that stand before it."""
    progress: Progress | None = None
    attempt: int
    """How often it was claimed."""
    model: str | None = None
    version: str | None = None
    dataset: str | None = None
    device: str | None = None
    result: dict[str, Any] | None = None
    """train: `metrics` of the published version by split, in single numbers. predict: the file of answers, by its
    address `file`, `format`, `bytes`, `sha256` and `rows`; `model`, `version`, `batchnorm_digest`, `dataset` and
    `split`, by which it came about; and `metrics` in single numbers, None where the model does not know the targets."""
    error: JobError | None = None
    warnings: tuple[JobWarning, ...] = ()
    metadata: dict[str, str] = {}
    created_at: datetime
    started_at: datetime | None = None
    """When the newest attempt began."""
    finished_at: datetime | None = None
    request: dict[str, Any]


class Message(Answer):
    """A remark of the dry run."""

    field: str
    severity: Literal["info", "warning"]
    code: str
    message: str


class LayerRow(Answer):
    """A row of the layer table."""

    name: str
    type: str
    inputs: tuple[str, ...]
    output_shape: tuple[int, ...]
    parameters: int
    details: dict[str, Any] = {}
    """Batch norm: `axis` counted from 1; `momentum`, the weight of the old value, and `torch_momentum`, one minus it;
    `fused_effective`; `variance_estimator`, what the moving variance averages (`biased` or `unbiased` variances, or
    `renorm`: standard deviations, of which it is max(average² − epsilon, 0)); `values_per_channel` in a batch, or in a
    ghost batch; and `arguments`, those that are not at their defaults."""


class DryRun(Answer):
    """What a submission would do, without doing it."""

    request: ResolvedTrainRequest
    layers: tuple[LayerRow, ...]
    parameters: int
    memory_bytes: int
    """Estimated: parameters, gradients, optimizer and the activations of one batch."""
    steps: int
    messages: tuple[Message, ...]


class PredictDryRun(Answer):
    """What a submission of a predict job would do, without doing it."""

    request: ResolvedPredictRequest
    rows: int
    columns: tuple[str, ...]
    """Of the file of answers, in their order."""
    unused: tuple[str, ...]
    """Columns of the data set that the model does not read."""
    measured: bool
    """Whether the result will have metrics: the model knows every class of the target, or both are numbers."""


class Event(Answer):
    """Something that happened to a job. `id` is the cursor."""

    id: int
    job: str
    type: str
    attempt: int
    data: dict[str, Any] = {}
    created_at: datetime


class Series(Answer):
    """One metric of a job over its steps."""

    name: str
    step: list[int]
    epoch: list[int]
    value: list[float | None]
    """None where it was not finite."""


class Metrics(Answer):
    """All asked-for series of a job."""

    job: str
    series: tuple[Series, ...]
