"""A finished run as the folder that the supervisor publishes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gammabeta.nets import state as states
from worker import folders, messages, results
from worker.failures import TrainingFailed
from worker.link import Link
from worker.reporting import cold_statistics
from worker.run import Run


def write(run: Run, metrics: dict[str, dict[str, Any]], link: Link) -> Path:
    """Write the result; the folder is complete and synced.

    Raises:
        TrainingFailed: the moving statistics are such that no one must predict from them.
    """
    state = states.state_of(run.network)
    problem = state.problem()
    if problem is not None:
        raise TrainingFailed(
            "bad_statistics",
            f"The batch-norm state must be finite, and no variance negative: {problem}. Write a smaller learning_rate, "
            "and look for very large values in the data.",
        )
    warnings = cold_statistics(run.plan, state)
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
    weights = {name: each.numpy() for name, each in states.weights_of(run.network).items()}
    with folders.complete(run.job.scratch / "result") as filling:
        results.write(filling, weights=weights, state=state, result=result)
    return run.job.scratch / "result"
