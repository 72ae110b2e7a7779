"""How the rows of an epoch are cut into batches.

    n = 10, size 4      merge: 4 6      drop: 4 4      keep: 4 4 2

Ghost batches divide a batch, so that with a `multiple` a merged or kept last batch is trimmed to one: of 11 rows with
size 4 and multiple 2, merge gives 4 6, and one row is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gammabeta.schemas.measuring import Shape, channels_of
from gammabeta.schemas.normalization import BatchNorm
from gammabeta.schemas.plans import LayerPlan, NetworkPlan
from gammabeta.schemas.training import LastBatch, TrainingSpec


@dataclass(frozen=True, kw_only=True)
class Batching:
    """The cut of an epoch; `multiple` divides `size`."""

    size: int
    last: LastBatch = "merge"
    multiple: int = 1

    def steps(self, n: int) -> int:
        """Batches of an epoch of `n` rows, of which there are at least `size`."""
        return n // self.size + int(self.last == "keep" and self._kept(n) > 0)

    def bounds(self, n: int, number: int) -> tuple[int, int]:
        """Where batch `number` begins and ends in the order of an epoch of `n` rows."""
        start = number * self.size
        return start, start + (self.last_rows(n) if number == self.steps(n) - 1 else self.size)

    def last_rows(self, n: int) -> int:
        """Rows of the last batch."""
        if self.last == "merge":
            return self.size + self._kept(n)
        return (self._kept(n) if self.last == "keep" else 0) or self.size

    def left_out(self, n: int) -> int:
        """Rows that no batch of an epoch has."""
        return n % self.size - (0 if self.last == "drop" else self._kept(n))

    def _kept(self, n: int) -> int:
        """Of the rows left over, those that may be used."""
        ragged = n % self.size
        return ragged - ragged % self.multiple


def batching_of(training: TrainingSpec, plan: NetworkPlan) -> Batching:
    """The cut that a request asks for."""
    ghosts = [ghost for layer in plan.layers if (ghost := ghost_of(layer))]
    return Batching(size=training.batch_size, last=training.last_batch, multiple=math.lcm(*ghosts))


def ghost_of(layer: LayerPlan) -> int | None:
    """Rows of the ghost batches that a layer makes in training."""
    norm = layer.spec
    return norm.virtual_batch_size if isinstance(norm, BatchNorm) and norm.trainable else None


def values_per_channel(norm: BatchNorm, shape: Shape, rows: int) -> int:
    """How many values give each mean and variance in a batch of so many rows; of a ghost batch where there are any."""
    return (norm.virtual_batch_size or rows) * (math.prod(shape) // channels_of(norm, shape))
