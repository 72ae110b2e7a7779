"""Triton's statistics of a version, from what this process has counted."""

from __future__ import annotations

from gammabeta.schemas.inference import BatchStatistics, Duration, InferenceStatistics, ModelStatistics
from service.runtime.counting import Spent
from service.runtime.loading import LoadedVersion


def of(loaded: LoadedVersion) -> ModelStatistics:
    """What was counted since the version was loaded."""
    counted = loaded.statistics
    return ModelStatistics(
        name=loaded.version.model,
        version=loaded.version.version,
        last_inference=counted.last_ms,
        inference_count=counted.rows,
        execution_count=counted.executions,
        inference_stats=InferenceStatistics(
            success=_duration(counted.success),
            fail=_duration(counted.fail),
            queue=_duration(counted.queue),
            compute_input=_duration(counted.compute_input),
            compute_infer=_duration(counted.compute_infer),
            compute_output=_duration(counted.compute_output),
        ),
        batch_stats=tuple(
            BatchStatistics(batch_size=rows, compute_infer=_duration(spent))
            for rows, spent in sorted(counted.batches.items())
        ),
    )


def _duration(spent: Spent) -> Duration:
    return Duration(count=spent.count, ns=spent.ns)
