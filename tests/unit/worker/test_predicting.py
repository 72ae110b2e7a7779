"""A data set answered by a version: the same numbers as the network gives, in either file, a part at a time."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from gammabeta.errors import ArtifactCorrupt
from gammabeta.nets import state
from gammabeta.nets.build import Network, build_network
from gammabeta.schemas.datasets import ArrayFile, Category, DatasetManifest, Feature, SplitFiles, Target
from gammabeta.schemas.jobs import ResolvedPredictRequest
from gammabeta.schemas.layers import Dense
from gammabeta.schemas.networks import LayersNetwork
from gammabeta.schemas.normalization import BatchNorm
from gammabeta.schemas.plans import plan_network
from gammabeta.schemas.preprocessing import (
    CategoricalColumn,
    FittedArray,
    FittedPreprocessing,
    FittedTable,
    NumericColumn,
)
from gammabeta.schemas.presets import MlpPreset
from gammabeta.schemas.resolution import task_of
from tests.trainings import RecordingLink
from worker import answer_files, predicting, results
from worker.failures import PredictionFailed
from worker.messages import PredictFile, Progress, Started

CLASSES = ("no", 'say "yes"', "label")
ARRAY = FittedArray(shape=(5,), offset=(0.5,) * 5, scale=(2.0,) * 5)
PEOPLE = FittedTable(
    columns=(
        CategoricalColumn(name="work", categories=("State", "Private"), missing_indicator=True),
        NumericColumn(name="age", fill=38.0, offset=38.0, scale=13.0),
    )
)


def made(preprocessing: FittedPreprocessing, classes: tuple[str, ...] | None) -> Network:
    plan = plan_network(
        MlpPreset(hidden=(6,)), input_shape=preprocessing.input_shape, outputs=len(classes) if classes else 1
    )
    network = build_network(plan, preprocessing, task=task_of(classes, plan.outputs), seed=1)
    norm = next(each for each in network.layers if hasattr(each, "moving_mean"))
    with torch.no_grad():
        norm.moving_mean.add_(torch.linspace(-1, 1, 6))
        norm.moving_variance.mul_(torch.linspace(0.5, 2, 6))
    return network.eval()


def order_of(
    folder: Path,
    network: Network,
    preprocessing: FittedPreprocessing,
    classes: tuple[str, ...] | None,
    x: NDArray[Any],
    y: NDArray[Any],
    *,
    features: tuple[Feature, ...] | None = None,
    labels: tuple[str, ...] | None = None,
    format: Any = "csv",
) -> PredictFile:
    """As the supervisor writes it."""
    stored = state.state_of(network)
    version = folder / "version"
    version.mkdir()
    save_file(state.weights_of(network), folder / "weights")
    known = results.Result(
        network=network.plan.as_network(),
        preprocessing=preprocessing,
        classes=classes,
        metrics={},
        parameters=1,
        state_layers=results.state_layers(stored),
    )
    results.describe(version, state=stored, result=known)
    files = {}
    for name, array in (("x", x), ("y", y)):
        np.save(folder / f"{name}.npy", array)
        files[name] = ArrayFile(sha256=name, bytes=1, dtype=str(array.dtype), shape=array.shape)
    manifest = DatasetManifest(
        kind="table" if features else "array",
        features=features or (Feature(name="x", kind="numeric", shape=x.shape[1:]),),
        target=_target(labels),
        splits={"train": SplitFiles(n=len(x), **files)},
    )
    return PredictFile(
        job_id="job_1",
        fence=1,
        request=ResolvedPredictRequest(
            model="m", version="1", dataset="ds_1", split="train", format=format, priority=0, metadata={}
        ),
        version=version,
        weights=folder / "weights",
        digest=stored.digest,
        loss=None,
        manifest=manifest,
        arrays={name: folder / f"{name}.npy" for name in files},
        scratch=folder,
    )


def _target(labels: tuple[str, ...] | None) -> Target:
    if labels is None:
        return Target(name="y", kind="number")
    return Target(name="y", kind="class", classes=tuple(Category(label=each, count=1) for each in labels))


def rows(n: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(n, 5)).astype(np.float32)


def read_csv(path: Path) -> pl.DataFrame:
    """With the header as the standard library reads it: polars leaves doubled quotes there doubled."""
    with path.open(newline="") as file:
        names = next(csv.reader(file))
    return pl.read_csv(path, has_header=False, skip_rows=1, new_columns=names)


def scores(network: Network, raw: NDArray[Any]) -> NDArray[np.float32]:
    with torch.inference_mode():
        found: NDArray[np.float32] = network.scores(torch.from_numpy(raw)).numpy()
    return found


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_every_row_is_answered_as_the_network_does(
    tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_files, "PART_ROWS", 1_500)  # so that there are several parts
    network, x = made(ARRAY, CLASSES), rows(5_000)
    y = np.random.default_rng(1).integers(0, 2, len(x))
    link = RecordingLink()
    order = order_of(tmp_path, network, ARRAY, CLASSES, x, y, labels=("label", "no"), format=format)
    answered = predicting.predict(order, link)
    found = read_csv(answered.path) if format == "csv" else pl.read_parquet(answered.path)
    assert found.columns == ["row", "label", *(f"score_{each}" for each in CLASSES), "target"]
    expected = scores(network, x)
    np.testing.assert_array_equal(found["row"].to_numpy(), np.arange(len(x)))
    np.testing.assert_allclose(found.select(pl.selectors.starts_with("score_")).to_numpy(), expected, atol=1e-6)
    assert found["label"].to_list() == [CLASSES[code] for code in expected.argmax(axis=1)]
    assert found["target"].to_list() == [("label", "no")[code] for code in y]
    right = np.array([2, 0])[y] == expected.argmax(axis=1)
    assert answered.metrics is not None
    assert answered.metrics["accuracy"] == pytest.approx(right.mean())
    assert answered.metrics["correct"] == right.sum()
    assert (answered.rows, answered.metrics["n"]) == (5_000, 5_000)
    assert link.of(Started)[0].steps == 5_000
    assert link.of(Progress)[-1].fraction == 1
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("pred")) == [answered.path.name]


def test_columns_stand_where_they_stand_and_categories_are_counted_as_the_model_does(tmp_path: Path) -> None:
    """The data set has its columns in another order, one more, and other codes for the same labels."""
    network = made(PEOPLE, CLASSES[:2])
    features = (
        Feature(name="age", kind="numeric"),
        Feature(name="unread", kind="numeric"),
        Feature(
            name="work",
            kind="categorical",
            categories=tuple(Category(label=each, count=1) for each in ("Private", "Never seen", "State")),
        ),
    )
    nan = np.nan
    x = np.array([[20, 9, 0], [nan, 9, 1], [60, nan, 2], [61, 9, nan], [62, 9, -1]])
    as_the_model_counts = np.array([[1, 20], [-1, nan], [0, 60], [nan, 61], [-1, 62]])
    order = order_of(
        tmp_path, network, PEOPLE, CLASSES[:2], x, np.zeros(5, np.float32), features=features, format="parquet"
    )
    answered = predicting.predict(order, RecordingLink())
    found = pl.read_parquet(answered.path).select(pl.selectors.starts_with("score_")).to_numpy()
    np.testing.assert_array_equal(found, scores(network, as_the_model_counts))
    assert answered.metrics is None  # the targets are numbers


def test_numbers_are_values_and_are_measured(tmp_path: Path) -> None:
    network, x = made(ARRAY, None), rows(50)
    y = np.random.default_rng(2).normal(size=50).astype(np.float32)
    answered = predicting.predict(order_of(tmp_path, network, ARRAY, None, x, y), RecordingLink())
    with answered.path.open(newline="") as file:
        read = list(csv.reader(file))
    assert read[0] == ["row", "value", "target"]
    values = np.array([row[1] for row in read[1:]], dtype=np.float32)
    np.testing.assert_allclose(values, scores(network, x), rtol=1e-6)
    assert answered.metrics is not None
    assert answered.metrics["mae"] == pytest.approx(np.abs(values - y).mean(), rel=1e-5)


def test_two_classes_by_one_output_have_two_scores(tmp_path: Path) -> None:
    layers = LayersNetwork(layers=(Dense(units=4), BatchNorm(), Dense(units=1)))
    plan = plan_network(layers, input_shape=(5,), outputs=None)
    network = build_network(plan, ARRAY, task="binary", seed=3).eval()
    order = order_of(tmp_path, network, ARRAY, ("a", "b"), rows(9), np.zeros(9, np.int64), labels=("b",))
    found = pl.read_csv(predicting.predict(order, RecordingLink()).path)
    np.testing.assert_allclose(found.select("score_a", "score_b").to_numpy(), scores(network, rows(9)), atol=1e-6)


def test_a_row_without_a_finite_answer_is_named_with_the_column_that_is_missing(tmp_path: Path) -> None:
    strict = FittedTable(columns=(NumericColumn(name="age", fill=None), NumericColumn(name="hours", fill=None)))
    network = made(strict, CLASSES)
    features = tuple(Feature(name=each, kind="numeric") for each in ("age", "hours"))
    x = np.ones((2_000, 2))
    x[1_500, 1] = np.nan
    order = order_of(
        tmp_path, network, strict, CLASSES, x, np.zeros(2_000, np.int64), features=features, labels=("no",)
    )
    with pytest.raises(PredictionFailed, match=r"row 1,500 of the split.*'hours' is missing") as caught:
        predicting.predict(order, RecordingLink())
    assert caught.value.code == "non_finite_score"


def test_a_state_that_is_not_that_of_the_digest_is_refused_before_a_row_is_answered(tmp_path: Path) -> None:
    network = made(ARRAY, CLASSES)
    order = order_of(tmp_path, network, ARRAY, CLASSES, rows(3), np.zeros(3, np.int64), labels=("no",))
    link = RecordingLink()
    with pytest.raises(ArtifactCorrupt, match="must use, and leave"):
        predicting.predict(order.model_copy(update={"digest": "sha256:" + "0" * 64}), link)
    assert link.reports == []
