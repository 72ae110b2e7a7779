"""A train request made definite against its data set: every `auto` resolved, every layer named, and what the user
should know before the run. The submission, the dry run and the trainer all come through here, so that they agree.

    TrainRequest + DatasetManifest ──resolve──► Resolved(request, plan, task) ──dry_run──► DryRun
                                                ResolvedTrainRequest ──plan_of──► plan, task   (in the trainer)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from gammabeta.errors import InvalidRequest
from gammabeta.schemas.batching import batching_of, ghost_of, values_per_channel
from gammabeta.schemas.datasets import DatasetManifest, Feature, Target
from gammabeta.schemas.expansion import as_written, refusing_as_written
from gammabeta.schemas.jobs import DryRun, LayerRow, Message, ResolvedTrainRequest, TrainRequest
from gammabeta.schemas.layers import Activation, Dense
from gammabeta.schemas.measuring import Shape
from gammabeta.schemas.networks import LayersNetwork, NetworkSpec
from gammabeta.schemas.normalization import BATCH_NORM_ARGUMENTS, BatchNorm
from gammabeta.schemas.plans import LayerPlan, NetworkPlan, plan_network
from gammabeta.schemas.remarks import Prospect, remarks
from gammabeta.schemas.training import CLASS_LOSSES, SGD, Adam, AdamW, LossName, RMSprop, TrainingSpec

Task: TypeAlias = Literal["classes", "binary", "number"]
"""classes: one logit for each; binary: one logit for the second of two classes; number: one value."""


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A request that can run."""

    request: ResolvedTrainRequest
    written: NetworkSpec
    """The network as it was sent."""
    plan: NetworkPlan
    task: Task


def resolve(request: TrainRequest, *, dataset_id: str, manifest: DatasetManifest) -> Resolved:
    """Settle loss, network and names.

    Raises:
        InvalidRequest: the request does not fit the data set, or a layer does not fit the one before it.
    """
    training, target = request.training, manifest.target
    loss = _loss(training, target, request.network)
    task = _task(loss)
    plan = plan_network(request.network, input_shape=input_shape(manifest), outputs=_outputs(task, target))
    network = plan.as_network()
    with refusing_as_written(request.network, network.layers):
        _check_last_activation(plan, task)
        _check_stopping(training, target)
        _check_batch(training, manifest)
        _check_ghosts(training, plan, rows_trained(training, manifest))
        _check_missing(request, manifest)
    settled = ResolvedTrainRequest(
        dataset=dataset_id,
        model=request.model,
        network=network,
        preprocessing=request.preprocessing,
        training=training.model_copy(update={"loss": loss}),
        resources=request.resources,
        priority=request.priority,
        max_seconds=request.max_seconds,
        metadata=request.metadata,
    )
    return Resolved(request=settled, written=request.network, plan=plan, task=task)


def plan_of(request: ResolvedTrainRequest, manifest: DatasetManifest) -> tuple[NetworkPlan, Task]:
    """The plan and task of a request that was resolved before."""
    task = _task(request.training.loss)
    outputs = _outputs(task, manifest.target)
    return plan_network(request.network, input_shape=input_shape(manifest), outputs=outputs), task


def plan_stored(
    network: LayersNetwork, *, input_shape: Shape, classes: tuple[str, ...] | None
) -> tuple[NetworkPlan, Task]:
    """The plan and task of a stored version."""
    plan = plan_network(network, input_shape=input_shape, outputs=None)
    return plan, task_of(classes, plan.outputs)


def task_of(classes: tuple[str, ...] | None, outputs: int) -> Task:
    """What a network with so many outputs predicts."""
    if classes is None:
        return "number"
    return "binary" if outputs == 1 else "classes"


def input_shape(manifest: DatasetManifest) -> Shape:
    """Shape of a row after preprocessing, channels last. It depends on the training split alone, so that the plan is
    known before anything is fitted: a categorical column has a place for missing values exactly where its feature
    reports some."""
    first = manifest.features[0]
    match manifest.kind:
        case "table":
            return (sum(_width(feature) for feature in manifest.features),)
        case "image":
            return first.shape if len(first.shape) == 3 else (*first.shape, 1)
        case "array":
            return first.shape


def _width(feature: Feature) -> int:
    return 1 if feature.kind == "numeric" else len(feature.categories or ()) + int(feature.missing > 0)


