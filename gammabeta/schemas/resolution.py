"""A train request made definite against its data set: every `auto` resolved, every layer named, and what the user
should know before the run. The submission, the dry run and the trainer all come through here, so that they agree.

    TrainRequest + DatasetManifest ──resolve──► Resolved(request, plan, task) ──dry_run──► DryRun
                                                ResolvedTrainRequest ──plan_of──► plan, task   (in the trainer)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from gammabeta.errors import InvalidRequest
from gammabeta.schemas.datasets import DatasetManifest, Feature, Target
from gammabeta.schemas.jobs import DryRun, LayerRow, Message, ResolvedTrainRequest, TrainRequest
from gammabeta.schemas.networks import Activation, BatchNorm, Conv2D, Dense, LayersNetwork, NetworkSpec
from gammabeta.schemas.plans import LayerPlan, NetworkPlan, Shape, plan_network
from gammabeta.schemas.training import CLASS_LOSSES, SGD, Adam, AdamW, LossName, RMSprop, TrainingSpec

Task: TypeAlias = Literal["classes", "binary", "number"]
"""classes: one logit for each; binary: one logit for the second of two classes; number: one value."""

FORGETFUL = 0.5
"""Below this momentum, moving statistics are those of the last few batches, as when torch's 0.1 is written for 0.9."""

