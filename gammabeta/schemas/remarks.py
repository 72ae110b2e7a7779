"""What a user should know before a run: the remarks of the dry run. Layers that are alike share one."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias, TypeVar

from gammabeta.schemas.batching import Batching, batching_of, ghost_of, values_per_channel
from gammabeta.schemas.constraints import Constraint
from gammabeta.schemas.jobs import Message
from gammabeta.schemas.layers import ZEROS, Biased
from gammabeta.schemas.measuring import parameter_shape
from gammabeta.schemas.normalization import ONES, BatchNorm
from gammabeta.schemas.plans import LayerPlan, NetworkPlan
from gammabeta.schemas.renorm import Clips, RenormClipping
from gammabeta.schemas.training import TrainingSpec

FORGETFUL = 0.5
"""Below this momentum, moving statistics are those of the last few batches, as when torch's 0.1 is written for 0.9."""

COLD = 0.05
"""Above this weight of their initial values, moving statistics count as not warmed up."""

DIM = 64
"""Images with no pixel above this are not of the range that `unit` divides by."""

SMALL_SHARE = 0.05
"""Below this share of the rows, leaving some out in each epoch is not worth a warning."""

GOOD_GHOST = 16
"""No fewer rows a ghost batch are advised."""

FEW = 8
"""Up to so many values a channel, a ghost batch's biased variance is low by an eighth or more."""

NAMED = 3
"""How many layers a remark names before it counts the others."""

UNBOUNDED = Clips(0.0, math.inf, math.inf)
PLAIN = Clips(1.0, 1.0, 0.0)
LAST_STEP = 1_000_000_000

K = TypeVar("K", bound=Hashable)
Cause: TypeAlias = Literal["batch", "ghost", "last"]


@dataclass(frozen=True, kw_only=True)
class Norm:
    """A batch norm of the plan."""

    index: int
    layer: LayerPlan
    spec: BatchNorm

    def values(self, rows: int) -> int:
        return values_per_channel(self.spec, self.layer.output_shape, rows)


@dataclass(frozen=True)
class Alike:
    """Layers of which the same is to be said."""

    norms: list[Norm]

    def field(self, argument: str) -> str:
        """Of the first of them."""
        return f"network.layers[{self.norms[0].index}].{argument}"

    @property
    def names(self) -> str:
        return _listed([f"'{norm.layer.name}'" for norm in self.norms])


@dataclass(frozen=True, kw_only=True)
class Prospect:
    """A run as far as it is settled before it begins."""

    plan: NetworkPlan
    training: TrainingSpec
    rows: int
    """Trained on in each epoch."""
    steps: int
    """Of all epochs."""
    has_test: bool
    image: str
    """How images are preprocessed."""
    largest_pixel: float | None
    """Of the training split; None where there are no images."""

    @cached_property
    def all_norms(self) -> tuple[Norm, ...]:
        return tuple(
            Norm(index=index, layer=layer, spec=layer.spec)
            for index, layer in enumerate(self.plan.layers)
            if isinstance(layer.spec, BatchNorm)
        )

    @cached_property
    def norms(self) -> tuple[Norm, ...]:
        """Those that are trained."""
        return tuple(norm for norm in self.all_norms if norm.spec.trainable)

    @cached_property
    def batching(self) -> Batching:
        return batching_of(self.training, self.plan)

    @property
    def ends_an_epoch(self) -> bool:
        return self.steps >= self.batching.steps(self.rows)

    def alike(self, key: Callable[[Norm], K | None]) -> Iterator[tuple[K, Alike]]:
        """Trained batch norms by their key; those with None are left out."""
        groups: dict[K, list[Norm]] = {}
        for norm in self.norms:
            if (found := key(norm)) is not None:
                groups.setdefault(found, []).append(norm)
        for found, norms in groups.items():
            yield found, Alike(norms)


def remarks(run: Prospect) -> Iterator[Message]:
    """All of them."""
    yield from _image_scale(run)
    yield from _axes(run)
    yield from _cold(run)
    yield from _forgetful(run)
    yield from _frozen_from_scratch(run)
    yield from _one_value(run)
    yield from _small_ghosts(run)
    yield from _rows_left_out(run)
    yield from _renorm_bounds(run)
    yield from _renorm_schedules(run)
    yield from _norm_over_all_channels(run)
    yield from _redundant_biases(run)
    yield from _warmup(run)
    if not run.has_test:
        yield Message(
            field="dataset",
            severity="info",
            code="no_test_split",
            message="The data set has no test split, so that no test metrics will be reported. Upload it with "
            "test_fraction=0.2, or add a file with split=test.",
        )


