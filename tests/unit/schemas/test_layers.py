"""Layers but for batch norm: shapes, parameters, refusals, and that their arguments come back from JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from gammabeta.schemas.constraints import Constraint
from gammabeta.schemas.initializers import Initializer
from gammabeta.schemas.layers import Layer
from gammabeta.schemas.measuring import kernel_shape
from gammabeta.schemas.networks import AnyLayer
from gammabeta.schemas.normalization import BatchNorm
from gammabeta.schemas.presets import PRESETS
from gammabeta.schemas.problems import LAYER_TAGS
from tests.unit.schemas.refusals import plan_of_layer, refused

IMAGE, SEQUENCE, ROW = (9, 7, 4), (9, 4), (5,)
CONV2D = {"type": "conv2d", "filters": 6, "kernel_size": 3}
CONV1D = {"type": "conv1d", "filters": 6, "kernel_size": 3}
DEPTHWISE = {"type": "depthwise_conv2d", "kernel_size": 3}
DENSE = {"type": "dense", "units": 6}


def unit_norm(*axis: int) -> dict[str, Any]:
    return {"class_name": "UnitNorm", "config": {"axis": list(axis)}}


MEASURED: list[tuple[dict[str, Any], tuple[int, ...], tuple[int, ...], int]] = [
    (CONV2D, IMAGE, (7, 5, 6), 9 * 4 * 6 + 6),
    ({**CONV2D, "padding": "same", "strides": [2, 3], "use_bias": False}, IMAGE, (5, 3, 6), 9 * 4 * 6),
    ({**CONV2D, "dilation_rate": 3}, IMAGE, (3, 1, 6), 9 * 4 * 6 + 6),
    ({**CONV2D, "dilation_rate": [1, 3], "padding": "same"}, IMAGE, (9, 7, 6), 9 * 4 * 6 + 6),
    ({**CONV2D, "groups": 2}, IMAGE, (7, 5, 6), 9 * 2 * 6 + 6),
    (CONV1D, SEQUENCE, (7, 6), 3 * 4 * 6 + 6),
    ({**CONV1D, "padding": "same", "strides": 2}, SEQUENCE, (5, 6), 3 * 4 * 6 + 6),
    ({**CONV1D, "padding": "causal", "dilation_rate": 4}, SEQUENCE, (9, 6), 3 * 4 * 6 + 6),
    ({**CONV1D, "groups": 2, "dilation_rate": 2}, SEQUENCE, (5, 6), 3 * 2 * 6 + 6),
    (DEPTHWISE, IMAGE, (7, 5, 4), 9 * 4 + 4),
    ({**DEPTHWISE, "depth_multiplier": 3, "padding": "same"}, IMAGE, (9, 7, 12), 9 * 12 + 12),
    ({"type": "max_pool"}, SEQUENCE, (4, 4), 0),
    ({"type": "average_pool", "pool_size": 3, "strides": 2, "padding": "same"}, SEQUENCE, (5, 4), 0),
    ({"type": "max_pool", "pool_size": [3, 2]}, IMAGE, (3, 3, 4), 0),
    ({"type": "global_average_pool"}, SEQUENCE, (4,), 0),
    ({"type": "global_average_pool"}, IMAGE, (4,), 0),
]


@pytest.mark.parametrize(("layer", "shape", "output", "parameters"), MEASURED, ids=[str(each[0]) for each in MEASURED])
def test_layer_is_measured(
    layer: dict[str, Any], shape: tuple[int, ...], output: tuple[int, ...], parameters: int
) -> None:
    planned = plan_of_layer(layer, shape).layers[0]
    assert planned.output_shape == output
    assert planned.parameters == parameters


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (DENSE, ROW, (5, 6)),
        ({**CONV1D, "groups": 2}, SEQUENCE, (3, 2, 6)),
        ({**CONV2D, "kernel_size": [3, 5]}, IMAGE, (3, 5, 4, 6)),
        ({**DEPTHWISE, "depth_multiplier": 2}, IMAGE, (3, 3, 4, 2)),
    ],
)
def test_kernel_has_the_shape_of_keras(
    layer: dict[str, Any], shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    spec: Any = plan_of_layer(layer, shape).layers[0].spec
    assert kernel_shape(spec, shape) == expected


REFUSED: list[tuple[dict[str, Any], tuple[int, ...], str, str]] = [
    ({"type": "conv2d", "filters": 6}, IMAGE, "kernel_size", "is required"),
    ({**CONV2D, "kernel_size": 0}, IMAGE, "kernel_size", "greater than or equal to 1"),
    ({**CONV2D, "kernel_size": [3]}, IMAGE, "kernel_size[1]", "is required"),
    ({**CONV2D, "kernel_size": [3, 0]}, IMAGE, "kernel_size[1]", "greater than or equal to 1"),
    ({**CONV2D, "kernel_size": [3, 3, 3]}, IMAGE, "kernel_size", "at most 2 entries; this has 3"),
    ({**CONV2D, "strides": [1, "x"]}, IMAGE, "strides[1]", "must be a whole number"),
    ({**CONV2D, "filters": True}, IMAGE, "filters", "must be a whole number"),
    ({**CONV2D, "kernel_size": True}, IMAGE, "kernel_size", "must be a whole number"),
    ({**CONV2D, "use_bias": "no"}, IMAGE, "use_bias", "must be true or false"),
    ({**CONV2D, "padding": "causal"}, IMAGE, "padding", "'valid' or 'same'"),
    ({**CONV2D, "groups": 4}, IMAGE, "groups", "must divide filters, which are 6"),
    ({**CONV2D, "groups": 3}, IMAGE, "groups", "must divide the input's 4 channels"),
    ({**CONV2D, "strides": 2, "dilation_rate": 2}, IMAGE, "dilation_rate", "strides must be 1"),
    ({**CONV2D, "dilation_rate": 4}, IMAGE, "", "must fit into the input"),
    (CONV2D, SEQUENCE, "", "[height, width, channels]"),
    (CONV1D, IMAGE, "", "[length, channels]"),
    (DEPTHWISE, SEQUENCE, "", "[height, width, channels]"),
    ({**CONV1D, "kernel_size": [3]}, SEQUENCE, "kernel_size", "must be a whole number"),
    ({**CONV1D, "kernel_size": 10}, SEQUENCE, "", "must fit into the input"),
    ({**CONV1D, "padding": "reflect"}, SEQUENCE, "padding", "'valid', 'same' or 'causal'"),
    ({**CONV1D, "groups": 3}, SEQUENCE, "groups", "must divide the input's 4 channels"),
    ({**CONV1D, "strides": 2, "dilation_rate": 2}, SEQUENCE, "dilation_rate", "strides must be 1"),
    ({**DEPTHWISE, "depth_multiplier": 0}, IMAGE, "depth_multiplier", "greater than or equal to 1"),
    ({**DEPTHWISE, "kernel_initializer": "zeros"}, IMAGE, "kernel_initializer", "not a field"),
    (
        {**DEPTHWISE, "depthwise_constraint": unit_norm(4)},
        IMAGE,
        "depthwise_constraint.config.axis",
        "between -4 and 3",
    ),
    ({**DENSE, "kernel_initializer": [1, 2]}, ROW, "kernel_initializer", "one number for a kernel"),
    ({**DENSE, "kernel_constraint": unit_norm(0, 2)}, ROW, "kernel_constraint.config.axis", "the shape is [5, 6]"),
    ({**DENSE, "kernel_constraint": unit_norm(1, -1)}, ROW, "kernel_constraint.config.axis", "each axis once"),
    ({**DENSE, "kernel_regularizer": "l1_l2"}, ROW, "kernel_regularizer", "must say both numbers"),
    ({**DENSE, "bias_initializer": [1, 2, 3]}, ROW, "bias_initializer", "a list of 6"),
    ({**DENSE, "bias_initializer": "orthogonal"}, ROW, "bias_initializer", "this parameter has one"),
    ({**DENSE, "bias_regularizer": "l2", "use_bias": False}, ROW, "bias_regularizer", '"use_bias" is false'),
    ({**DENSE, "bias_constraint": "non_neg", "use_bias": False}, ROW, "bias_constraint", '"use_bias" is false'),
    ({"type": "max_pool", "pool_size": [2, 2]}, SEQUENCE, "pool_size", "one number for a sequence"),
    ({"type": "max_pool", "strides": [1, 2]}, SEQUENCE, "strides", "one number for a sequence"),
    ({"type": "average_pool"}, (1, 4), "", "must fit into the input"),
    ({"type": "max_pool"}, ROW, "", "[length, channels] or [height, width, channels]"),
    ({"type": "global_average_pool"}, ROW, "", "[length, channels] or [height, width, channels]"),
    ({"type": "concatenate", "inputs": ["input"]}, ROW, "inputs", "at least 2 entries; this has 1"),
]


@pytest.mark.parametrize(("layer", "shape", "field", "message"), REFUSED, ids=[str(each[0]) for each in REFUSED])
def test_refusal_names_the_field(layer: dict[str, Any], shape: tuple[int, ...], field: str, message: str) -> None:
    found = refused(layer, shape)
    assert next(iter(found)) == field, found
    assert message in found[field]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        ({**CONV2D, "kernel_size": [3, 1], "kernel_initializer": "he_normal", "kernel_regularizer": "l2"}, IMAGE),
        (
            {**CONV1D, "padding": "causal", "bias_initializer": [1, 2, 3, 4, 5, 6], "bias_constraint": "non_neg"},
            SEQUENCE,
        ),
        ({**DEPTHWISE, "depthwise_initializer": "orthogonal", "depthwise_constraint": unit_norm(0, 1)}, IMAGE),
        ({**DENSE, "kernel_initializer": {"class_name": "VarianceScaling", "config": {"scale": 2}}}, ROW),
        ({"type": "max_pool", "pool_size": [2, 3], "strides": 1}, IMAGE),
    ],
)
def test_arguments_come_back_from_json_as_they_were(layer: dict[str, Any], shape: tuple[int, ...]) -> None:
    planned = plan_of_layer(layer, shape).layers[0]
    stored = json.loads(json.dumps(planned.spec.model_dump(mode="json")))
    assert plan_of_layer(stored, shape).layers[0] == planned


LAYERS: tuple[type[Layer], ...] = get_args(get_args(AnyLayer)[0])
PAGE = (Path(__file__).resolve().parents[3] / "docs/training.md").read_text()


def test_paths_of_errors_know_each_layer() -> None:
    assert {cls.model_fields["type"].default for cls in LAYERS} == LAYER_TAGS


@pytest.mark.parametrize("cls", [*(each for each in LAYERS if each is not BatchNorm), *PRESETS.values()])
def test_each_argument_is_on_the_training_page(cls: type[Layer]) -> None:
    told = set(re.findall(r"\w+", PAGE))
    unwritten = {"depthwise_regularizer", "depthwise_constraint"}  # "and so below"
    assert set(cls.model_fields) - unwritten <= told


@pytest.mark.parametrize("cls", [Initializer, Constraint])
def test_each_name_and_number_of_the_notation_is_on_the_training_page(cls: type[Initializer | Constraint]) -> None:
    told = set(re.findall(r"\w+", PAGE))
    assert {*get_args(cls.model_fields["name"].annotation), *cls.model_fields} <= told
