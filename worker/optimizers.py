"""Optimizers by their names here, on torch's, and their state as plain tensors.

Weight decay works on kernels only: gamma, beta and biases are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gammabeta.nets import state as states
from gammabeta.nets.build import Network
from gammabeta.schemas import training as specs


def optimizer_for(spec: specs.Optimizer, network: Network) -> torch.optim.Optimizer:
    """The optimizer of a network's trained parameters; in one kernel where torch has one."""
    groups = _groups(network, spec.weight_decay)
    match spec:
        case specs.Adam() | specs.AdamW():
            kind = torch.optim.Adam if isinstance(spec, specs.Adam) else torch.optim.AdamW
            betas = (spec.beta_1, spec.beta_2)
            return kind(groups, lr=spec.learning_rate, betas=betas, eps=spec.epsilon, fused=True)
        case specs.SGD():
            return torch.optim.SGD(
                groups, lr=spec.learning_rate, momentum=spec.momentum, nesterov=spec.nesterov, fused=True
            )
        case specs.RMSprop():
            return torch.optim.RMSprop(
                groups, lr=spec.learning_rate, alpha=spec.rho, momentum=spec.momentum, eps=spec.epsilon
            )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Of every group; nothing where it is that already."""
    if optimizer.param_groups[0]["lr"] != rate:
        for group in optimizer.param_groups:
            group["lr"] = rate


def state_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the optimizer remembers, as `<parameter>.<slot>`."""
    return {
        f"{index}.{slot}": value
        for index, slots in optimizer.state_dict()["state"].items()
        for slot, value in slots.items()
        if value is not None
    }


def load_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `state_tensors`. The learning rate is the schedule's to set."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        index, slot = key.split(".", 1)
        state.setdefault(int(index), {})[slot] = value.clone()  # a tensor of a file may be unaligned
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _groups(network: Network, weight_decay: float) -> list[dict[str, Any]]:
    decayed, others = states.parameter_groups(network)
    if weight_decay == 0:  # one group is one call of the kernel, which saves a fiftieth of a small step
        decayed, others = [], decayed + others
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
