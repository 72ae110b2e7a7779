"""What regularizers add to the loss: the sum over all trained parameters of `l1 sum|w| + l2 sum w²`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gammabeta.nets.build import Network
from gammabeta.nets.trained import trained
from gammabeta.schemas.regularizers import Regularizer


def penalty_of(network: Network) -> Callable[[], Tensor] | None:
    """The penalty of the network as it is when called, a float32 scalar; None where no layer has a regularizer."""
    alike: dict[Regularizer, list[nn.Parameter]] = {}
    for each in trained(network):
        regularizer = each.argument("regularizer")
        if regularizer is not None and (regularizer.l1 or regularizer.l2):
            alike.setdefault(regularizer, []).append(each.parameter)
    return _Penalty([(regularizer, tuple(parameters)) for regularizer, parameters in alike.items()]) if alike else None


@dataclass(frozen=True)
class _Penalty:
    """Parameters of one regularizer are strung together: a sum for each would cost a call of the device for each."""

    groups: list[tuple[Regularizer, tuple[nn.Parameter, ...]]]

    def __call__(self) -> Tensor:
        terms = [term for regularizer, parameters in self.groups for term in _terms(regularizer, parameters)]
        return terms[0] if len(terms) == 1 else torch.stack(terms).sum()


def _terms(regularizer: Regularizer, parameters: tuple[nn.Parameter, ...]) -> list[Tensor]:
    # the order within a sum is the order in memory, so that flattening an image kernel copies nothing
    flat = [_in_memory_order(each).flatten() for each in parameters]
    w = flat[0] if len(flat) == 1 else torch.cat(flat)
    terms = []
    if regularizer.l1:
        terms.append(w.abs().sum() * regularizer.l1)
    if regularizer.l2:
        terms.append(torch.dot(w, w) * regularizer.l2)
    return terms


def _in_memory_order(parameter: nn.Parameter) -> Tensor:
    return parameter.permute(0, 2, 3, 1) if parameter.ndim == 4 else parameter
