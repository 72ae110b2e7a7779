"""A finished run as the folder that the supervisor publishes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gammabeta.nets import state as states
from worker import conclusions, folders, messages, results
from worker.failures import TrainingFailed
from worker.link import Link
from worker.run import Run


def write(run: Run, metrics: dict[str, dict[str, Any]], link: Link) -> Path:
    """Write the result; the folder is complete.

    Raises:
        TrainingFailed: the weights or moving statistics are such that no one must predict from them.
    """
    weights, state = states.weights_of(run.network), states.state_of(run.network)
    _check_weights(weights)
    conclusions.check(run, state)
    warnings = conclusions.warnings(run, state)
    for warning in warnings:
        link.send(messages.Warned(code=warning.code, message=warning.message))
    result = results.Result(
        network=run.plan.as_network(),
        preprocessing=run.preprocessing,
        classes=run.job.manifest.target.labels or None,
        metrics=metrics,
        parameters=run.plan.parameters,
        state_layers=results.state_layers(state),
        warnings=warnings,
    )
    arrays = {name: each.numpy() for name, each in weights.items()}
    with folders.complete(run.job.scratch / "result") as filling:
        results.write(filling, weights=arrays, state=state, result=result)
    return run.job.scratch / "result"


def _check_weights(weights: dict[str, Tensor]) -> None:
    for name, each in weights.items():
        if not torch.isfinite(each).all():
            raise TrainingFailed(
                "non_finite_loss",
                f"The weights must be finite, or no loss can be. Received: NaN or infinity in {name}. Write a smaller "
                "learning_rate or a clip_norm such as 1.0, and look for very large values in the data.",
            )
