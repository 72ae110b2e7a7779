"""Models, versions and aliases as the service shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from gammabeta.schemas.base import Answer, Request
from gammabeta.schemas.networks import LayersNetwork
from gammabeta.schemas.normalization import VarianceEstimator
from gammabeta.schemas.preprocessing import FittedPreprocessing


class VersionSummary(Answer):
    """A version in a list."""

    version: str
    job: str
    dataset: str
    created_at: datetime
    metrics: dict[str, dict[str, Any]]
    weights_sha256: str
    batchnorm_digest: str


class Model(Answer):
    """A name with versions, newest first, and aliases."""

    name: str
    versions: tuple[VersionSummary, ...]
    aliases: dict[str, str]
    created_at: datetime


class Version(Answer):
    """A trained network. It never changes."""

    model: str
    version: str
    job: str
    dataset: str
    created_at: datetime
    network: LayersNetwork
    preprocessing: FittedPreprocessing
    classes: tuple[str, ...] | None
    """The labels in the order of the scores; None for a number."""
    metrics: dict[str, dict[str, Any]]
    """`train`, `validation`, `test`: loss, accuracy, macro_f1, per_class … or loss, mae, rmse, r2."""
    weights_sha256: str
    batchnorm_digest: str
    parameters: int
    parent: str | None = None


class Alias(Answer):
    """A word for a version."""

    model: str
    alias: str
    version: str


class AliasRequest(Request):
    """Which version the alias shall name."""

    version: str


class BatchNormLayer(Answer):
    """The state of one batch-norm layer."""

    name: str
    channels: int
    axis: int | tuple[int, ...]
    """In API layout, the batch counted as 0; a list where several axes keep their own statistics. Then the channels are
    the combinations of their indices, the last axis running fastest."""
    epsilon: float
    momentum: float
    """Keras' sense: the weight of the old value."""
    torch_momentum: float
    """torch's: one minus it."""
    fused_effective: bool
    """What `fused` came to."""
    variance_estimator: VarianceEstimator
    """What `moving_variance` is made of: the batch variance v (`biased`), v n / (n - 1) (`unbiased`), or the moving
    standard deviation of `renorm`."""
    updates: int
    """Training batches that moved the statistics."""
    skipped: int
    """Training batches whose statistics were not finite, and moved nothing."""
    single: int
    """Training batches of one value per channel, which moved the mean and not the variance."""
    initial_weight: float
    """momentum ** updates: how much of the moving statistics is still their initial value."""
    gamma: list[float] | None
    beta: list[float] | None
    moving_mean: list[float]
    moving_variance: list[float]
    arguments: dict[str, Any]
    """The whole signature of the layer by its classic names, as the version's network has it: `axis` counted from the
    front, and `fused` decided."""


class BatchNormAnswer(Answer):
    """The batch-norm state of a version."""

    digest: str
    layers: tuple[BatchNormLayer, ...]


class FoldedLayer(Answer):
    """A batch norm that another layer has in its kernel."""

    layer: str
    into: str


class UnfoldedLayer(Answer):
    """A batch norm that is computed by itself."""

    layer: str
    reason: str


class UnusedEngine(Answer):
    """An engine that was preferred and does not serve."""

    engine: str
    reason: str


class Served(Answer):
    """What is in the memory of the process that answered."""

    model: str
    version: str
    engine: str
    """`onnxruntime` or `torch`."""
    max_difference: float
    """Of the engine's logits to those of the eval-mode torch network, batch norms and all, measured now on a probe, in
    the row that comes closest to its tolerance; 0 where the engine is that network."""
    tolerance: float
    """The largest difference with which an engine serves: 1e-4 max(1, max|logit|), of the logits of that row."""
    probe_rows: int
    """How many rows were compared."""
    mismatch: str | None
    """Why the engine would not be chosen by what was measured now; null where it agrees, labels included."""
    folded: tuple[FoldedLayer, ...]
    not_folded: tuple[UnfoldedLayer, ...]
    not_serving: tuple[UnusedEngine, ...]
    training: bool
    """Whether any module is in training mode. Never true."""
    digest: str
    """Recomputed now from the module in memory."""
    stored_digest: str
    predictions: int
    """Rows answered by this process since it loaded the version."""