def validation_rows(n: int, fraction: float) -> int:
    """How many of `n` training rows are held out: at least one where any are asked for, and never all."""
    return 0 if fraction == 0 else min(max(1, round(n * fraction)), n - 1)


def rows_trained(training: TrainingSpec, manifest: DatasetManifest) -> int:
    """Rows of the training split that are not held out."""
    n = manifest.splits["train"].n
    return n - validation_rows(n, training.validation_fraction)


def steps_of(training: TrainingSpec, plan: NetworkPlan, manifest: DatasetManifest) -> int:
    """Optimizer steps of the whole run, early stopping not counted."""
    steps = training.epochs * batching_of(training, plan).steps(rows_trained(training, manifest))
    return steps if training.max_steps is None else min(steps, training.max_steps)


def _loss(training: TrainingSpec, target: Target, network: NetworkSpec) -> LossName:
    if training.loss == "auto":
        if target.kind == "number":
            return "mean_squared_error"
        return "binary_crossentropy" if _ends_in_one(network) else "sparse_categorical_crossentropy"
    if (training.loss in CLASS_LOSSES) != (target.kind == "class"):
        fitting = "a loss for classes" if target.kind == "class" else "a loss for numbers"
        raise InvalidRequest.of(
            "training.loss",
            f"must be {fitting}, since the target '{target.name}' is a {target.kind}. Write \"auto\".",
            training.loss,
        )
    if training.loss == "binary_crossentropy" and len(target.labels) != 2:
        raise InvalidRequest.of(
            "training.loss",
            f'binary_crossentropy needs two classes; the target has {len(target.labels)}. Write "auto".',
            training.loss,
        )
    return training.loss


def _ends_in_one(network: NetworkSpec) -> bool:
    """Whether the last layer with units of its own is a dense layer of one."""
    if not isinstance(network, LayersNetwork):
        return False
    last = next((each for each in reversed(network.layers) if not isinstance(each, Activation)), None)
    return isinstance(last, Dense) and last.units == 1


def _task(loss: str) -> Task:
    if loss not in CLASS_LOSSES:
        return "number"
    return "binary" if loss == "binary_crossentropy" else "classes"


def _outputs(task: Task, target: Target) -> int:
    return len(target.labels) if task == "classes" else 1


def _check_last_activation(plan: NetworkPlan, task: Task) -> None:
    """A last softmax or sigmoid is taken into the loss; the wrong one would be trained through and serve nonsense."""
    last = plan.layers[-1].spec
    fitting = {"classes": "softmax", "binary": "sigmoid", "number": "linear"}[task]
    if isinstance(last, Activation) and last.function in {"softmax", "sigmoid"} - {fitting}:
        raise InvalidRequest.of(
            f"network.layers[{len(plan.layers) - 1}].function",
            f'the last activation must be {fitting} for this loss and target. Write "{fitting}", or leave it out.',
            last.function,
        )


def _check_stopping(training: TrainingSpec, target: Target) -> None:
    if training.early_stopping is None:
        return
    metric = training.early_stopping.metric
    known = {"val_loss", "val_accuracy"} if target.kind == "class" else {"val_loss", "val_mae", "val_rmse"}
    if metric not in known:
        raise InvalidRequest.of(
            "training.early_stopping.metric", f"must be one of {', '.join(sorted(known))} for this target", metric
        )


def _check_batch(training: TrainingSpec, manifest: DatasetManifest) -> None:
    n, rows = manifest.splits["train"].n, rows_trained(training, manifest)
    if rows < 2:
        remedy = 'Add rows, or write "validation_fraction": 0.' if n > 1 else "Add rows."
        raise InvalidRequest.of(
            "dataset",
            f"must have at least 2 rows to train on; its training split has {n}, of which {n - rows} are for "
            f"validation. {remedy}",
            rows,
        )
    if training.batch_size > rows:
        raise InvalidRequest.of(
            "training.batch_size",
            f"must be at most the {rows} rows that are trained on ({n} in the training split, {n - rows} of them for "
            "validation)",
            training.batch_size,
        )