def _image_scale(run: Prospect) -> Iterator[Message]:
    largest = run.largest_pixel
    if run.image == "unit" and largest is not None and 0 < largest <= DIM:
        yield Message(
            field="preprocessing.image",
            severity="info",
            code="image_scale",
            message=f"The largest value of the images is {largest:g}, and unit divides by 255, which leaves at most "
            f'{largest / 255:.2g}. Write "image": "standard".',
        )


def _axes(run: Prospect) -> Iterator[Message]:
    for (axis, meaning), alike in run.alike(_place_of):
        yield Message(
            field=alike.field("axis"),
            severity="info",
            code="axis_is_not_channels",
            message=f"Axes are channels last: axis {axis} of {alike.names} is the {meaning}. Keras' channels_first "
            "axis 1 is -1 here.",
        )


def _place_of(norm: Norm) -> tuple[int, str] | None:
    """The axis of a batch norm that is a place in an image or a sequence, and what that is called."""
    names = {3: ("height", "width"), 2: ("length",)}.get(len(norm.layer.output_shape), ())
    axis = norm.spec.axes[0]
    return (axis, names[axis - 1]) if len(norm.spec.axes) == 1 and axis <= len(names) else None


def _cold(run: Prospect) -> Iterator[Message]:
    for momentum, alike in run.alike(lambda norm: norm.spec.momentum):
        left = momentum**run.steps
        if left <= COLD:
            continue
        message = (
            f"After {run.steps} steps with momentum {momentum:g}, {left:.0%} of the moving statistics of {alike.names} "
            "will still be their initial values, and predictions will use them. Train for more steps, or write a "
            f"momentum of at most {COLD ** (1 / run.steps):.3g}."
        )
        if momentum == 1:
            message = (
                f"Momentum is the weight of the old value here, as in Keras: with 1, the moving statistics of "
                f"{alike.names} keep their initial values however long the run, and predictions will use them. Write "
                "less than 1, such as 0.99."
            )
        yield Message(field=alike.field("momentum"), severity="warning", code="moving_statistics_cold", message=message)


def _forgetful(run: Prospect) -> Iterator[Message]:
    for momentum, alike in run.alike(lambda norm: norm.spec.momentum if norm.spec.momentum < FORGETFUL else None):
        effect = f"{alike.names} will forget all but the last batches. torch's {momentum:g} is {1 - momentum:g} here."
        if momentum == 0:
            effect = f"{alike.names} will forget all but the last batch. Write 0.99 to average over many."
        yield Message(
            field=alike.field("momentum"),
            severity="warning",
            code="momentum_forgets",
            message=f"Momentum is the weight of the old value here, as in Keras: with {momentum:g}, {effect}",
        )


def _frozen_from_scratch(run: Prospect) -> Iterator[Message]:
    frozen = [norm for norm in run.all_norms if not norm.spec.trainable and _starts_at_0_and_1(norm.spec)]
    if frozen:
        alike = Alike(frozen)
        yield Message(
            field=alike.field("trainable"),
            severity="warning",
            code="frozen_from_scratch",
            message=f"Frozen from the start, {alike.names} will normalize nothing: the moving statistics stay 0 and 1, "
            "so that y = gamma x / sqrt(1 + epsilon) + beta, with gamma and beta as they begin. Leave "
            '"trainable": false out, or give moving_mean_initializer and moving_variance_initializer.',
        )


def _starts_at_0_and_1(spec: BatchNorm) -> bool:
    """Whether no moving statistics were given to begin with."""
    return (spec.moving_mean_initializer, spec.moving_variance_initializer) == (ZEROS, ONES)


def _one_value(run: Prospect) -> Iterator[Message]:
    for (cause, added), alike in run.alike(lambda norm: _cause_of_one_value(norm, run)):
        effect = f"y = {' + '.join(('beta', *added))} whatever comes in, and the moving variance does not move"
        yield Message(
            field=_FIELDS_OF_ONE_VALUE.get(cause) or alike.field("virtual_batch_size"),
            severity="warning",
            code="one_value_per_channel",
            message=_MESSAGES_OF_ONE_VALUE[cause].format(names=alike.names, effect=effect),
        )


