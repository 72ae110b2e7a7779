"""Optimizers by their names here, on torch's, their state as plain tensors, and their step with what belongs to it.

Weight decay works on kernels only: gamma, beta and biases are left alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gammabeta.nets import state as states
from gammabeta.nets.build import Network
from gammabeta.nets.projections import projections_of
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
            sgd = torch.optim.SGD(
                groups, lr=spec.learning_rate, momentum=spec.momentum, nesterov=spec.nesterov, fused=True
            )
            if spec.momentum:
                _begin_momentum(sgd)
            return sgd
        case specs.RMSprop():
            return torch.optim.RMSprop(
                groups, lr=spec.learning_rate, alpha=spec.rho, momentum=spec.momentum, eps=spec.epsilon
            )


class Update:
    """The optimizer's step, and the projections of constraints after it. A batch whose loss is not finite has neither.

    On the CPU the loss is looked at. On a GPU that would mean to wait for it at each step, so that there the fused
    kernels are told to skip (`found_inf`, which torch's GradScaler sets too). A gradient that is not finite where the
    loss is, is not looked for: to read them all would cost a small step some hundredths, and the run will fail by the
    losses that follow.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, network: Network) -> None:
        self._optimizer, self._projections = optimizer, projections_of(network)
        on_cpu = all(each.device.type == "cpu" for each in network.parameters())
        self.looks = on_cpu or not optimizer.defaults.get("fused")
        """Whether to look at the loss, or to leave the decision to the device."""

    def __call__(self, loss: Tensor) -> None:
        """Of the gradient that is in the parameters; `loss` is the batch's."""
        if self.looks:
            if math.isfinite(loss.item()):
                self._optimizer.step()
                self._project()
            return
        skipped = ~torch.isfinite(loss.detach())
        self._optimizer.found_inf = skipped.float()  # type: ignore[attr-defined]
        self._optimizer.step()
        self._project(unless=skipped)

    def _project(self, *, unless: Tensor | None = None) -> None:
        if self._projections:
            with torch.no_grad():
                for projection in self._projections:
                    projection.apply(unless=unless)


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


def _begin_momentum(sgd: torch.optim.SGD) -> None:
    """With zeros, as the first step would; one that is skipped on a GPU would leave uninitialized memory behind."""
    for group in sgd.param_groups:
        for parameter in group["params"]:
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def _groups(network: Network, weight_decay: float) -> list[dict[str, Any]]:
    decayed, others = states.parameter_groups(network)
    if weight_decay == 0:  # one group is one call of the kernel, which saves a fiftieth of a small step
        decayed, others = [], decayed + others
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
