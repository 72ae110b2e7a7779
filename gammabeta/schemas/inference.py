"""The Open Inference Protocol (v2) as data: what `/v2` takes and answers. Its keys are the protocol's, not ours.

Requests stand here for the description of the service only; `service/openinference` reads them straight into arrays.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from gammabeta.schemas.base import Answer

Parameters = dict[str, str | int | float | bool]
State = Literal["READY", "LOADING", "UNAVAILABLE"]


class InferenceError(Answer):
    """Every answer under `/v2` whose status is not 200."""

    error: str


class ServerLive(Answer):
    """The process lives."""

    live: bool = True


class ServerReady(ServerLive):
    """Database, migrations and blobs are fine. The protocol's own example has `live` here."""

    ready: bool = True


class ServerMetadata(Answer):
    """What answers, and which extensions it has."""

    name: str = "gammabeta"
    version: str
    extensions: tuple[str, ...]


class TensorMetadata(Answer):
    """An input or an output of a model; -1 in the shape: any number of rows."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(Answer):
    """What a model takes and gives."""

    name: str
    versions: tuple[str, ...]
    """All that may be asked for, the newest first."""
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


class ModelReady(Answer):
    """The model is in memory, and answers."""

    name: str
    ready: bool = True


class ConfigTensor(Answer):
    """A tensor in the words of Triton's model configuration."""

    name: str
    data_type: str
    dims: tuple[int, ...]


class ModelConfig(Answer):
    """Triton's model configuration, as far as it has a meaning here."""

    name: str
    platform: str
    backend: str = "gammabeta"
    version_policy: dict[str, dict[str, int]] = Field(default={"all": {}})
    max_batch_size: int = 0
    """0: the shapes name the axis of the rows themselves. How many rows a request may have, its bytes decide."""
    input: tuple[ConfigTensor, ...]
    output: tuple[ConfigTensor, ...]


class RepositoryEntry(Answer):
    """A version that may be asked for."""

    name: str
    version: str
    state: State
    """READY: in the memory of the process that answered."""
    reason: str


class Duration(Answer):
    """How often, and how many nanoseconds in all."""

    count: int = 0
    ns: int = 0


class InferenceStatistics(Answer):
    """Requests that were answered and that failed, and where their time went."""

    success: Duration = Duration()
    fail: Duration = Duration()
    queue: Duration = Duration()
    compute_input: Duration = Duration()
    compute_infer: Duration = Duration()
    compute_output: Duration = Duration()
    cache_hit: Duration = Duration()
    cache_miss: Duration = Duration()


class BatchStatistics(Answer):
    """Executions of one number of rows."""

    batch_size: int
    compute_input: Duration = Duration()
    compute_infer: Duration = Duration()
    compute_output: Duration = Duration()


class ModelStatistics(Answer):
    """What this process has counted since it loaded the version."""

    name: str
    version: str
    last_inference: int = 0
    """Milliseconds since 1970; 0: none yet."""
    inference_count: int = 0
    """Rows."""
    execution_count: int = 0
    """Batches."""
    inference_stats: InferenceStatistics = InferenceStatistics()
    batch_stats: tuple[BatchStatistics, ...] = ()


class Statistics(Answer):
    """Of each version that was asked for."""

    model_stats: tuple[ModelStatistics, ...]


class InputTensor(Answer):
    """An input with its values, either here or after the JSON."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    parameters: Parameters | None = None
    """`binary_data_size`: so many bytes after the JSON are the values."""
    data: list[Any] | None = None
    """Row-major, nested or flat."""


class RequestedOutput(Answer):
    """An output that is wanted."""

    name: str
    parameters: Parameters | None = None
    """`binary_data`: after the JSON rather than in it. `classification`: the so many best classes as texts."""


class InferenceRequest(Answer):
    """Rows to predict."""

    id: str | None = None
    """Stands in the answer again."""
    parameters: Parameters | None = None
    """`binary_data_output`: every output after the JSON, but those that say otherwise."""
    inputs: Annotated[list[InputTensor], Field(min_length=1)]
    outputs: list[RequestedOutput] | None = None
    """Without them, all."""


class OutputTensor(Answer):
    """An output with its values, flat and row-major, or the number of bytes that they have after the JSON."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: Parameters | None = None
    data: list[Any] | None = None


class InferenceResponse(Answer):
    """What the model says of each row."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: Parameters
    """`batchnorm_mode`, always eval, and `batchnorm_digest`."""
    outputs: list[OutputTensor]
