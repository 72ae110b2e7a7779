"""Networks as requests: what is taken, what is refused, and how a refusal reads."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from gammabeta.errors import InvalidRequest, NotSupported
from gammabeta.schemas.jobs import JobRequest, TrainRequest
from gammabeta.schemas.problems import invalid
from tests.unit.schemas.refusals import plan

REQUEST: TypeAdapter[TrainRequest] = TypeAdapter(JobRequest)
BASE = {"kind": "train", "dataset": "ds_1", "model": "digits", "network": {"preset": "mlp"}}


def layers(*given: dict[str, Any]) -> dict[str, Any]:
    return {"layers": list(given)}


def refusal(body: Any) -> InvalidRequest:
    with pytest.raises(ValidationError) as caught:
        REQUEST.validate_python(body)
    return invalid(caught.value)


REFUSED: list[tuple[dict[str, Any], str, str, Any]] = [
    ({"network": layers({"type": "dense", "units": 0})}, "network.layers[0].units", "greater than or equal to 1", 0),
    ({"network": layers({"type": "dense", "units": -3})}, "network.layers[0].units", "greater than or equal to 1", -3),
    ({"network": layers({"type": "lstm"})}, "network.layers[0].type", "must be one of 'dense'", "lstm"),
    ({"network": layers({"type": "dense", "units": 3, "unit": 1})}, "network.layers[0].unit", "not a field", 1),
    ({"network": {"preset": "vgg"}}, "network", "'preset' with mlp, cnn or resnet", {"preset": "vgg"}),
    ({"network": {"preset": "mlp", "hidden": [0]}}, "network.hidden[0]", "greater than or equal to 1", 0),
    (
        {"network": {"preset": "mlp", "batch_norm": {"momentum": 1.5}}},
        "network.batch_norm.momentum",
        "less than or equal to 1",
        1.5,
    ),
    (
        {"network": {"preset": "mlp", "hidden": [8, 8], "batch_norm": ["none"]}},
        "network.batch_norm",
        "one entry for each of hidden: 2",
        ["none"],
    ),
    ({"network": layers({"type": "batch_norm", "momentum": -0.1})}, "network.layers[0].momentum", "equal to 0", -0.1),
    ({"network": layers({"type": "batch_norm", "epsilon": 0})}, "network.layers[0].epsilon", "greater than 0", 0),
    ({"network": layers({"type": "batch_norm", "axis": 0})}, "network.layers[0].axis", "that is the batch", 0),
    (
        {"network": layers({"type": "batch_norm", "gamma_initializer": "orthogonal"})},
        "network.layers[0].gamma_initializer",
        "this parameter has one",
        "orthogonal",
    ),
    (
        {
            "network": layers(
                {
                    "type": "batch_norm",
                    "moving_variance_initializer": {"class_name": "Constant", "config": {"value": -1}},
                }
            )
        },
        "network.layers[0].moving_variance_initializer",
        "negative variance",
        {"class_name": "Constant", "config": {"value": -1}},
    ),
    (
        {"network": layers({"type": "batch_norm", "moving_variance_initializer": "he_normal"})},
        "network.layers[0].moving_variance_initializer",
        "negative variance",
        "he_normal",
    ),
    ({"training": {"optimizer": {"name": "lion"}}}, "training.optimizer.name", "'adam', 'adamw', 'rmsprop'", "lion"),
    (
        {"training": {"optimizer": {"learning_rate": 0}}},
        "training.optimizer",
        "must be an object that says which",
        None,
    ),
    ({"training": {"epoch": 3}}, "training.epoch", "not a field here. Did you mean 'epochs'?", 3),
    ({"training": {"batchsize": 3}}, "training.batchsize", "not a field here. Did you mean 'batch_size'?", 3),
    ({"colour": 3}, "colour", "not a field here. Leave it out, or look at /docs for the fields there are", 3),
    ({"network": layers("dense")}, "network.layers[0]", "the fields that docs/training.md and /docs list", "dense"),
    (
        {"network": layers({"class_name": "BatchNormalization", "config": {"axis": -1}})},
        "network.layers[0]",
        'Write "type": "batch_norm", and the keys of its config beside it.',
        {"class_name": "BatchNormalization", "config": {"axis": -1}},
    ),
    (
        {"network": layers({"class_name": "MaxPooling2D", "config": {}})},
        "network.layers[0]",
        'Write "type": …, and the keys',
        None,
    ),
    (
        {"training": {"optimizer": {"class_name": "Adam", "config": {}}}},
        "training.optimizer",
        'Write "name": "adam", and the keys',
        None,
    ),
    ({"training": {"epochs": 0}}, "training.epochs", "greater than or equal to 1", 0),
    (
        {"training": {"optimizer": {"name": "adam", "learning_rate": float("inf")}}},
        "training.optimizer.learning_rate",
        "finite",
        None,
    ),
    ({"model": "../etc"}, "model", "letters, digits", "../etc"),
    ({"kind": "dance"}, "body", 'must be an object with "kind"', None),
]


@pytest.mark.parametrize(("change", "field", "message", "received"), REFUSED, ids=[each[1] for each in REFUSED])
def test_refusal_names_field_rule_and_value(change: dict[str, Any], field: str, message: str, received: Any) -> None:
    error = refusal({**BASE, **change})
    named = {each.field: each for each in error.errors}
    assert field in named, named
    assert message in " ".join(each.message for each in error.errors if each.field == field)
    if received is not None:
        assert named[field].received == received
    assert type(error) is InvalidRequest


@pytest.mark.parametrize(
    "change",
    [{"kind": ["train"]}, {"kind": {}}, {"network": {"preset": ["mlp"]}}, {"network": {"preset": {}}}, {"network": 3}],
)
def test_odd_discriminators_are_refused_like_unknown_ones(change: dict[str, Any]) -> None:
    assert refusal({**BASE, **change}).errors[0].field in ("body", "network")


def test_endless_lists_are_not_looked_into_and_errors_stay_short() -> None:
    error = refusal({**BASE, "network": {"preset": "mlp", "hidden": [0] * 100_000}})
    assert [each.message for each in error.errors] == ["must have at most 100 entries; this has 100000"]
    error = refusal({**BASE, "network": layers(*({"type": "dense", "units": 0} for _ in range(900)))})
    assert len(error.errors) == 20
    assert error.message.endswith("more")


@pytest.mark.parametrize(
    ("value", "received"),
    [
        ({"class_name": "L1L2", "config": {}}, {"class_name": "L1L2", "config": {}}),
        ([True, None, 0.5, 'a"b'], [True, None, 0.5, 'a"b']),
        ({"deep": [[[[[1]]]]]}, '{"deep": [[[[…]]]]}'),
        (list(range(20)), "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, …]"),
        ({str(key): key for key in range(13)}, None),
        ([float("nan")], ["nan"]),
        (["\ud800"], ["?"]),
    ],
)
def test_received_values_are_json(value: Any, received: Any) -> None:
    found = refusal({**BASE, "dataset": value}).errors[0].received
    assert found == received or (received is None and found.endswith('"11": 11, …}'))


def test_received_values_are_short_and_can_be_written_as_json() -> None:
    deep: Any = []
    for _ in range(900):
        deep = [deep]
    for value in (deep, "\ud800", {"\ud800": 1}, float("inf"), "x" * 10_000, list(range(100_000))):
        error = refusal({**BASE, "dataset": value, "model": "m"})
        assert len(json.dumps(error.errors[0].received, allow_nan=False, ensure_ascii=False).encode()) < 400


@pytest.mark.parametrize(
    ("layer", "field"),
    [
        ({"epsilon": 1e-60}, "epsilon"),
        ({"epsilon": 1e300}, "epsilon"),
        (
            {"gamma_initializer": {"class_name": "Constant", "config": {"value": 1e300}}},
            "gamma_initializer.config.value",
        ),
    ],
)
def test_numbers_that_float32_cannot_hold_are_refused(layer: dict[str, Any], field: str) -> None:
    error = refusal({**BASE, "network": layers({"type": "batch_norm", **layer})})
    assert [each.field for each in error.errors] == [f"network.layers[0].{field}"]


NOT_YET: list[tuple[dict[str, Any], str]] = [
    ({"training": {"recalibrate": True}}, "training.recalibrate"),
    ({"training": {"class_weights": "balanced"}}, "training.class_weights"),
    ({"kind": "evaluate"}, "kind"),
    ({"init_from": {"model": "a", "version": "1"}}, "init_from"),
]


@pytest.mark.parametrize(("change", "field"), NOT_YET, ids=[each[1] for each in NOT_YET])
def test_what_is_known_and_not_built_is_called_not_supported(change: dict[str, Any], field: str) -> None:
    error = refusal({**BASE, **change})
    assert isinstance(error, NotSupported)
    assert [each.field for each in error.errors] == [field]
    assert "not supported yet" in error.errors[0].message


def test_plan_as_network_plans_to_itself() -> None:
    planned = plan({"preset": "cnn"}, (28, 28, 1))
    again = plan(planned.as_network().model_dump(mode="json"), (28, 28, 1))
    assert again == planned


def test_graph_joins_branches_by_name() -> None:
    spec = layers(
        {"type": "dense", "name": "a", "units": 8},
        {"type": "dense", "name": "b", "units": 8, "inputs": ["input"]},
        {"type": "add", "inputs": ["a", "b"]},
        {"type": "concatenate", "inputs": ["add", "a"]},
        {"type": "dense", "units": "classes"},
    )
    planned = plan(spec, (4,))
    assert [each.output_shape for each in planned.layers] == [(8,), (8,), (8,), (16,), (10,)]
    assert planned.layers[0].inputs == ("input",)


MISFITS: list[tuple[dict[str, Any], tuple[int, ...], str, str]] = [
    (layers({"type": "dense", "units": 3}), (28, 28, 1), "network.layers[0]", "Put a flatten layer before it"),
    (
        layers({"type": "conv2d", "filters": 3, "kernel_size": 3}),
        (20,),
        "network.layers[0]",
        "[height, width, channels]",
    ),
    (layers({"type": "conv2d", "filters": 3, "kernel_size": 9}), (8, 8, 1), "network.layers[0]", 'padding "same"'),
    (
        layers({"type": "batch_norm", "axis": 2}, {"type": "dense", "units": 10}),
        (20,),
        "network.layers[0].axis",
        "must be 1 or -1",
    ),
    (layers({"type": "dense", "units": 7}), (20,), "network.layers[0]", "the last layer must give [10]"),
    (layers({"type": "dense", "units": 10, "inputs": ["nobody"]}), (20,), "network.layers[0].inputs", "come before"),
    (
        layers({"type": "dense", "name": "x", "units": 1}, {"type": "dense", "name": "x", "units": 10}),
        (20,),
        "network.layers",
        "unique",
    ),
    (
        layers({"type": "dense", "units": 5}, {"type": "dense", "units": 10, "inputs": ["input"]}),
        (20,),
        "network.layers[0]",
        "feeds no layer",
    ),
    (
        layers(
            {"type": "dense", "name": "a", "units": 5},
            {"type": "dense", "name": "b", "units": 6, "inputs": ["input"]},
            {"type": "add", "inputs": ["a", "b"]},
        ),
        (20,),
        "network.layers[2].inputs",
        "one shape",
    ),
]


@pytest.mark.parametrize(("spec", "shape", "field", "message"), MISFITS)
def test_layer_that_does_not_fit_is_named(
    spec: dict[str, Any], shape: tuple[int, ...], field: str, message: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        plan(spec, shape)
    assert caught.value.errors[0].field == field
    assert message in caught.value.errors[0].message


def test_names_are_given_around_those_that_are_taken() -> None:
    spec = layers(
        {"type": "dense", "units": 4}, {"type": "dense", "units": 4, "name": "dense_1"}, {"type": "dense", "units": 10}
    )
    assert [each.name for each in plan(spec, (4,)).layers] == ["dense", "dense_1", "dense_2"]


def test_same_padding_rounds_up_and_valid_padding_rounds_down() -> None:
    spec = layers(
        {"type": "conv2d", "filters": 2, "kernel_size": 3, "strides": 2, "padding": "same"},
        {"type": "max_pool", "pool_size": [2, 3], "strides": 1},
        {"type": "global_average_pool"},
        {"type": "dense", "units": "classes"},
    )
    assert [each.output_shape for each in plan(spec, (7, 9, 3)).layers[:3]] == [(4, 5, 2), (3, 3, 2), (2,)]
