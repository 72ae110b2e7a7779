"""The trained parameters of a network, each with what the spec of its layer says of it. Frozen ones are left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from gammabeta.nets.build import Network
from gammabeta.schemas.layers import DepthwiseConv2D
from gammabeta.schemas.plans import LayerPlan


@dataclass(frozen=True)
class Trained:
    """A parameter, and its name in its layer: kernel, bias, gamma or beta."""

    layer: LayerPlan
    name: str
    parameter: nn.Parameter

    def argument(self, kind: Literal["regularizer", "constraint"]) -> Any:
        """`kernel_regularizer` of a kernel, for instance; None where there is none."""
        depthwise = self.name == "kernel" and isinstance(self.layer.spec, DepthwiseConv2D)
        return getattr(self.layer.spec, f"{'depthwise' if depthwise else self.name}_{kind}")


def trained(network: Network) -> Iterator[Trained]:
    """In the order of the layers."""
    for layer, module in zip(network.plan.layers, network.layers, strict=True):
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                yield Trained(layer, name, parameter)