COLD = 0.05
"""Above this weight of their initial values, moving statistics count as not warmed up."""


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A request that can run."""

    request: ResolvedTrainRequest
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
    _check_last_activation(plan, task)
    _check_stopping(training, target)
    _check_batch(training, manifest)
    _check_missing(request, manifest)
    settled = ResolvedTrainRequest(
        dataset=dataset_id,
        model=request.model,
        network=plan.as_network(),
        preprocessing=request.preprocessing,
        training=training.model_copy(update={"loss": loss}),
        resources=request.resources,
        priority=request.priority,
        metadata=request.metadata,
    )
    return Resolved(request=settled, plan=plan, task=task)


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


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Optimizer steps for `n` rows: a ragged last batch is merged into the one before it."""
    return max(1, n // batch_size)


def steps_of(training: TrainingSpec, manifest: DatasetManifest) -> int:
    """Optimizer steps of the whole run, early stopping not counted."""
    n = manifest.splits["train"].n
    trained = n - validation_rows(n, training.validation_fraction)
    steps = training.epochs * steps_per_epoch(trained, training.batch_size)
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
    n = manifest.splits["train"].n
    held_out = validation_rows(n, training.validation_fraction)
    if training.batch_size > n - held_out:
        raise InvalidRequest.of(
            "training.batch_size",
            f"must be at most the {n - held_out} rows that are trained on ({n} in the training split, {held_out} of "
            "them for validation)",
            training.batch_size,
        )


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
    return DryRun(
        request=resolved.request,
        layers=tuple(_row(layer) for layer in resolved.plan.layers),
        parameters=resolved.plan.parameters,
        memory_bytes=memory_bytes(resolved.plan, resolved.request.training),
        steps=steps_of(resolved.request.training, manifest),
        messages=tuple(_messages(resolved, manifest)),
    )


def _row(layer: LayerPlan) -> LayerRow:
    details: dict[str, object] = {}
    if isinstance(layer.spec, BatchNorm):
        details = {
            "momentum": layer.spec.momentum,
            "torch_momentum": 1 - layer.spec.momentum,
            "moving_variance": "unbiased" if uses_unbiased_variance(layer) else "biased",
        }
    return LayerRow(
        name=layer.name,
        type=layer.spec.type,
        inputs=layer.inputs,
        output_shape=layer.output_shape,
        parameters=layer.parameters,
        details=details,
    )


def uses_unbiased_variance(layer: LayerPlan) -> bool:
    """Whether the moving variance takes n / (n - 1) of the batch's: Keras 2 does so for images (its fused kernel) whose
    statistics are kept along axis 1 or 3, and for nothing else."""
    return isinstance(layer.spec, BatchNorm) and len(layer.output_shape) == 3 and layer.spec.axis in (1, 3)


def memory_bytes(plan: NetworkPlan, training: TrainingSpec) -> int:
    """Bytes: parameters, gradients and optimizer slots in float32, and each activation once forward and once back."""
    match training.optimizer:
        case Adam() | AdamW():
            slots = 2
        case RMSprop() as rmsprop:
            slots = 1 + int(rmsprop.momentum > 0)
        case SGD() as sgd:
            slots = int(sgd.momentum > 0)
    return 4 * (plan.parameters * (2 + slots) + 2 * plan.activations * training.batch_size)


def _messages(resolved: Resolved, manifest: DatasetManifest) -> Iterator[Message]:
    steps = steps_of(resolved.request.training, manifest)
    specs = {layer.name: layer for layer in resolved.plan.layers}
    yield from _momentum_messages(resolved.plan, steps)
    for index, layer in enumerate(resolved.plan.layers):
        if isinstance(layer.spec, BatchNorm):
            batch_size = resolved.request.training.batch_size
            yield from _norm_messages(f"network.layers[{index}]", layer, specs, batch_size)
    warmup = resolved.request.training.schedule.warmup_steps
    if warmup >= steps:
        yield Message(
            field="training.schedule.warmup_steps",
            severity="warning",
            code="warmup_never_ends",
            message=f"The run has {steps} steps, so that a warm-up of {warmup} never reaches the learning rate. Write "
            "fewer, or train for longer.",
        )
    if "test" not in manifest.splits:
        yield Message(
            field="dataset",
            severity="info",
            code="no_test_split",
            message="The data set has no test split, so that no test metrics will be reported. Upload it with "
            "test_fraction=0.2, or add a file with split=test.",
        )


def _momentum_messages(plan: NetworkPlan, steps: int) -> Iterator[Message]:
    """Remarks that layers of one momentum share, with the field of the first of them."""
    alike: dict[float, list[tuple[int, str]]] = {}
    for index, layer in enumerate(plan.layers):
        if isinstance(layer.spec, BatchNorm) and layer.spec.trainable:
            alike.setdefault(layer.spec.momentum, []).append((index, layer.name))
    for momentum, layers in alike.items():
        field, names = f"network.layers[{layers[0][0]}].momentum", ", ".join(f"'{name}'" for _, name in layers)
        if momentum**steps > COLD:
            yield Message(
                field=field,
                severity="warning",
                code="moving_statistics_cold",
                message=f"After {steps} steps with momentum {momentum:g}, {momentum**steps:.0%} of the moving "
                f"statistics of {names} will still be their initial values, and predictions will use them. Train for "
                f"more steps, or write a momentum of at most {COLD ** (1 / steps):.3g}.",
            )
        if momentum < FORGETFUL:
            yield Message(
                field=field,
                severity="warning",
                code="momentum_forgets",
                message=f"Momentum is the weight of the old value here, as in Keras: with {momentum:g}, {names} will "
                f"forget all but the last batches. torch's {momentum:g} is {1 - momentum:g} here.",
            )


def _norm_messages(field: str, layer: LayerPlan, specs: dict[str, LayerPlan], batch_size: int) -> Iterator[Message]:
    feeder = specs.get(layer.inputs[0])
    centred = isinstance(layer.spec, BatchNorm) and layer.spec.center
    if feeder and isinstance(feeder.spec, Dense | Conv2D) and feeder.spec.use_bias and centred:
        yield Message(
            field=field,
            severity="info",
            code="redundant_bias",
            message=f"The bias of '{feeder.name}' does nothing before '{layer.name}', which centres it away and adds "
            'beta. Write "use_bias": false there.',
        )
    if batch_size == 1 and len(layer.output_shape) == 1:
        yield Message(
            field="training.batch_size",
            severity="warning",
            code="one_value_per_channel",
            message=f"With one row a batch, '{layer.name}' normalizes each value by itself and always gives beta. "
            "Write a batch_size of 16 or more.",
        )
