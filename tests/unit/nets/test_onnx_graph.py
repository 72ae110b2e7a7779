"""Graphs written node by node, run by ONNX Runtime, against the network itself."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from gammabeta.nets.build import Network, build_network
from gammabeta.nets.folding import fold
from gammabeta.nets.onnx_graph import LIMIT_BYTES, NoGraph, onnx_model
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
from tests.unit.nets.networks import FUNCTIONS, NETWORKS, lived_in
from tests.unit.nets.plans import network_of
from tests.unit.nets.test_residual import resnet

Array = NDArray[Any]


def run(model: bytes, x: Array) -> Array:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    logits: Array = session.run(["logits"], {"x": x})[0]
    return logits


def draw(*shape: int) -> Array:
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)


def assert_same(network: Network, fitted: FittedPreprocessing, x: Array, *, into_others: bool = True) -> None:
    """x: raw rows, [B, …]."""
    with torch.no_grad():
        expected = network(torch.from_numpy(x)).numpy()
        given = network.preprocess(torch.from_numpy(x)).numpy() if isinstance(fitted, FittedTable) else x
    logits = run(onnx_model(fold(network, into_others=into_others), fitted), given.astype(np.float32))
    assert logits.dtype == np.float32
    assert_allclose(logits, expected, rtol=0, atol=2e-5 * max(1.0, float(np.abs(expected).max())))


@given(case=NETWORKS, into_others=st.booleans())
@settings(max_examples=40, deadline=None)
def test_any_network_computes_the_same_as_a_graph(case: tuple[list[Any], tuple[int, ...]], into_others: bool) -> None:
    layers, shape = case
    network = lived_in(network_of(*layers, shape=shape))
    assert_same(network, FittedArray(shape=shape), draw(5, *shape), into_others=into_others)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("shape", [(4,), (3, 4), (3, 4, 2)], ids=str)
def test_activations_are_those_of_torch_far_out_too(function: str, shape: tuple[int, ...]) -> None:
    flat = [{"type": "flatten"}] if len(shape) > 1 else []
    network = network_of({"type": "activation", "function": function}, *flat, shape=shape, task="number").eval()
    assert_same(network, FittedArray(shape=shape), draw(9, *shape) * 30)


@pytest.mark.parametrize("kind", ["max_pool", "average_pool", "conv2d"])
@pytest.mark.parametrize(
    ("window", "strides"), [((2, 2), (1, 1)), ((3, 2), (2, 2)), ((4, 3), (3, 1)), ((1, 1), (2, 3))]
)
def test_padding_that_differs_at_the_two_ends_is_that_of_keras(kind: str, window: Any, strides: Any) -> None:
    size = {"kernel_size": window, "filters": 4} if kind == "conv2d" else {"pool_size": window}
    layer = {"type": kind, **size, "strides": strides, "padding": "same"}
    network = lived_in(network_of(layer, {"type": "flatten"}, shape=(5, 7, 3)))
    assert_same(network, FittedArray(shape=(5, 7, 3)), draw(3, 5, 7, 3) - 5)


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_graph_adds_and_concatenates(axis: int) -> None:
    network = network_of(
        {"type": "activation", "name": "a.b", "function": "relu", "inputs": ["input"]},
        {"type": "activation", "name": "x", "function": "tanh", "inputs": ["input"]},
        {"type": "add", "name": "logits", "inputs": ["a.b", "x", "input"]},
        {"type": "concatenate", "inputs": ["logits", "a.b", "logits"], "axis": axis},
        {"type": "flatten"},
        shape=(2, 3, 4),
    ).eval()
    assert_same(network, FittedArray(shape=(2, 3, 4)), draw(3, 2, 3, 4))


@pytest.mark.parametrize("depth", [20, 50])
def test_resnet_computes_the_same_as_a_graph(depth: int) -> None:
    assert_same(lived_in(resnet((8, 8, 3), depth=depth)), FittedArray(shape=(8, 8, 3)), draw(4, 8, 8, 3))


IMAGES = [
    FittedImage(shape=(12, 12), scale=255.0),
    FittedImage(shape=(12, 12, 3), offset=33.25, scale=78.5),
    FittedImage(shape=(12, 12), threshold=127.0),
    FittedImage(shape=(12, 12, 3), threshold=0.0),
    FittedImage(shape=(12, 12, 3)),
]
ARRAYS = [
    FittedArray(shape=(3,), offset=(1.0, -2.0, 1e4), scale=(2.0, 0.5, 1e3)),
    FittedArray(shape=(4, 3), offset=(1.0, -2.0, 3.0), scale=(2.0, 0.5, 1.5)),
    FittedArray(shape=(2, 2), offset=(1.0, -2.0, 3.0, 4.0), scale=(2.0, 0.5, 1.5, 1.0)),
    FittedArray(shape=(12, 12, 2), offset=(1.0, -2.0)),
]


@pytest.mark.parametrize("fitted", IMAGES, ids=str)
def test_images_go_in_as_pixels(fitted: FittedImage) -> None:
    preset = CnnPreset(filters=(4, 8), hidden=(8,))
    plan = plan_network(preset, input_shape=fitted.input_shape, outputs=3)
    network = lived_in(build_network(plan, fitted, task="classes"))
    assert_same(network, fitted, np.random.default_rng(7).integers(0, 256, (6, *fitted.shape), dtype=np.uint8))


@pytest.mark.parametrize("fitted", ARRAYS, ids=str)
def test_arrays_go_in_raw(fitted: FittedArray) -> None:
    layers = [{"type": "flatten"}] if len(fitted.shape) > 1 else []
    plan = network_of(*layers, {"type": "dense", "units": 3}, shape=fitted.input_shape).plan
    network = lived_in(build_network(plan, fitted, task="classes"))
    assert_same(network, fitted, draw(6, *fitted.shape) * 10)


def test_rows_of_a_table_go_in_preprocessed() -> None:
    work = CategoricalColumn(name="work", categories=("a", "b"), missing_indicator=True)
    fitted = FittedTable(columns=(NumericColumn(name="age", fill=3.0, offset=1e9, scale=2.0), work))
    plan = plan_network(MlpPreset(hidden=(4,)), input_shape=fitted.input_shape, outputs=2)
    network = lived_in(build_network(plan, fitted, task="classes"))
    assert_same(network, fitted, np.array([[1e9 + 1, 0], [np.nan, np.nan], [1e9 - 3, -1], [1e9, 1]]))


def test_one_graph_takes_batches_of_any_size() -> None:
    network = lived_in(resnet((8, 8, 3), depth=20))
    model, x = onnx_model(fold(network), FittedArray(shape=(8, 8, 3))), draw(9, 8, 8, 3)
    alone = np.concatenate([run(model, x[at : at + 1]) for at in range(9)])
    assert_allclose(alone, run(model, x), atol=1e-5 * max(1.0, float(np.abs(alone).max())))


def test_graph_is_one_that_onnx_finds_right() -> None:
    for network in (
        resnet((8, 8, 3), depth=20).eval(),
        lived_in(network_of({"type": "dense", "units": 3}, shape=(4,))),
    ):
        fitted = FittedArray(shape=network.plan.input_shape)
        onnx.checker.check_model(onnx.load_from_string(onnx_model(fold(network), fitted)), full_check=True)


def test_graph_of_a_small_network_is_written_in_milliseconds() -> None:
    plan = plan_network(MlpPreset(hidden=(64,)), input_shape=(784,), outputs=10)
    folded, fitted = (
        fold(build_network(plan, FittedArray(shape=(784,)), task="classes").eval()),
        FittedArray(shape=(784,)),
    )
    took = []
    for _ in range(5):
        started = time.thread_time()
        onnx_model(folded, fitted)
        took.append(time.thread_time() - started)
    assert min(took) < 0.02


def test_weights_beyond_a_protobuf_message_are_refused() -> None:
    folded, fitted = fold(network_of({"type": "dense", "units": 3}, shape=(4,)).eval()), FittedArray(shape=(4,))
    size = len(onnx_model(folded, fitted, limit_bytes=68))
    with pytest.raises(NoGraph, match=r"must have at most 67 bytes of weights. Received: 68\."):
        onnx_model(folded, fitted, limit_bytes=67)
    assert size < LIMIT_BYTES < 2**31


def test_layer_of_an_unknown_type_is_refused_by_name() -> None:
    network = network_of({"type": "activation", "name": "odd", "function": "relu"}, shape=(4,)).eval()
    network.layers[0] = torch.nn.Hardswish()
    with pytest.raises(NoGraph, match=r"Hardswish cannot be written. Received: 'odd'"):
        onnx_model(fold(network), FittedArray(shape=(4,)))
