"""The rows of a data set: mapped, never copied, in an order that is a pure function of (seed, epoch).

training split   ──hold_out(seed)──►   rows trained on | rows held out for validation
rows trained on  ──order(seed, epoch)──►   one permutation an epoch, cut into batches as `last_batch` says
                                           [0, B) [B, 2B) … [(k-1)B, n)     merge: the ragged rest joins the last one
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gammabeta.schemas.batching import Batching
from gammabeta.schemas.datasets import Split
from gammabeta.schemas.resolution import validation_rows
from worker.messages import JobFile, PredictFile

Indices: TypeAlias = NDArray[np.int64]
Prepare: TypeAlias = Callable[[Tensor], Tensor]

_HOLD_OUT, _ORDER = 1, 2
"""Streams of random numbers of their own, so that one seed may serve both."""


@dataclass(frozen=True)
class Rows:
    """Rows of a split: raw features `x: [N, …]` and codes or numbers `y: [N]`, both on disk."""

    x: NDArray[Any]
    y: NDArray[Any]

    @property
    def n(self) -> int:
        return int(self.x.shape[0])

    def take(self, indices: Indices, device: torch.device) -> tuple[Tensor, Tensor]:
        """The rows at these places, on the device."""
        return _gathered(self.x, indices, device), _gathered(self.y, indices, device)

    @torch.no_grad()
    def prepared(self, several: list[Indices], prepare: Prepare, device: torch.device) -> list[tuple[Tensor, Tensor]]:
        """Several batches, gathered and prepared at once: for small rows the calls cost more than the work."""
        lengths = [len(each) for each in several]
        x, y = self.take(np.concatenate(several), device)
        return list(zip(torch.split(prepare(x), lengths), torch.split(y, lengths), strict=True))


def open_rows(job: JobFile | PredictFile, split: Split) -> Rows:
    """The mapped arrays of a split that the manifest has."""
    files = job.manifest.splits[split]
    x, y = (np.load(job.arrays[file.sha256], mmap_mode="r", allow_pickle=False) for file in (files.x, files.y))
    return Rows(np.asarray(x), np.asarray(y))  # still mapped; a memmap's own indexing costs a Python call more


def hold_out(n: int, fraction: float, seed: int) -> tuple[Indices, Indices]:
    """The rows that are trained on and those that are held out, each in the order of the file."""
    drawn = np.random.default_rng([seed, _HOLD_OUT]).permutation(n)
    count = validation_rows(n, fraction)
    return np.sort(drawn[count:]), np.sort(drawn[:count])


def order(rows: Indices, *, seed: int, epoch: int) -> Indices:
    """The rows as this epoch goes through them."""
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(rows)


def batches(ordered: Indices, batching: Batching, *, start: int = 0) -> Iterator[Indices]:
    """The batches of an epoch from number `start` on."""
    n = len(ordered)
    for number in range(start, batching.steps(n)):
        begin, end = batching.bounds(n, number)
        yield ordered[begin:end]


def together(cut: Iterator[Indices], count: int) -> Iterator[list[Indices]]:
    """So many batches at a time, the last time those that are left."""
    while several := list(islice(cut, count)):
        yield several


def blocks(rows: Indices, size: int) -> Iterator[Indices]:
    """All rows in order, `size` at a time."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _gathered(mapped: NDArray[Any], indices: Indices, device: torch.device) -> Tensor:
    # Gathered by numpy, since torch warns of memory that may not be written; into memory of torch's, whose alignment,
    # and so the rounding of what is computed from it, is the same on each run.
    on_gpu = device.type == "cuda"
    out = torch.empty((len(indices), *mapped.shape[1:]), dtype=_torch_type(mapped.dtype), pin_memory=on_gpu)
    np.take(mapped, indices, axis=0, out=out.numpy(), mode="clip")  # "raise" would go through a second buffer
    return out.to(device, non_blocking=True) if on_gpu else out


@cache
def _torch_type(dtype: np.dtype[Any]) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype
