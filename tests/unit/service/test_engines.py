"""Engines: one serves only what the network itself, in eval mode, would have said."""

from __future__ import annotations

import math
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from gammabeta.nets import losses, onnx_graph, state
from gammabeta.nets.batchnorm import BatchNorm
from gammabeta.nets.build import Network, build_network
from gammabeta.nets.folding import Folding, fold
from gammabeta.schemas.plans import plan_network
from gammabeta.schemas.preprocessing import (
    CategoricalColumn,
    FittedArray,
    FittedImage,
    FittedPreprocessing,
    FittedTable,
    NumericColumn,
)
from gammabeta.schemas.presets import CnnPreset, MlpPreset
from gammabeta.schemas.resolution import Task
from service.runtime import computing as computing_module
from service.runtime import scoring
from service.runtime.computing import Computing
from service.runtime.engines import (
    Choice,
    EngineFailed,
    OnnxEngine,
    Prepared,
    Refusal,
    TorchEngine,
    compared,
    prepare,
)
from service.runtime.probing import probe_of
from service.settings import ServiceSettings
from tests.unit.nets.networks import lived_in

Array = NDArray[Any]

TABLE = FittedTable(
    columns=(
        NumericColumn(name="age", fill=38.0, offset=40.0, scale=12.0),
        CategoricalColumn(name="work", categories=("Private", "State"), missing_indicator=True),
        NumericColumn(name="hours", fill=None, offset=1.7e9, scale=3.0),
    )
)
ARRAY = FittedArray(shape=(6,), offset=(1.0,) * 6, scale=(2.0,) * 6)
IMAGE = FittedImage(shape=(12, 12), scale=255.0)
ALL = pytest.mark.parametrize("fitted", [TABLE, ARRAY, IMAGE], ids=lambda each: each.kind)


def network_on(fitted: FittedPreprocessing, task: Task = "classes", outputs: int = 3, **given: Any) -> Network:
    preset = CnnPreset(filters=(4, 8), hidden=(8,)) if isinstance(fitted, FittedImage) else MlpPreset(hidden=(8, 8))
    preset = preset.model_copy(update=given)
    plan = plan_network(preset, input_shape=fitted.input_shape, outputs=outputs)
    return lived_in(build_network(plan, fitted, task=task))


@pytest.mark.parametrize("choice", ["auto", "onnxruntime", "torch"])
@ALL
def test_engine_that_serves_agrees_with_the_network_itself(fitted: FittedPreprocessing, choice: Choice) -> None:
    network = network_on(fitted)
    prepared, probe = prepare(network, fitted, choice=choice), probe_of(fitted)
    with torch.no_grad():
        expected = network(torch.from_numpy(probe)).numpy()
    logits = prepared.engine.logits(probe)
    assert prepared.engine.name == ("torch" if choice == "torch" else "onnxruntime")
    assert logits.dtype == np.float32
    differences, largest = np.abs(logits.astype(float) - expected).max(axis=1), np.abs(expected).max(axis=1)
    assert (differences <= 1e-4 * np.maximum(1.0, largest)).all()
    worst = (differences / np.maximum(1.0, largest)).argmax()
    assert (prepared.max_difference, prepared.largest_logit) == (differences[worst], largest[worst])
    assert (logits.argmax(1) == expected.argmax(1)).all()
    assert prepared.probe_rows == len(probe)
    assert all(each.into for each in prepared.foldings)
    assert isinstance(prepared.engine, OnnxEngine | TorchEngine)