def _cause_of_one_value(norm: Norm, run: Prospect) -> tuple[Cause, tuple[str, ...]] | None:
    """Which batches have one value per channel, and what is added to beta then."""
    batching, spec = run.batching, norm.spec
    given = {"what renorm adds": spec.renorm, "what the adjustment adds": spec.adjustment is not None}
    added = tuple(what for what, present in given.items() if present)
    if norm.values(batching.size) == 1:
        return ("batch" if batching.size == 1 else "ghost"), added
    if run.ends_an_epoch and norm.values(batching.last_rows(run.rows)) == 1:
        return "last", added
    return None


_FIELDS_OF_ONE_VALUE: dict[Cause, str] = {"batch": "training.batch_size", "last": "training.last_batch"}
_MESSAGES_OF_ONE_VALUE: dict[Cause, str] = {
    "batch": "In batches of one row, each channel of {names} has one value: {effect}. Write a batch_size of 16 or "
    "more; where that cannot be, batch norm is the wrong layer, and leaving it out is better.",
    "ghost": "In ghost batches of one row, each channel of {names} has one value: {effect}. Write a virtual_batch_size "
    "of 16 or more, or leave it out.",
    "last": "The last batch of each epoch has one row, and each channel of {names} one value: there, {effect}. Write "
    '"last_batch": "merge", or another batch_size.',
}


def _small_ghosts(run: Prospect) -> Iterator[Message]:
    def values(norm: Norm) -> int | None:
        n = norm.values(run.batching.size) if norm.spec.virtual_batch_size else 0
        return n if 1 < n <= FEW else None

    for n, alike in run.alike(values):
        yield Message(
            field=alike.field("virtual_batch_size"),
            severity="warning",
            code="small_ghost_batches",
            message=f"The moving variance of {alike.names} averages those of ghost batches with {n} values per "
            f"channel, which are about {(n - 1) / n:.0%} of the variance of all values, and predictions will use it. "
            "Write a larger virtual_batch_size.",
        )


def _rows_left_out(run: Prospect) -> Iterator[Message]:
    left, batching = run.batching.left_out(run.rows), run.batching
    if left == 0 or not run.ends_an_epoch:
        return
    message = f"Each epoch leaves out {left} of the {run.rows} rows, other ones each time"
    if batching.last == "drop":
        yield Message(
            field="training.last_batch",
            severity="info",
            code="rows_left_out",
            message=f'{message}. Write "last_batch": "merge" to train on all.',
        )
        return
    ghosts = Alike([norm for norm in run.norms if ghost_of(norm.layer)])
    small = left < SMALL_SHARE * run.rows
    yield Message(
        field=ghosts.field("virtual_batch_size"),
        severity="info" if small else "warning",
        code="rows_left_out",
        message=f"{message}, since the last batch must be whole ghost batches of {ghosts.names}, too. "
        + ("That does little harm." if small else _whole_ghosts(batching, run.rows)),
    )


def _whole_ghosts(batching: Batching, rows: int) -> str:
    """How to train on all rows: by ghost batches that divide them, and are not too small, nor far from those asked
    for."""
    size, asked = batching.size, batching.multiple
    usual = range(GOOD_GHOST, max(2 * asked, 2 * GOOD_GHOST) + 1)
    fitting = sorted(
        (each for each in usual if rows % each == 0), key=lambda each: (size % each > 0, abs(each - asked))
    )
    if not fitting:
        return "Over some epochs, all are trained on."
    ghost = fitting[0]
    other_size = "" if size % ghost == 0 else f" and a batch_size of {max(1, round(size / ghost)) * ghost}"
    return f"Write a virtual_batch_size of {ghost}{other_size} to train on all."


def _renorm_bounds(run: Prospect) -> Iterator[Message]:
    for plain, alike in run.alike(_unbounded):
        begin = "0 and 1, so that nothing is normalized at first" if plain else "what the initializers give"
        yield Message(
            field=alike.field("renorm_clipping"),
            severity="warning",
            code="renorm_without_clipping",
            message=f"Without bounds, renorm normalizes {alike.names} with moving averages from the first step on, "
            f'and these begin with {begin}. Write "renorm_clipping": "paper", or bounds of your own.',
        )
    for _, alike in run.alike(lambda norm: _bounded_above_alone(norm.spec.clipping) if norm.spec.renorm else None):
        yield Message(
            field=alike.field("renorm_clipping"),
            severity="warning",
            code="renorm_rmin_is_zero",
            message=f"Without rmin, r of {alike.names} is kept in [0, rmax] as in TensorFlow, not in [1/rmax, rmax] as "
            'in the paper. Write "rmin": "1/rmax", or "rmin": 0 if that is meant.',
        )