def _check_ghosts(training: TrainingSpec, plan: NetworkPlan, rows: int) -> None:
    size = training.batch_size
    for index, layer in enumerate(plan.layers):
        ghost = ghost_of(layer)
        if ghost and size % ghost:
            fitting = max(1, size // ghost) * ghost
            remedies = [f"{divisor}" for divisor in _divisors(size, near=ghost)[:1]]
            remedies += [f"a batch_size of {fitting}"] if fitting <= rows else []
            advice = f"Write {' or '.join(remedies)}, or leave" if remedies else "Leave"
            raise InvalidRequest.of(
                f"network.layers[{index}].virtual_batch_size",
                f"must divide batch_size {size} (layer '{layer.name}'): batches of {size} are not whole ghost batches "
                f"of {ghost}. {advice} it out.",
                ghost,
            )


def _divisors(size: int, *, near: int) -> list[int]:
    """Those of `size` above 1, the nearest to a number first."""
    return sorted((each for each in range(2, size + 1) if size % each == 0), key=lambda each: abs(each - near))


def _check_missing(request: TrainRequest, manifest: DatasetManifest) -> None:
    if request.preprocessing.missing != "error":
        return
    for feature in manifest.features:
        if feature.kind == "numeric" and feature.missing:
            raise InvalidRequest.of(
                "preprocessing.missing",
                f"'error' refuses missing values, and column '{feature.name}' has {feature.missing}. Write \"mean\" or "
                '"median", or fill them in the file.',
                "error",
            )


def dry_run(resolved: Resolved, manifest: DatasetManifest) -> DryRun:
    """What the run would be: its layers, its size, its steps, and remarks."""
    plan, training = resolved.plan, resolved.request.training
    run = Prospect(
        plan=plan,
        training=training,
        rows=rows_trained(training, manifest),
        steps=steps_of(training, plan, manifest),
        has_test="test" in manifest.splits,
        image=resolved.request.preprocessing.image,
        largest_pixel=manifest.features[0].max if manifest.kind == "image" else None,
    )
    return DryRun(
        request=resolved.request,
        layers=tuple(_row(layer, training.batch_size) for layer in plan.layers),
        parameters=plan.parameters,
        memory_bytes=memory_bytes(plan, training, manifest),
        steps=run.steps,
        messages=tuple(_as_written(each, resolved) for each in remarks(run)),
    )


def _as_written(remark: Message, resolved: Resolved) -> Message:
    layers = resolved.request.network.layers
    field, message = as_written(remark.field, remark.message, network=resolved.written, layers=layers)
    return remark.model_copy(update={"field": field, "message": message})


def _row(layer: LayerPlan, batch_size: int) -> LayerRow:
    norm = layer.spec if isinstance(layer.spec, BatchNorm) else None
    return LayerRow(
        name=layer.name,
        type=layer.spec.type,
        inputs=layer.inputs,
        output_shape=layer.output_shape,
        parameters=layer.parameters,
        details=_norm_details(norm, layer.output_shape, batch_size) if norm else {},
    )


_SETTLED = frozenset({"name", "axis", "fused"})
"""Arguments that a plan has given a value, and that `details` shows by themselves."""


def _norm_details(norm: BatchNorm, shape: Shape, batch_size: int) -> dict[str, Any]:
    written = norm.model_dump(mode="json")
    changed = {
        key
        for key in BATCH_NORM_ARGUMENTS - _SETTLED
        if getattr(norm, key) != BatchNorm.model_fields[key].get_default(call_default_factory=True)
    }
    return {
        "axis": written["axis"],
        "momentum": norm.momentum,
        "torch_momentum": 1 - norm.momentum,
        "fused_effective": bool(norm.fused),
        "variance_estimator": norm.variance_estimator,
        "values_per_channel": values_per_channel(norm, shape, batch_size),
        "arguments": {key: written[key] for key in sorted(changed)},
    }


def memory_bytes(plan: NetworkPlan, training: TrainingSpec, manifest: DatasetManifest) -> int:
    """Bytes: parameters, gradients and optimizer slots in float32, and each activation of the largest batch, padding
    counted, once forward and once back. A merged last batch may have almost twice the batch size."""
    batching = batching_of(training, plan)
    batch = max(batching.size, batching.last_rows(rows_trained(training, manifest)))
    match training.optimizer:
        case Adam() | AdamW():
            slots = 2
        case RMSprop() as rmsprop:
            slots = 1 + int(rmsprop.momentum > 0)
        case SGD() as sgd:
            slots = int(sgd.momentum > 0)
    return 4 * (plan.parameters * (2 + slots) + 2 * plan.activations * batch)