@pytest.fixture(scope="module")
def digits() -> tuple[Network, FittedImage, Array]:
    """A convolutional network after two epochs of real digits, and 1,000 of them."""
    images, y = (torch.from_numpy(each) for each in load_digits(return_X_y=True))
    x, fitted = images.view(-1, 8, 8) * 15, FittedImage(shape=(8, 8), scale=255.0)
    preset = CnnPreset(
        filters=(8, 16), hidden=(32,), batch_norm=["before_activation", "after_activation", "after_activation"]
    )
    plan = plan_network(preset, input_shape=fitted.input_shape, outputs=10)
    network = build_network(plan, fitted, task="classes")
    optimizer, loss_of = (
        torch.optim.Adam(network.parameters(), lr=0.01),
        losses.loss_for("sparse_categorical_crossentropy"),
    )
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    for rows in torch.split(order.repeat(2), 64):
        optimizer.zero_grad()
        loss_of(network(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return network.eval(), fitted, x[:1000].numpy().astype(np.uint8)


@pytest.mark.parametrize("choice", ["onnxruntime", "torch"])
def test_what_the_probe_promises_holds_for_a_thousand_real_digits(
    digits: tuple[Network, FittedImage, Array], choice: Choice
) -> None:
    network, fitted, rows = digits
    prepared = prepare(network, fitted, choice=choice)
    with torch.no_grad():
        expected = network(torch.from_numpy(rows)).numpy()
    found = compared("classes", expected, prepared.engine.logits(rows))
    assert prepared.engine.bytes > 0
    assert found.mismatch is None
    assert found.max_difference < found.tolerance / 5


@pytest.mark.parametrize(("task", "outputs"), [("classes", 3), ("binary", 1), ("number", 1)])
@pytest.mark.parametrize("choice", ["onnxruntime", "torch"])
def test_each_task_is_served(task: Task, outputs: int, choice: Choice) -> None:
    network, rows = network_on(TABLE, task, outputs), probe_of(TABLE)
    with torch.no_grad():
        expected = network.scores(torch.from_numpy(rows)).numpy()
    scores = scoring.scores_of(task, prepare(network, TABLE, choice=choice).engine.logits(rows))
    assert scores.shape == expected.shape
    assert_allclose(scores, expected, atol=1e-5 * max(1.0, float(np.abs(expected).max())))


@pytest.mark.parametrize("choice", ["onnxruntime", "torch"])
@ALL
def test_row_alone_answers_as_in_any_batch(fitted: FittedPreprocessing, choice: Choice) -> None:
    engine, probe = prepare(network_on(fitted), fitted, choice=choice).engine, probe_of(fitted)
    rows = np.concatenate([probe] * 4)[:200]
    together = engine.logits(rows)
    alone = np.concatenate([engine.logits(rows[at : at + 1]) for at in range(len(rows))])
    assert_allclose(alone, together, rtol=0, atol=1e-5 * max(1.0, float(np.abs(together).max())))
    shuffled = np.random.default_rng(1).permutation(len(rows))
    assert_allclose(engine.logits(rows[shuffled]), together[shuffled], rtol=0, atol=1e-5 * np.abs(together).max())


@pytest.mark.parametrize("choice", ["onnxruntime", "torch"])
def test_a_thousand_predictions_change_nothing(choice: Choice) -> None:
    network = network_on(ARRAY)
    prepared, probe = prepare(network, ARRAY, choice=choice), probe_of(ARRAY)
    before, first = state.state_of(network).digest, prepared.engine.logits(probe)
    for at in range(1000):
        prepared.engine.logits(probe[at % len(probe) :][:2])
    assert state.state_of(network).digest == before
    assert np.array_equal(prepared.engine.logits(probe), first)
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize("choice", ["onnxruntime", "torch"])
def test_threads_do_not_see_each_other(choice: Choice) -> None:
    engine, probe = prepare(network_on(IMAGE), IMAGE, choice=choice).engine, probe_of(IMAGE)
    expected = [engine.logits(probe[at : at + 3]) for at in range(40)]
    with ThreadPoolExecutor(4) as pool:
        given = list(pool.map(lambda at: engine.logits(probe[at : at + 3]), range(40)))
    assert all(map(np.array_equal, given, expected))


@pytest.mark.parametrize("choice", ["onnxruntime", "torch"])
@ALL
def test_rows_that_nobody_may_write_to_are_read(fitted: FittedPreprocessing, choice: Choice) -> None:
    engine, probe = prepare(network_on(fitted), fitted, choice=choice).engine, probe_of(fitted)
    frozen = np.frombuffer(probe.tobytes(), dtype=probe.dtype).reshape(probe.shape)
    assert np.array_equal(engine.logits(frozen), engine.logits(probe))


@pytest.mark.parametrize("choice", ["onnxruntime", "torch"])
def test_pixels_are_the_same_as_bytes_and_as_numbers(choice: Choice) -> None:
    engine, probe = prepare(network_on(IMAGE), IMAGE, choice=choice).engine, probe_of(IMAGE)
    assert np.array_equal(engine.logits(probe), engine.logits(probe.astype(np.float32)))


FAR = FittedArray(shape=(6,), offset=(0.0,) * 6, scale=(1.0,) * 6, mean=(1e6,) * 6, std=(100.0,) * 6)
"""What is fitted with `numeric` "none" to features of a million, more or less."""


def used_to(fitted: FittedArray, rows: Array) -> Network:
    """A network whose batch norms know these rows."""
    plan = plan_network(MlpPreset(hidden=(8, 8)), input_shape=fitted.input_shape, outputs=3)
    network = build_network(plan, fitted, task="classes").train()
    with torch.no_grad():
        for _ in range(2_000):
            network(torch.from_numpy(rows))
    return network.eval()


@pytest.mark.parametrize("choice", ["onnxruntime", "torch"])
def test_what_serves_is_right_on_rows_that_are_left_as_they_are(choice: Choice) -> None:
    rows = np.random.default_rng(5).normal(1e6, 100, (500, 6)).astype(np.float32)
    network = used_to(FAR, rows)
    with torch.no_grad():
        expected = network(torch.from_numpy(rows)).numpy()
    around_zero = FAR.model_copy(update={"mean": (0.0,) * 6, "std": (1.0,) * 6})
    misled = prepare(network, around_zero, choice=choice)
    assert not misled.refusals or choice == "torch"
    assert compared("classes", expected, misled.engine.logits(rows)).mismatch
    prepared = prepare(network, FAR, choice=choice)
    assert compared("classes", expected, prepared.engine.logits(rows)).mismatch is None
    assert any("differ from the network's" in each.reason for each in prepared.refusals)


@pytest.mark.parametrize(
    "unknown",
    [
        FittedArray(shape=(6,)),
        FittedArray(shape=(6,), offset=(0.0,) * 6, scale=(1.0,) * 6),
        FittedTable(columns=tuple(NumericColumn(name=f"x{at}", fill=None) for at in range(6))),
    ],
)
def test_version_that_does_not_say_what_its_rows_were_like_is_served_by_the_network_itself(
    unknown: FittedPreprocessing,
) -> None:
    prepared = prepare(network_on(unknown), unknown)
    assert (prepared.engine.name, prepared.engine.bytes, prepared.max_difference) == ("torch", 0, 0)
    assert [each.engine for each in prepared.refusals] == ["onnxruntime", "torch, folded"]
    assert all("does not say what its rows were like" in each.reason for each in prepared.refusals)


def test_probe_lies_where_the_rows_were() -> None:
    table = FittedTable(
        columns=(
            NumericColumn(name="a", fill=None, mean=1e6, std=100.0),
            NumericColumn(name="b", fill=None, mean=3.0, std=0.0),
            NumericColumn(name="c", fill=None, offset=0.0, scale=1e9, mean=2.0, std=1.0),
        )
    )
    rows = probe_of(table)
    np.testing.assert_allclose(rows.mean(axis=0), [1e6, 3, 2], atol=50)
    np.testing.assert_allclose(rows.std(axis=0), [100, 1, 1], rtol=0.4)
    channels = FittedArray(shape=(5, 2), mean=(1e6, 3.0), std=(100.0, 0.0))
    rows = probe_of(channels)
    assert rows[0].tolist() == [[1e6, 3.0]] * 5
    np.testing.assert_allclose(rows.std(axis=(0, 1)), [100, 1], rtol=0.3)


class Broken:
    """As an engine that has run out of something."""

    name, bytes, training = "onnxruntime", 100, False

    def logits(self, raw: Array) -> Array:  # noqa: ARG002
        """raw: [B, …]."""
        raise EngineFailed("it could not compute. Out of memory.")


def broken(network: Network) -> Computing:
    prepared = replace(prepare(network, ARRAY), engine=Broken())
    return Computing(prepared, "classes", model="churn", version="3")


def test_engine_that_fails_makes_way_for_the_network_itself_once_and_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    logged = structlog.testing.CapturingLogger()
    monkeypatch.setattr(computing_module, "log", logged)
    network, probe = network_on(ARRAY), probe_of(ARRAY)
    computing = broken(network)
    with torch.no_grad():
        expected = network.scores(torch.from_numpy(probe)).numpy()
    with ThreadPoolExecutor(4) as pool:
        for scores in pool.map(computing, [probe] * 8):
            assert_allclose(scores, expected, atol=1e-6)
    (call,) = logged.calls
    assert (call.method_name, call.kwargs["model"], call.kwargs["version"]) == ("error", "churn", "3")
    now = computing.prepared
    assert (now.engine.name, now.engine.bytes, now.max_difference) == ("torch", 0, 0)
    assert now.refusals == (Refusal("onnxruntime", "it could not compute. Out of memory."),)
    assert {each.into for each in now.foldings} == {None}


def test_engine_that_fails_as_it_is_measured_makes_way_too() -> None:
    computing = broken(network_on(ARRAY))
    found = computing.measured_now()
    assert (found.max_difference, found.mismatch) == (0, None)
    assert computing.prepared.engine.name == "torch"


@pytest.mark.parametrize("error", ["ImportError", "RuntimeError"])
def test_engine_that_cannot_be_imported_makes_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: str) -> None:
    (tmp_path / "onnxruntime.py").write_text(f"raise {error}('its library is not for this machine')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    prepared = prepare(network_on(ARRAY), ARRAY)
    assert prepared.engine.name == "torch"
    assert prepared.refusals == (Refusal("onnxruntime", "it cannot be imported. its library is not for this machine"),)


def test_graph_that_cannot_be_written_for_any_reason_makes_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: Any, **kwargs: Any) -> bytes:
        raise RuntimeError("the graph has a cycle")

    monkeypatch.setattr(onnx_graph, "onnx_model", failing)
    prepared = prepare(network_on(ARRAY), ARRAY)
    assert prepared.engine.name == "torch"
    assert "the graph has a cycle" in prepared.refusals[0].reason


def test_no_part_of_an_engine_is_in_training_mode() -> None:
    prepared = prepare(network_on(IMAGE, padding="same"), IMAGE, choice="torch", folded=False)
    assert not prepared.engine.training
    alone = fold(prepared.network, into_others=False)
    engine = TorchEngine(alone, beyond=prepared.network)
    assert not engine.training
    alone.layers[0].train()
    assert engine.training


def test_without_folding_nothing_is_folded_and_torch_serves_as_it_is() -> None:
    network = network_on(ARRAY)
    prepared = prepare(network, ARRAY, choice="torch", folded=False)
    assert prepared.max_difference == prepared.engine.bytes == 0
    assert {(each.into, each.reason) for each in prepared.foldings} == {(None, "folding is switched off")}
    assert prepare(network, ARRAY, folded=False).engine.name == "onnxruntime"


def test_setting_says_why_onnxruntime_does_not_serve() -> None:
    prepared = prepare(network_on(ARRAY), ARRAY, choice="torch")
    assert prepared.refusals == (Refusal("onnxruntime", "GAMMABETA_PREDICT_ENGINE is torch"),)


def test_only_what_is_not_the_networks_own_counts_as_memory() -> None:
    network = network_on(ARRAY)
    folded = fold(network)
    new = sum(each.nbytes for name, each in folded.named_parameters() if name in _folded_numbers(folded))
    assert prepare(network, ARRAY, choice="torch").engine.bytes == new > 0
    assert prepare(network, ARRAY).engine.bytes > sum(each.nbytes for each in folded.parameters())


def _folded_numbers(folded: Any) -> list[str]:
    into = {each.into for each in folded.foldings}
    return [
        f"layers.{at}.{key}" for at, node in enumerate(folded.nodes) if node.name in into for key in ("kernel", "bias")
    ]


def with_norm_before_it_overflows(fitted: FittedArray) -> Network:
    """Folded, the kernel has numbers so large that what they give cancels in another order, or not at all."""
    network = network_on(fitted, batch_norm="after_activation")
    norm = next(each for each in network.layers if isinstance(each, BatchNorm))
    assert norm.gamma is not None
    assert norm.beta is not None
    with torch.no_grad():
        norm.moving_mean.fill_(0.0)
        norm.moving_variance.fill_(0.0)
        norm.gamma.fill_(1e30)
        norm.beta.fill_(3e38)
    return network


def test_network_whose_logits_are_not_finite_is_served_by_itself_alone() -> None:
    network = with_norm_before_it_overflows(ARRAY)
    prepared = prepare(network, ARRAY)
    assert prepared.engine.name == "torch"
    assert prepared.engine.bytes == 0
    assert prepared.max_difference == 0
    assert math.isfinite(prepared.largest_logit)
    assert [each.engine for each in prepared.refusals] == ["onnxruntime", "torch, folded"]
    assert {each.reason for each in prepared.refusals} == {"on the probe, not all logits are finite"}
    assert {each.into for each in prepared.foldings} == {None}


def test_network_that_cancels_large_numbers_is_served_unfolded() -> None:
    """(x + a) - a: the norm takes away what the layer before added; folded into it, nothing was ever added, and the
    digits are there that the network itself has lost. What it gives is another number, so it does not serve."""
    network = network_on(ARRAY, batch_norm="before_activation")
    dense, norm = network.layers[0], network.layers[1]
    assert isinstance(norm, BatchNorm)
    with torch.no_grad():
        dense.bias = torch.nn.Parameter(torch.full((8,), 1e6))
        norm.moving_mean.fill_(1e6)
        norm.moving_variance.fill_(1.0)
    prepared = prepare(network, ARRAY)
    assert prepared.engine.bytes == 0
    assert [each.engine for each in prepared.refusals] == ["onnxruntime", "torch, folded"]
    assert all("its logits differ from the network's by" in each.reason for each in prepared.refusals)
    assert {each.reason for each in prepared.foldings if each.layer == norm.spec.name} == {
        "the folded network does not serve"
    }


def test_what_serves_is_measured_again_when_asked() -> None:
    network = network_on(ARRAY)
    prepared = prepare(network, ARRAY)
    assert prepared.measured_now().max_difference == prepared.max_difference
    assert prepared.measured_now().mismatch is None
    with torch.no_grad():
        next(network.parameters()).add_(0.5)
    found = prepared.measured_now()
    assert found.max_difference > found.tolerance
    assert found.mismatch is not None


def test_each_norm_is_said_to_be_folded_or_not() -> None:
    network = network_on(ARRAY, batch_norm=["before_activation", "after_activation"])
    (first, second), layers = network.plan.batch_norms, network.plan.layers
    prepared = prepare(network, ARRAY, choice="torch")
    assert prepared.foldings == (Folding(first.name, layers[0].name), Folding(second.name, layers[-1].name))


def test_without_the_extra_torch_serves_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as Python sees what is not there
    prepared = prepare(network_on(ARRAY), ARRAY)
    assert prepared.engine.name == "torch"
    assert prepared.refusals == (Refusal("onnxruntime", "it is not installed. Run: pip install 'gammabeta[onnx]'"),)


def test_network_that_has_no_graph_is_served_by_torch() -> None:
    network = network_on(ARRAY)
    network.layers[2] = torch.nn.Hardswish().eval()
    prepared = prepare(network, ARRAY)
    assert prepared.engine.name == "torch"
    assert [each.engine for each in prepared.refusals] == ["onnxruntime"]
    assert "Hardswish cannot be written" in prepared.refusals[0].reason


def test_network_in_training_mode_is_not_prepared() -> None:
    with pytest.raises(ValueError, match="must be in eval mode"):
        prepare(network_on(ARRAY).train(), ARRAY)


@pytest.mark.parametrize(
    ("task", "expected", "given", "mismatch"),
    [
        ("classes", [[1.0, 2.0]], [[1.0, 2.00009]], None),
        ("classes", [[1.0, 2.0]], [[1.0, 2.0003]], "differ from the network's by 0.0003; at most 0.0002 is allowed"),
        ("classes", [[100.0, 2.0]], [[100.0, 2.009]], None),
        ("classes", [[1.0, 1.00002]], [[1.00002, 1.0]], "1 of 1 rows get another label"),
        ("classes", [[1.0, 1.0]], [[1.0, 1.0000001]], None),
        ("binary", [[0.00002]], [[-0.00002]], "1 of 1 rows get another label"),
        ("binary", [[2e-8]], [[-2e-8]], None),
        ("number", [[0.00002]], [[-0.00002]], None),
        ("number", [[0.5]], [[0.5002]], "differ from"),
        ("number", [[3e38]], [[-3e38]], "differ from"),
        ("number", [[math.nan]], [[math.nan]], "not all logits are finite"),
        ("number", [[900.0], [0.5]], [[900.0], [0.51]], "by 0.01; at most 0.0001 is allowed"),
        ("number", [[900.0], [0.5]], [[900.05], [0.5]], None),
        ("classes", [[900.0, 0.0], [1.0, 1.00002]], [[900.0, 0.0], [1.00002, 1.0]], "1 of 2 rows get another label"),
        ("classes", [[1.0, math.inf]], [[1.0, math.inf]], "not all logits are finite"),
        ("classes", [[1.0, 2.0]], [[math.nan, 2.0]], "not all logits are finite"),
    ],
)
def test_agreeing_is_closeness_finiteness_and_the_same_labels(
    task: Task, expected: Any, given: Any, mismatch: str | None
) -> None:
    found = compared(task, np.array(expected, np.float32), np.array(given, np.float32))
    assert (found.mismatch is None) if mismatch is None else (mismatch in str(found.mismatch))
    assert math.isfinite(found.max_difference)
    assert math.isfinite(found.largest_logit)


def test_probe_has_every_category_an_unseen_one_and_missing_values_where_they_may_be() -> None:
    many = tuple(f"c{at}" for at in range(100))
    fitted = FittedTable(columns=(*TABLE.columns, CategoricalColumn(name="city", categories=many)))
    rows = probe_of(fitted)
    assert len(rows) == 102
    assert set(rows[~np.isnan(rows[:, 3]), 3]) == {-1.0, *map(float, range(100))}
    assert np.isnan(rows[:, [0, 1, 3]]).any(axis=0).all()
    assert not np.isnan(rows[:, 2]).any()
    assert abs(np.nanmean(rows[:, 0]) - 40) < 12
    assert np.array_equal(rows, probe_of(fitted), equal_nan=True)


def test_probe_of_images_has_black_white_gradients_and_noise() -> None:
    rows = probe_of(FittedImage(shape=(4, 6, 3)))
    assert rows.dtype == np.uint8
    assert rows.shape == (64, 4, 6, 3)
    assert rows[0].max() == 0
    assert rows[1].min() == 255
    assert rows[2, :, 3, 1].tolist() == [0, 85, 170, 255]
    assert rows[3, 2, :, 0].tolist() == [0, 51, 102, 153, 204, 255]
    assert rows[4].std() > 50


def test_probe_of_huge_rows_is_short() -> None:
    assert len(probe_of(FittedImage(shape=(1024, 1024, 3)))) == 6


@ALL
def test_probe_is_read_by_the_network(fitted: FittedPreprocessing) -> None:
    with torch.no_grad():
        assert network_on(fitted)(torch.from_numpy(probe_of(fitted))).isfinite().all()


@given(
    logits=st.lists(st.lists(st.floats(-500, 500, width=32), min_size=3, max_size=3), min_size=1, max_size=5),
    task=st.sampled_from(["classes", "binary", "number"]),
)
def test_scores_of_numpy_are_those_of_torch(logits: list[list[float]], task: Task) -> None:
    given = np.array(logits, dtype=np.float32)[:, : 3 if task == "classes" else 1]
    expected = losses.scores_of(task, torch.from_numpy(given)).numpy()
    scores = scoring.scores_of(task, given)
    assert scores.dtype == np.float32
    assert scores.shape == expected.shape
    assert_allclose(scores, expected, rtol=2e-6, atol=1e-37)


def test_engine_that_is_not_installed_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ServiceSettings(predict_engine="onnxruntime").predict_engine == "onnxruntime"
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"Run: pip install 'gammabeta\[onnx\]'"):
        ServiceSettings(predict_engine="onnxruntime")
    assert ServiceSettings().predict_engine == "auto"


def test_prepared_is_a_value() -> None:
    prepared = prepare(network_on(ARRAY), ARRAY)
    assert isinstance(prepared, Prepared)
    with pytest.raises(AttributeError):
        prepared.engine = prepared.engine  # type: ignore[misc]
