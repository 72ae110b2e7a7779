"""One job for each argument of batch norm, over HTTP from the request to the prediction.

Of each job: the argument is in the request that ran and in the stored layer, the stored rows are those of the module
that the same request gives in this process, predictions are computed from them, and the argument does what it says,
compared with the job that has all but it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gammabeta.nets.initializers import initial
from gammabeta.schemas.initializers import Initializer
from gammabeta.schemas.normalization import BATCH_NORM_ARGUMENTS
from gammabeta.schemas.renorm import RenormClipping
from tests.acceptance.stack import Stack
from tests.acceptance.twins import Data, Outcome, assert_served, finished, trained_here, upload
from tests.unit.ingestion.conftest import npz

BATCH, EPOCHS, ROWS = 20, 3, 400
STEPS = EPOCHS * ROWS // BATCH
TRAINING: dict[str, Any] = {
    "epochs": EPOCHS,
    "batch_size": BATCH,
    "validation_fraction": 0,
    "seed": 3,
    "optimizer": {"name": "adam", "learning_rate": 0.005},
}
CHANNELS = 8
LEFT = 0.99**STEPS
"""How much of the moving statistics still is their initial value, with the momentum by default."""

Vector = NDArray[Any]
Effect = Callable[[Outcome, Outcome], None]


def _table() -> tuple[Vector, Vector]:
    draws = np.random.default_rng(5)
    y = draws.integers(0, 3, ROWS)
    x = draws.normal(size=(3, 6))[y] + draws.normal(size=(ROWS, 6)) * (0.5, 1, 2, 0.5, 1, 2) + 0.5
    return x.round(3), y


def _images() -> tuple[Vector, Vector]:
    draws = np.random.default_rng(6)
    y = draws.integers(0, 3, 80)
    noise = draws.integers(0, 100, (80, 8, 8, 3)) * np.linspace(0.3, 1, 8)[:, None, None]
    return (noise + y[:, None, None, None] * 40).astype(np.uint8), y


X, Y = _table()
PIXELS, KINDS = _images()


def table(layer: dict[str, Any]) -> dict[str, Any]:
    """dense(8), the layer, relu, and one output for each class."""
    return {
        "network": {
            "layers": [
                {"type": "dense", "units": CHANNELS, "use_bias": False, "name": "hidden"},
                {"type": "batch_norm"} | layer,
                {"type": "activation", "function": "relu"},
                {"type": "dense", "units": "classes", "name": "output"},
            ]
        },
        "preprocessing": {"numeric": "none"},
    }


def images(layer: dict[str, Any]) -> dict[str, Any]:
    """The layer on the data itself, so that its statistics hang on nothing that is trained."""
    return {
        "network": {
            "layers": [
                {"type": "batch_norm"} | layer,
                {"type": "conv2d", "filters": 4, "kernel_size": 3, "name": "hidden"},
                {"type": "activation", "function": "relu"},
                {"type": "global_average_pool"},
                {"type": "dense", "units": "classes", "name": "output"},
            ]
        },
        "preprocessing": {"image": "unit"},
    }


NETWORKS = {"table": table, "images": images}


# ── what each argument does ──


def equal(one: Outcome, other: Outcome, *keys: str) -> bool:
    """Bit by bit."""
    return all(np.array_equal(one.stored(key), other.stored(key)) for key in keys)


def same_training(one: Outcome, other: Outcome) -> bool:
    """Whether all that is trained is the same, bit by bit."""
    return equal(one, other, "gamma", "beta") and all(
        np.array_equal(one.weights[key], other.weights[key]) for key in ("hidden.kernel", "output.kernel")
    )


def close(one: Vector, other: Any, **tolerance: float) -> None:
    np.testing.assert_allclose(one, other, **({"rtol": 1e-5, "atol": 1e-6} | tolerance))


def trains_as_without(got: Outcome, beside: Outcome) -> None:
    """Written as it is by default."""
    assert same_training(got, beside)
    assert equal(got, beside, "moving_mean", "moving_variance")


def has_rows_of_the_images(got: Outcome, beside: Outcome) -> None:
    assert (got.row["axis"], beside.row["axis"]) == (1, 3)
    assert (got.row["channels"], beside.row["channels"]) == (8, 3)
    # of as many values each, in batches of one size: the mean over the channels is the mean over the rows
    close(got.stored("moving_mean").mean(), beside.stored("moving_mean").mean())


def has_a_statistic_for_each_place_and_channel(got: Outcome, beside: Outcome) -> None:
    assert (got.row["axis"], got.row["channels"]) == ([1, 3], 24)
    assert got.row["variance_estimator"] == "biased"
    close(got.stored("moving_mean").reshape(8, 3).mean(0), beside.stored("moving_mean"))


def follows_faster(got: Outcome, beside: Outcome) -> None:
    assert same_training(got, beside)
    assert got.row["torch_momentum"] == 0.5
    assert got.row["initial_weight"] == 0.5**STEPS
    hidden = X.astype(np.float32) @ got.weights["hidden.kernel"].T
    for key, live in (("moving_mean", hidden.mean(0)), ("moving_variance", hidden.var(0))):
        far = [np.abs(each.stored(key) - live).mean() for each in (got, beside)]
        assert far[0] < 0.5 * far[1], key
    assert "moving_statistics_cold" in beside.warnings - got.warnings


def is_added_inside_the_root(got: Outcome, beside: Outcome) -> None:
    """In prediction too, as `assert_predicted_by_hand` finds."""
    assert got.row["epsilon"] == 0.5
    trains_otherwise(got, beside)


def has_no(key: str) -> Effect:
    def effect(got: Outcome, beside: Outcome) -> None:
        assert got.row[key] is None
        assert beside.row[key] is not None
        assert f"batch_norm.{key}" in beside.weights.keys() - got.weights.keys()

    return effect


def starts_at(key: str, given: Any) -> Effect:
    def effect(got: Outcome, beside: Outcome) -> None:
        start = initial(Initializer.model_validate(given), (CHANNELS,), torch.Generator()).numpy()
        moved = np.abs(got.stored(key) - start).max()
        assert 0 < moved < 0.5 < np.abs(beside.stored(key) - start).max()
        assert not same_training(got, beside)

    return effect


def starts_average_at(key: str, given: Any, default: float) -> Effect:
    """What is left of it after the run is exactly what momentum leaves; nothing trained knows of it."""

    def effect(got: Outcome, beside: Outcome) -> None:
        start = initial(Initializer.model_validate(given), (CHANNELS,), torch.Generator()).numpy()
        close(got.stored(key) - beside.stored(key), LEFT * (start - default), atol=1e-5)
        assert np.abs(start - default).min() > 0
        assert same_training(got, beside)

    return effect


def is_made_smaller(key: str) -> Effect:
    def effect(got: Outcome, beside: Outcome) -> None:
        assert np.abs(got.stored(key)).sum() < 0.8 * np.abs(beside.stored(key)).sum()
        assert got.series()["penalty"]["value"][-1] > 0
        assert "penalty" not in beside.series()

    return effect


def has_norm_of_at_most_one(got: Outcome, beside: Outcome) -> None:
    assert np.linalg.norm(got.stored("gamma")) <= 1 + 1e-6
    assert np.linalg.norm(beside.stored("gamma")) > 2


def is_nowhere_negative(got: Outcome, beside: Outcome) -> None:
    assert (got.stored("beta") >= 0).all()
    assert (beside.stored("beta") < 0).any()


def is_within_bounds(got: Outcome, beside: Outcome) -> None:
    assert 0.1 - 1e-6 <= np.linalg.norm(got.stored("beta")) <= 0.2 + 1e-6 < np.linalg.norm(beside.stored("beta"))


def normalizes_by_averages(got: Outcome, beside: Outcome) -> None:
    assert not same_training(got, beside)
    assert (got.row["variance_estimator"], beside.row["variance_estimator"]) == ("renorm", "biased")
    averages = {f"batch_norm.{key}" for key in ("renorm_mean", "renorm_stddev", "moving_stddev")}
    assert got.weights.keys() - beside.weights.keys() == averages
    stddev = got.weights["batch_norm.moving_stddev"]
    close(got.stored("moving_variance"), np.maximum(stddev**2 - 1e-3, 0))
    # both averages have one momentum and one start by default
    close(got.weights["batch_norm.renorm_mean"], got.stored("moving_mean"))
    close(got.weights["batch_norm.renorm_stddev"], stddev)


def trains_otherwise(got: Outcome, beside: Outcome) -> None:
    """By more than rounding would."""
    assert np.abs(got.stored("gamma") - beside.stored("gamma")).max() > 5e-3
    assert got.row["updates"] == beside.row["updates"] == STEPS


def trains_as_plain_batch_norm(got: Outcome, beside: Outcome) -> None:
    """As the schedule of the paper does in its first 5,000 steps."""
    for key in ("gamma", "beta", "moving_mean"):
        close(got.stored(key), beside.stored(key), rtol=1e-3, atol=1e-4)
    assert got.row["variance_estimator"] == "renorm"
    assert np.abs(got.stored("moving_variance") - beside.stored("moving_variance")).max() > 1e-3


def averages_of_its_own(got: Outcome, beside: Outcome) -> None:
    assert not same_training(got, beside)
    mean = [each.weights["batch_norm.renorm_mean"] for each in (got, beside)]
    assert np.abs(mean[0] - got.stored("moving_mean")).max() > 0.1
    close(mean[1], beside.stored("moving_mean"))


def is_decided_for_rank_two(got: Outcome, beside: Outcome) -> None:
    assert got.row["fused_effective"] is False
    trains_as_without(got, beside)


def is_decided_for_images(got: Outcome, beside: Outcome) -> None:
    assert got.row["fused_effective"] is True
    trains_as_without(got, beside)


def takes_biased_variance(got: Outcome, beside: Outcome) -> None:
    """v, where without the argument it is n/(n-1) v."""
    assert (got.row["variance_estimator"], beside.row["variance_estimator"]) == ("biased", "unbiased")
    assert equal(got, beside, "gamma", "beta", "moving_mean")
    n = BATCH * 8 * 8
    close(beside.stored("moving_variance") / got.stored("moving_variance"), n / (n - 1), rtol=1e-6, atol=0)


def stays_as_it_began(got: Outcome, beside: Outcome) -> None:
    assert (got.row["updates"], beside.row["updates"]) == (0, STEPS)
    for key, value in (("gamma", 1), ("beta", 0), ("moving_mean", 0), ("moving_variance", 1)):
        assert (got.stored(key) == value).all(), key
    assert not np.array_equal(got.weights["hidden.kernel"], beside.weights["hidden.kernel"])


def underestimates_the_variance(got: Outcome, beside: Outcome) -> None:
    """By the half, of ghost batches of two rows."""
    new = [each.stored("moving_variance") - LEFT for each in (got, beside)]
    assert got.row["updates"] == STEPS
    assert 0.35 < new[0].sum() / new[1].sum() < 0.7


def is_named(got: Outcome, beside: Outcome) -> None:
    assert (got.row["name"], beside.row["name"]) == ("normed", "batch_norm")
    assert {"normed.gamma", "normed.moving_mean"} <= got.weights.keys()
    trains_as_without(got, beside)


# ── the cases ──


@dataclass(frozen=True, kw_only=True)
class Case:
    """A job whose batch norm has `more` and this argument."""

    says: str
    argument: str
    given: Any
    shown: Any = None
    """In the request that ran, where it is written otherwise there."""
    more: dict[str, Any] = field(default_factory=dict)
    effect: Effect
    data: str = "table"
    unlike: dict[str, Any] | None = None
    """The arguments of the job that it is compared with; None: `more`."""

    @property
    def body(self) -> dict[str, Any]:
        return NETWORKS[self.data](self.more | {self.argument: self.given})

    @property
    def beside(self) -> dict[str, Any]:
        """All but the argument."""
        return NETWORKS[self.data](self.more if self.unlike is None else self.unlike)


def clipping(given: Any) -> dict[str, Any]:
    return RenormClipping.model_validate(given).model_dump(mode="json")


NUMBERS = [0.5, -1, 1.5, -2, 2.5, -3, 3.5, 4]
NORMAL = {"class_name": "random_normal", "config": {"mean": 3.0, "stddev": 0.5, "seed": 11}}
WIDE = {"class_name": "truncated_normal", "config": {"mean": 20.0, "stddev": 2.0, "seed": 12}}
UNIFORM = {"class_name": "random_uniform", "config": {"minval": 10.0, "maxval": 30.0, "seed": 13}}
L2 = {"class_name": "L1L2", "config": {"l1": 0.0, "l2": 1.0}}
RENORM = {"renorm": True}
SCHEDULE = {"rmax": [[0, 1], [30, 2]], "rmin": "1/rmax", "dmax": [[10, 0], [30, 2]]}

CASES = [
    Case(
        says="axis 1 of images keeps statistics of each row of pixels",
        argument="axis",
        given=1,
        effect=has_rows_of_the_images,
        data="images",
    ),
    Case(
        says="axis as a list keeps statistics of each combination",
        argument="axis",
        given=[-1, 1],
        shown=[1, 3],
        effect=has_a_statistic_for_each_place_and_channel,
        data="images",
    ),
    Case(says="axis -1 is the channels", argument="axis", given=-1, shown=1, effect=trains_as_without),
    Case(
        says="momentum 0.5 forgets the beginning and changes nothing else",
        argument="momentum",
        given=0.5,
        effect=follows_faster,
    ),
    Case(
        says="epsilon is inside the root in training and prediction",
        argument="epsilon",
        given=0.5,
        effect=is_added_inside_the_root,
    ),
    Case(says="center false has no beta", argument="center", given=False, effect=has_no("beta")),
    Case(says="scale false has no gamma", argument="scale", given=False, effect=has_no("gamma")),
    Case(
        says="beta starts at a list of numbers",
        argument="beta_initializer",
        given=NUMBERS,
        shown={"class_name": "constant", "config": {"value": NUMBERS}},
        effect=starts_at("beta", NUMBERS),
    ),
    Case(
        says="gamma starts at draws of a seed",
        argument="gamma_initializer",
        given=NORMAL,
        effect=starts_at("gamma", NORMAL),
    ),
    Case(
        says="moving mean starts at draws of a seed",
        argument="moving_mean_initializer",
        given=WIDE,
        effect=starts_average_at("moving_mean", WIDE, 0),
    ),
    Case(
        says="moving variance starts at draws of a seed",
        argument="moving_variance_initializer",
        given=UNIFORM,
        effect=starts_average_at("moving_variance", UNIFORM, 1),
    ),
    Case(
        says="moving mean starts at a list of numbers",
        argument="moving_mean_initializer",
        given=NUMBERS,
        shown={"class_name": "constant", "config": {"value": NUMBERS}},
        effect=starts_average_at("moving_mean", NUMBERS, 0),
    ),
    Case(
        says="beta_regularizer makes beta smaller",
        argument="beta_regularizer",
        given={"class_name": "L1", "config": {"l1": 0.1}},
        shown={"class_name": "L1L2", "config": {"l1": 0.1, "l2": 0.0}},
        effect=is_made_smaller("beta"),
    ),
    Case(
        says="gamma_regularizer makes gamma smaller",
        argument="gamma_regularizer",
        given=L2,
        effect=is_made_smaller("gamma"),
    ),
    Case(
        says="beta_constraint non_neg leaves no beta below zero",
        argument="beta_constraint",
        given="non_neg",
        effect=is_nowhere_negative,
    ),
    Case(
        says="beta_constraint min_max_norm keeps the norm within its bounds",
        argument="beta_constraint",
        given={"class_name": "min_max_norm", "config": {"min_value": 0.1, "max_value": 0.2}},
        shown={"class_name": "min_max_norm", "config": {"axis": 0, "max_value": 0.2, "min_value": 0.1, "rate": 1.0}},
        effect=is_within_bounds,
    ),
    Case(
        says="gamma_constraint max_norm bounds the norm of gamma",
        argument="gamma_constraint",
        given={"class_name": "max_norm", "config": {"max_value": 1.0}},
        shown={"class_name": "max_norm", "config": {"axis": 0, "max_value": 1.0}},
        effect=has_norm_of_at_most_one,
    ),
    Case(
        says="renorm trains with its own averages and stores them with the weights",
        argument="renorm",
        given=True,
        effect=normalizes_by_averages,
    ),
    Case(
        says="renorm_clipping takes numbers",
        argument="renorm_clipping",
        given={"rmax": 1.1, "rmin": 0.9, "dmax": 0.2},
        more=RENORM,
        effect=trains_otherwise,
    ),
    Case(
        says="renorm_clipping takes a schedule",
        argument="renorm_clipping",
        given=SCHEDULE,
        shown=clipping(SCHEDULE),
        more=RENORM,
        effect=trains_otherwise,
    ),
    Case(
        says="renorm_clipping paper is written out, and begins as plain batch norm",
        argument="renorm_clipping",
        given="paper",
        shown=clipping("paper"),
        more=RENORM,
        unlike={},
        effect=trains_as_plain_batch_norm,
    ),
    Case(
        says="renorm_momentum has averages follow faster",
        argument="renorm_momentum",
        given=0.5,
        more=RENORM,
        effect=averages_of_its_own,
    ),
    Case(
        says="fused false takes the biased variance of images too",
        argument="fused",
        given=False,
        more={"momentum": 0},
        effect=takes_biased_variance,
        data="images",
    ),
    Case(
        says="fused true of images is what it is by default",
        argument="fused",
        given=True,
        effect=is_decided_for_images,
        data="images",
    ),
    Case(
        says="fused null is decided for images",
        argument="fused",
        given=None,
        shown=True,
        effect=is_decided_for_images,
        data="images",
    ),
    Case(
        says="fused null is decided for rows",
        argument="fused",
        given=None,
        shown=False,
        effect=is_decided_for_rank_two,
    ),
    Case(
        says="trainable false changes nothing of the layer",
        argument="trainable",
        given=False,
        effect=stays_as_it_began,
    ),
    Case(
        says="virtual_batch_size averages the variances of ghost batches",
        argument="virtual_batch_size",
        given=2,
        effect=underestimates_the_variance,
    ),
    Case(
        says="adjustment uniform is drawn in training",
        argument="adjustment",
        given={"kind": "uniform", "scale": [0.5, 1.5], "bias": [-0.5, 0.5]},
        shown={"kind": "uniform", "scale": [0.5, 1.5], "bias": [-0.5, 0.5], "per": "feature", "seed": None},
        effect=trains_otherwise,
    ),
    Case(
        says="adjustment normal is drawn in training",
        argument="adjustment",
        given={"kind": "normal", "scale": {"mean": 1, "std": 0.3}, "bias": {"mean": 0, "std": 0.3}, "per": "layer"},
        shown={
            "kind": "normal",
            "scale": {"mean": 1.0, "std": 0.3},
            "bias": {"mean": 0.0, "std": 0.3},
            "per": "layer",
            "seed": None,
        },
        effect=trains_otherwise,
    ),
    Case(
        says="adjustment constant is given for each channel",
        argument="adjustment",
        given={"kind": "constant", "scale": [1.5] * 4 + [0.5] * 4, "bias": 0.1},
        effect=trains_otherwise,
    ),
    Case(says="name is the layer's everywhere", argument="name", given="normed", effect=is_named),
]


# ── the tests ──


class Jobs:
    """Jobs by their body: each is trained once, and all of them are queued before the first is waited for."""

    def __init__(self, stack: Stack) -> None:
        self._stack, self._ids, self._outcomes = stack, dict[str, str](), dict[str, Outcome]()

    def submit(self, data: str, body: dict[str, Any]) -> str:
        key = repr((data, body))
        if key not in self._ids:
            model = f"arguments-{len(self._ids)}"
            self._ids[key] = self._stack.submit(dataset=f"arguments-{data}", model=model, training=TRAINING, **body)
        return key

    def __call__(self, data: str, body: dict[str, Any]) -> Outcome:
        key = self.submit(data, body)
        if key not in self._outcomes:
            self._outcomes[key] = finished(self._stack, self._ids[key])
        return self._outcomes[key]


@pytest.fixture(scope="module")
def uploaded(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Data]:
    folder = tmp_path_factory.mktemp("arguments")
    lines = ["a,b,c,d,e,f,y", *(",".join([*map(repr, row), f"kind-{y}"]) for row, y in zip(X.tolist(), Y, strict=True))]
    csv = ("\n".join(lines) + "\n").encode()
    pixels = PIXELS[:9].tolist()
    return {
        "table": upload(
            stack, folder / "table", "arguments-table", csv, X[:50].tolist(), format="csv", target="y"
        ),
        "images": upload(
            stack, folder / "images", "arguments-images", npz(x=PIXELS, y=KINDS), pixels, format="npz"
        ),
    }  # fmt: skip


@pytest.fixture(scope="module")
def jobs(stack: Stack, uploaded: dict[str, Data]) -> Jobs:
    made = Jobs(stack)
    for case in CASES:
        made.submit(case.data, case.body)
        made.submit(case.data, case.beside)
    return made


def test_every_argument_of_the_signature_has_a_case() -> None:
    assert {case.argument for case in CASES} == BATCH_NORM_ARGUMENTS


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.says)
def test_argument(case: Case, jobs: Jobs, uploaded: dict[str, Data], tmp_path: Path) -> None:
    got, beside = jobs(case.data, case.body), jobs(case.data, case.beside)
    expected = case.given if case.shown is None else case.shown
    assert got.layer("batch_norm")[case.argument] == expected
    assert got.row["arguments"][case.argument] == expected
    assert got.row["arguments"].keys() == BATCH_NORM_ARGUMENTS
    data = uploaded[case.data]
    assert_served(got, data, trained_here(got, data, tmp_path / "twin"))
    if case.data == "table":
        assert_predicted_by_hand(got)
    case.effect(got, beside)


def assert_predicted_by_hand(got: Outcome) -> None:
    """From what the service shows of the version, and nothing else."""
    hidden = X.astype(np.float32) @ got.weights["hidden.kernel"].T
    normal = (hidden - got.stored("moving_mean")) / np.sqrt(got.stored("moving_variance") + got.row["epsilon"])
    gamma = 1 if got.row["gamma"] is None else got.stored("gamma")
    beta = 0 if got.row["beta"] is None else got.stored("beta")
    logits = np.maximum(normal * gamma + beta, 0) @ got.weights["output.kernel"].T + got.weights["output.bias"]
    exponents = np.exp(logits - logits.max(1, keepdims=True))
    scores, _ = got.predict(X.tolist())
    np.testing.assert_allclose(scores, exponents / exponents.sum(1, keepdims=True), atol=1e-5)


def test_adjustment_is_drawn_alike_with_one_seed_and_otherwise_with_another(jobs: Jobs, stack: Stack) -> None:
    uniform: dict[str, Any] = {"kind": "uniform", "scale": [0.5, 1.5], "bias": [-0.5, 0.5]}
    first = jobs("table", table({"adjustment": uniform}))
    request = {key: first.job["request"][key] for key in ("network", "preprocessing", "training")}
    again = finished(stack, stack.submit(dataset="arguments-table", model="arguments-again", **request))
    given, other = (jobs("table", table({"adjustment": uniform | {"seed": seed}})) for seed in (TRAINING["seed"], 77))
    assert same_training(first, again)
    assert first.batchnorm["digest"] == again.batchnorm["digest"]
    assert same_training(first, given)  # without a seed of its own it has the job's
    assert not same_training(first, other)
