"""Early stopping: the best weights and batch-norm state so far, and how long ago that was."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from gammabeta.nets import state as states
from gammabeta.nets.build import Network
from gammabeta.schemas.batchnorm import BatchNormState
from gammabeta.schemas.training import EarlyStopping


@dataclass(frozen=True)
class Snapshot:
    """A network at one moment, in memory of its own."""

    weights: dict[str, Tensor]
    state: BatchNormState

    @classmethod
    def of(cls, network: Network) -> Snapshot:
        return cls(states.weights_of(network), states.state_of(network))

    def restore(self, network: Network) -> None:
        states.load(network, self.weights, self.state)


@dataclass
class Stopper:
    """Watches a metric from epoch to epoch. Without a rule it never stops and keeps nothing."""

    rule: EarlyStopping | None
    best: float | None = None
    best_epoch: int = 0
    waited: int = 0
    snapshot: Snapshot | None = field(default=None, repr=False)

    @property
    def over(self) -> bool:
        return self.rule is not None and self.waited >= self.rule.patience

    def watch(self, epoch: int, metrics: Mapping[str, float], network: Network) -> None:
        """Take note of the metrics after an epoch, counted from 1."""
        if self.rule is None:
            return
        value = metrics[self.rule.metric]
        if self._better(value, self.rule):
            self.best, self.best_epoch, self.waited = value, epoch, 0
            self.snapshot = Snapshot.of(network)
        else:
            self.waited += 1

    def restore(self, network: Network) -> None:
        """Bring back the best weights and state, if there are any."""
        if self.snapshot is not None:
            self.snapshot.restore(network)

    def _better(self, value: float, rule: EarlyStopping) -> bool:
        if self.best is None or not math.isfinite(value):
            return math.isfinite(value)
        gain = value - self.best if rule.higher_is_better else self.best - value
        return gain > rule.min_delta
