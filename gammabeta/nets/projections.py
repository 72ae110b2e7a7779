"""Constraints of `gammabeta.schemas.constraints`, as projections of parameters in place."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gammabeta.nets.build import Network
from gammabeta.nets.layouts import keras_view
from gammabeta.nets.trained import trained
from gammabeta.schemas.constraints import Constraint

EPSILON = 1e-7
"""Added to every norm that is divided by, as Keras does."""


@dataclass(frozen=True)
class Projection:
    """Where a parameter must stay. `view`: the parameter itself, in Keras' shape, whose axes a constraint counts."""

    constraint: Constraint
    view: Tensor

    def apply(self, *, unless: Tensor | None = None) -> None:
        """Project the parameter, or leave it as it is where `unless`, a bool on its device, is true."""
        projected = _projected(self.constraint, self.view)
        self.view.copy_(projected if unless is None else torch.where(unless, self.view, projected))


def projections_of(network: Network) -> tuple[Projection, ...]:
    """Of the trained parameters that have a constraint. The network must be on its device already."""
    return tuple(
        Projection(constraint, keras_view(each.layer, each.name, each.parameter.detach()))
        for each in trained(network)
        if (constraint := each.argument("constraint")) is not None
    )


def _projected(constraint: Constraint, w: Tensor) -> Tensor:
    if constraint.name == "non_neg":
        return w.clamp(min=0)
    norm: Tensor = torch.linalg.vector_norm(w, dim=constraint.axes, keepdim=True)
    return w * (_wanted(constraint, norm) / (EPSILON + norm))


def _wanted(constraint: Constraint, norm: Tensor) -> Tensor | float:
    match constraint.name:
        case "unit_norm":
            return 1.0
        case "max_norm":
            return norm.clamp(max=constraint.max_value)
        case _:
            inside = norm.clamp(constraint.min_value, constraint.max_value)
            return constraint.rate * inside + (1 - constraint.rate) * norm
