"""What a user should know after a run: its warnings, and whether its statistics may be published at all.

`gammabeta.schemas.remarks` says before a run what can be known then. Layers that are alike share a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar

from gammabeta.schemas.batching import values_per_channel
from gammabeta.schemas.batchnorm import BatchNormState, LayerState
from gammabeta.schemas.jobs import JobWarning
from gammabeta.schemas.normalization import BatchNorm
from gammabeta.schemas.remarks import COLD
from worker.failures import TrainingFailed
from worker.run import Run

MANY = 0.1
"""From this share of the batches on, those of one value per channel are told of. One in many does little harm, and the
dry run has told of it."""

K = TypeVar("K", bound=Hashable)


def warnings(run: Run, state: BatchNormState) -> tuple[JobWarning, ...]:
    """All of them; `state` is what will be published."""
    layers = _trained(run, state)
    return (*_skipped(run), *_one_value(run, layers), *_cold(layers))


def check(run: Run, state: BatchNormState) -> None:
    """Look whether one may predict from these statistics.

    Raises:
        TrainingFailed: they are not finite, a variance is negative, or no batch has moved them.
    """
    problem = state.problem()
    if problem is not None:
        raise TrainingFailed(
            "bad_statistics",
            f"The batch-norm state must be finite, and no variance negative: {problem}. Write a smaller learning_rate, "
            "and look for very large values in the data.",
        )
    unmoved = [layer for layer in _trained(run, state) if layer.skipped and not layer.updates + layer.single]
    if unmoved:
        raise TrainingFailed(
            "bad_statistics",
            "The moving statistics must have moved, since predictions use them. Received: no batch with a finite mean "
            f"and variance in {_names(unmoved)}, {unmoved[0].skipped:,} without. Look for very large values in the "
            'data ("preprocessing": {"numeric": "standard"} scales them), or write a smaller learning_rate.',
        )


def _trained(run: Run, state: BatchNormState) -> list[LayerState]:
    trained = {norm.spec.name for norm in run.norms}
    return [layer for layer in state.layers if layer.name in trained]


def _skipped(run: Run) -> Iterator[JobWarning]:
    skipped = int(run.newest.get("skipped_batches", 0))  # not the state's, which may be that of an earlier epoch
    if skipped:
        were, their = ("was", "its") if skipped == 1 else ("were", "their")
        yield JobWarning(
            code="batches_skipped",
            message=f"{skipped:,} of {run.step:,} batches {were} skipped, by the training or by a batch norm: {their} "
            f"loss, or {their} mean or variance, was not finite. Look for very large values in the data, or write a "
            "smaller learning_rate.",
        )


def _one_value(run: Run, layers: list[LayerState]) -> Iterator[JobWarning]:
    plans = {layer.name: layer for layer in run.plan.layers}

    def remedy(layer: LayerState) -> str:
        plan, size = plans[layer.name], run.batching.size
        if not isinstance(plan.spec, BatchNorm) or values_per_channel(plan.spec, plan.output_shape, size) > 1:
            return 'Write "last_batch": "merge", or another batch_size.'
        if size == 1:
            return "Write a batch_size of 16 or more; where that cannot be, leave batch norm out."
        return "Write a virtual_batch_size of 16 or more, or leave it out."

    told = _alike(
        filter(_often_single, layers),
        lambda layer: (layer.momentum, layer.updates, layer.skipped, layer.single, remedy(layer)),
    )
    for (_, updates, skipped, single, advice), alike in told:
        first = alike[0]
        cold = f", and {first.initial_weight:.0%} of it is still the initial value" if _cold_by_single(first) else ""
        yield JobWarning(
            code="one_value_per_channel",
            message=f"{_names(alike)} had one value per channel in {single:,} of {updates + skipped + single:,} "
            f"batches. Those move no moving variance{cold}; predictions use it. {advice}",
        )


def _cold(layers: list[LayerState]) -> Iterator[JobWarning]:
    """Of moving statistics that still are to a good part their initial values, for want of steps."""
    cold = [layer for layer in layers if layer.initial_weight > COLD and not _cold_by_single(layer)]
    for (momentum, updates), alike in _alike(cold, lambda layer: (layer.momentum, layer.updates)):
        enough = f"Train for more steps, or write a momentum of at most {COLD ** (1 / max(1, updates)):.3g}."
        after = "1 update" if updates == 1 else f"{updates:,} updates"
        yield JobWarning(
            code="moving_statistics_cold",
            message=f"{alike[0].initial_weight:.0%} of the moving statistics of {_names(alike)} are still their "
            f"initial values (momentum {momentum:g} after {after}), and predictions use them. "
            f"{enough if momentum < 1 else 'Write a momentum below 1, such as 0.99.'}",
        )


def _often_single(layer: LayerState) -> bool:
    return layer.single > 0 and layer.single >= MANY * (layer.single + layer.updates)


def _cold_by_single(layer: LayerState) -> bool:
    """More steps would help little: most had one value per channel, or there would be enough but for those."""
    enough = layer.momentum ** (layer.single + layer.updates) <= COLD
    return layer.initial_weight > COLD and _often_single(layer) and (enough or layer.single >= layer.updates)


def _alike(layers: Iterable[LayerState], key: Callable[[LayerState], K]) -> Iterable[tuple[K, list[LayerState]]]:
    groups: dict[K, list[LayerState]] = {}
    for layer in layers:
        groups.setdefault(key(layer), []).append(layer)
    return groups.items()


def _names(layers: list[LayerState]) -> str:
    return ", ".join(f"'{layer.name}'" for layer in layers)