def _unbounded(norm: Norm) -> bool | None:
    """Of a renorm without bounds, whether its averages begin with 0 and 1."""
    clipping = norm.spec.clipping
    return (
        _starts_at_0_and_1(norm.spec) if norm.spec.renorm and clipping.fixed and clipping.at(0) == UNBOUNDED else None
    )


def _bounded_above_alone(clipping: RenormClipping) -> Literal[True] | None:
    return True if clipping.rmax is not None and clipping.rmin is None else None


def _renorm_schedules(run: Prospect) -> Iterator[Message]:
    def unreached(norm: Norm) -> Clips | None:
        end = norm.spec.clipping.at(run.steps - 1)
        return end if norm.spec.renorm and end != norm.spec.clipping.at(LAST_STEP) else None

    for end, alike in run.alike(unreached):
        bounds = f"r is kept in [{end.rmin:.3g}, {end.rmax:.3g}] and d within ±{end.dmax:.3g}"
        yield Message(
            field=alike.field("renorm_clipping"),
            severity="info",
            code="renorm_schedule_unreached",
            message=f"The schedule of {alike.names} goes on after the {run.steps} steps of the run. At its end "
            f"{bounds}{', which is plain batch norm' if end == PLAIN else ''}. Write earlier steps there, or train for "
            "longer.",
        )


def _norm_over_all_channels(run: Prospect) -> Iterator[Message]:
    def shrinking(norm: Norm) -> tuple[Constraint, int] | None:
        constraint, shape = norm.spec.gamma_constraint, parameter_shape(norm.spec, norm.layer.output_shape)
        if constraint is None or constraint.name == "non_neg" or len(shape) > 1:
            return None
        largest = 1.0 if constraint.name == "unit_norm" else constraint.max_value
        return (constraint, shape[0]) if math.sqrt(shape[0]) > largest else None

    for (constraint, channels), alike in run.alike(shrinking):
        yield Message(
            field=alike.field("gamma_constraint"),
            severity="info",
            code="norm_over_all_channels",
            message=f"{constraint.name} bounds the norm of the gamma of all {channels} channels of {alike.names} "
            f"together, as in Keras. That of {channels} ones is {math.sqrt(channels):.3g}, and the first step makes "
            f"them smaller. Write max_norm with a max_value of {math.sqrt(channels):.3g} or more to leave them there.",
        )


def _redundant_biases(run: Prospect) -> Iterator[Message]:
    layers = {layer.name: (index, layer) for index, layer in enumerate(run.plan.layers)}
    readers = [name for layer in run.plan.layers for name in layer.inputs]
    pairs: list[tuple[int, str]] = []
    for norm in run.norms:
        index, feeder = layers.get(norm.layer.inputs[0], (0, None))
        biased = feeder and isinstance(feeder.spec, Biased) and feeder.spec.use_bias and readers.count(feeder.name) == 1
        if feeder and biased and _centres_away(norm):
            pairs.append((index, f"'{feeder.name}' before '{norm.layer.name}'"))
    if pairs:
        yield Message(
            field=f"network.layers[{pairs[0][0]}].use_bias",
            severity="info",
            code="redundant_bias",
            message="A bias does nothing right before a batch norm, which centres it away and adds beta: "
            f'{_listed([pair for _, pair in pairs])}. Write "use_bias": false.',
        )


def _centres_away(norm: Norm) -> bool:
    """A constant of each channel; renorm's d brings it back, at first."""
    return norm.spec.center and not norm.spec.renorm and len(norm.layer.output_shape) in norm.spec.axes


def _warmup(run: Prospect) -> Iterator[Message]:
    warmup = run.training.schedule.warmup_steps
    if warmup >= run.steps:
        yield Message(
            field="training.schedule.warmup_steps",
            severity="warning",
            code="warmup_never_ends",
            message=f"The run has {run.steps} steps, so that a warm-up of {warmup} never reaches the learning rate. "
            "Write fewer, or train for longer.",
        )


def _listed(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names) if more < 2 else f"{', '.join(names[:NAMED])} and {more} more"
