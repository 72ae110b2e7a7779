"""What the dry run tells of a run before it begins."""

from __future__ import annotations

import re
from typing import Any

import pytest

from gammabeta.schemas.datasets import DatasetManifest
from gammabeta.schemas.jobs import Message
from gammabeta.schemas.resolution import dry_run
from tests.unit.schemas.manifests import images, manifest, resolved

OUTPUT = {"type": "dense", "units": "classes"}
GENERAL = {"moving_statistics_cold"}
"""What any short run is told."""


def said(data: DatasetManifest | None = None, **body: Any) -> dict[str, Message]:
    """Remarks by their codes, each of which must come once."""
    data = data or manifest()
    messages = dry_run(resolved(data, **body), data).messages
    assert len({each.code for each in messages}) == len(messages)
    return {each.code: each for each in messages if each.code not in GENERAL}


def norm(**arguments: Any) -> dict[str, Any]:
    """A network with the arguments in its only batch norm."""
    return {"preset": "mlp", "hidden": [64], "batch_norm": {"momentum": 0.9, **arguments}}


def test_ordinary_run_is_told_nothing() -> None:
    assert said() == {}


def test_few_steps_leave_the_moving_statistics_cold() -> None:
    messages = dry_run(resolved(manifest(), training={"epochs": 1}), manifest()).messages
    (warning,) = [each for each in messages if each.code == "moving_statistics_cold"]
    assert (warning.severity, warning.field) == ("warning", "network.batch_norm")
    assert "98%" in warning.message
    messages = dry_run(resolved(manifest(), training={"epochs": 200}), manifest()).messages
    assert messages == ()


def test_torchs_momentum_is_pointed_out() -> None:
    warning = said(network=norm(momentum=0.1))["momentum_forgets"]
    assert "torch's 0.1 is 0.9 here" in warning.message


def test_momentum_of_zero_keeps_the_last_batch_and_is_not_taken_for_torchs() -> None:
    message = said(network=norm(momentum=0))["momentum_forgets"].message
    assert "will forget all but the last batch. Write 0.99" in message
    assert "torch" not in message


def test_momentum_of_one_is_never_helped_by_more_steps() -> None:
    messages = dry_run(resolved(manifest(), network=norm(momentum=1)), manifest()).messages
    (warning,) = [each for each in messages if each.code == "moving_statistics_cold"]
    assert "keep their initial values however long the run" in warning.message
    assert "more steps" not in warning.message


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, True),
        ({"renorm": True}, True),
        ({"moving_mean_initializer": [0.5] * 64}, False),
        ({"moving_variance_initializer": {"class_name": "Constant", "config": {"value": 4}}}, False),
    ],
)
def test_layer_that_is_frozen_from_scratch_normalizes_nothing(arguments: dict[str, Any], told: bool) -> None:
    warning = said(network=norm(trainable=False, **arguments)).get("frozen_from_scratch")
    assert (warning is not None) is told
    if warning is not None:
        assert (warning.field, warning.severity) == ("network.batch_norm.trainable", "warning")
        assert "'batch_norm' will normalize nothing: the moving statistics stay 0 and 1" in warning.message


def test_remark_is_made_once_for_layers_that_are_alike() -> None:
    messages = dry_run(resolved(manifest(), network={"preset": "mlp", "hidden": [8, 8]}), manifest()).messages
    (warning,) = [each for each in messages if each.code == "moving_statistics_cold"]
    assert "'batch_norm', 'batch_norm_1'" in warning.message


@pytest.mark.parametrize(
    ("network", "field"),
    [
        ({"preset": "mlp"}, "network.batch_norm"),
        ({"preset": "mlp", "batch_norm": ["after_activation"]}, "network.batch_norm"),
        ({"preset": "mlp", "batch_norm": {}}, "network.batch_norm.momentum"),
        ({"layers": [{"type": "batch_norm"}, OUTPUT]}, "network.layers[0].momentum"),
    ],
)
def test_remark_names_a_field_that_the_request_has(network: dict[str, Any], field: str) -> None:
    messages = dry_run(resolved(manifest(), network=network), manifest()).messages
    assert [each.field for each in messages] == [field]


def test_remark_on_many_layers_names_the_first_and_counts_the_others() -> None:
    network = {"preset": "mlp", "hidden": [8] * 9, "batch_norm": {"momentum": 0.1}}
    assert "'batch_norm', 'batch_norm_1', 'batch_norm_2' and 6 more will forget" in (
        said(network=network)["momentum_forgets"].message
    )


ONE_VALUE: list[tuple[dict[str, Any], dict[str, Any], str, str]] = [
    ({}, {"batch_size": 1}, "training.batch_size", "batches of one row"),
    ({}, {"batch_size": 8, "last_batch": "keep", "validation_fraction": 0.19}, "training.last_batch", "The last batch"),
    ({"virtual_batch_size": 1}, {}, "network.batch_norm.virtual_batch_size", "ghost batches of one row"),
    ({"virtual_batch_size": 1}, {"batch_size": 1}, "training.batch_size", "batches of one row"),
]


@pytest.mark.parametrize(("arguments", "training", "field", "told"), ONE_VALUE)
def test_one_value_per_channel_is_told_with_what_follows(
    arguments: dict[str, Any], training: dict[str, Any], field: str, told: str
) -> None:
    warning = said(network=norm(**arguments), training=training)["one_value_per_channel"]
    assert (warning.field, warning.severity) == (field, "warning")
    assert told in warning.message
    assert "y = beta whatever comes in, and the moving variance does not move" in warning.message


def test_corrections_are_added_where_there_is_one_value_per_channel() -> None:
    network = norm(renorm=True, renorm_clipping={"rmax": 2, "rmin": "1/rmax", "dmax": 1})
    warning = said(network=network, training={"batch_size": 1})["one_value_per_channel"]
    assert "y = beta + what renorm adds whatever comes in" in warning.message


@pytest.mark.parametrize(
    ("data", "network", "training"),
    [
        (manifest(), norm(trainable=False), {"batch_size": 1}),
        (manifest(), {"layers": [OUTPUT]}, {"batch_size": 1}),
        (manifest(), norm(), {"batch_size": 8, "last_batch": "merge", "validation_fraction": 0.19}),
        (manifest(), norm(), {"batch_size": 8, "last_batch": "keep", "validation_fraction": 0.19, "max_steps": 5}),
        (
            images(),
            {"layers": [{"type": "batch_norm", "momentum": 0.9}, {"type": "flatten"}, OUTPUT]},
            {"batch_size": 1},
        ),
    ],
)
def test_more_than_one_value_per_channel_is_not_mentioned(
    data: DatasetManifest, network: dict[str, Any], training: dict[str, Any]
) -> None:
    assert "one_value_per_channel" not in said(data, network=network, training=training)


def test_axis_decides_how_many_values_a_channel_has() -> None:
    every_place = {"type": "batch_norm", "momentum": 0.9, "axis": [1, 2, 3]}
    network = {"layers": [every_place, {"type": "flatten"}, OUTPUT]}
    assert "one_value_per_channel" in said(images(), network=network, training={"batch_size": 1})


def test_dropped_rows_are_counted() -> None:
    info = said(training={"batch_size": 32, "last_batch": "drop"})["rows_left_out"]
    assert (info.severity, info.field) == ("info", "training.last_batch")
    assert "leaves out 26 of the 90 rows" in info.message


def test_rows_that_fill_no_ghost_batch_are_counted() -> None:
    warning = said(network=norm(virtual_batch_size=16), training={"batch_size": 32})["rows_left_out"]
    assert (warning.severity, warning.field) == ("warning", "network.batch_norm.virtual_batch_size")
    assert "leaves out 10 of the 90 rows" in warning.message
    assert "whole ghost batches of 'batch_norm', too" in warning.message
    assert "Write a virtual_batch_size of 18 and a batch_size of 36 to train on all." in warning.message


@pytest.mark.parametrize(
    ("rows", "ghost", "size", "severity", "told"),
    [
        (90, 2, 32, None, ""),
        (96, 24, 48, None, ""),
        (112, 32, 64, "warning", "Write a virtual_batch_size of 16 to train on all."),
        (89, 16, 32, "warning", "Over some epochs, all are trained on."),
        (990, 16, 32, "info", "That does little harm."),
    ],
)
def test_ghost_batches_that_are_advised_are_not_small(
    rows: int, ghost: int, size: int, severity: str | None, told: str
) -> None:
    training = {"batch_size": size, "validation_fraction": 0}
    got = said(manifest(n=rows), network=norm(virtual_batch_size=ghost), training=training).get("rows_left_out")
    assert (got and got.severity) == severity
    assert got is None or got.message.endswith(told)


def test_advice_on_ghost_batches_leaves_no_rows_out() -> None:
    for rows in range(64, 200):
        for ghost in (4, 16, 32):
            training: dict[str, Any] = {"batch_size": 64, "validation_fraction": 0}
            got = said(manifest(n=rows), network=norm(virtual_batch_size=ghost), training=training).get("rows_left_out")
            advised = dict(re.findall(r"(virtual_batch_size|batch_size) of (\d+)", got.message)) if got else {}
            if advised:
                other = int(advised["virtual_batch_size"])
                training["batch_size"] = int(advised.get("batch_size", 64))
                codes = said(manifest(n=rows), network=norm(virtual_batch_size=other), training=training)
                assert other >= 16
                assert not codes.keys() & {"rows_left_out", "small_ghost_batches"}


@pytest.mark.parametrize(("largest", "image", "told"), [(16, "unit", True), (255, "unit", False), (16, "none", False)])
def test_images_of_small_values_are_not_for_unit(largest: float, image: str, told: bool) -> None:
    data = images(largest=largest)
    info = said(data, network={"layers": [{"type": "flatten"}, OUTPUT]}, preprocessing={"image": image}).get(
        "image_scale"
    )
    assert (info is not None) is told
    if info is not None:
        assert (info.severity, info.field) == ("info", "preprocessing.image")
        assert 'is 16, and unit divides by 255, which leaves at most 0.063. Write "image": "standard".' in info.message


@pytest.mark.parametrize(
    ("axis", "place"), [(1, "height"), (2, "width"), (-3, "height"), (3, None), (-1, None), ([1, 2], None)]
)
def test_axis_of_channels_first_is_pointed_out(axis: object, place: str | None) -> None:
    layers = [{"type": "batch_norm", "momentum": 0.9, "axis": axis}, {"type": "flatten"}, OUTPUT]
    info = said(images(), network={"layers": layers}).get("axis_is_not_channels")
    assert (info is not None) is (place is not None)
    if info is not None:
        assert (info.severity, info.field) == ("info", "network.layers[0].axis")
        assert f"is the {place}. Keras' channels_first axis 1 is -1 here." in info.message


@pytest.mark.parametrize(
    "training", [{"batch_size": 30, "last_batch": "drop"}, {"batch_size": 32, "last_batch": "keep"}]
)
def test_nothing_is_said_where_all_rows_are_trained_on(training: dict[str, Any]) -> None:
    assert "rows_left_out" not in said(training=training)


def test_small_ghost_batches_make_the_moving_variance_small() -> None:
    warning = said(network=norm(virtual_batch_size=4))["small_ghost_batches"]
    assert warning.severity == "warning"
    assert "with 4 values per channel" in warning.message
    assert "75%" in warning.message
    assert "small_ghost_batches" not in said(network=norm(virtual_batch_size=16))


def renorm(clipping: object = None) -> dict[str, Any]:
    return norm(renorm=True, renorm_clipping=clipping)


@pytest.mark.parametrize(
    ("clipping", "codes"),
    [
        (None, {"renorm_without_clipping"}),
        ({"rmin": 0}, {"renorm_without_clipping"}),
        ({"rmax": 3, "dmax": 5}, {"renorm_rmin_is_zero"}),
        ({"rmax": [[0, 1], [9, 3]], "dmax": 0}, {"renorm_rmin_is_zero"}),
        ({"rmax": 3, "rmin": 0}, set()),
        ({"rmax": 3, "rmin": "1/rmax", "dmax": 5}, set()),
        ({"rmax": [[0, 1], [19, 3]], "rmin": "1/rmax"}, set()),
        ({"rmax": [[0, 1], [20, 3]], "rmin": "1/rmax"}, {"renorm_schedule_unreached"}),
        ({"dmax": [[5000, 2]]}, set()),
        ("paper", {"renorm_schedule_unreached"}),
    ],
)
def test_bounds_of_renorm_that_surprise_are_pointed_out(clipping: object, codes: set[str]) -> None:
    got = said(network=renorm(clipping))  # 20 steps
    assert set(got) == codes
    assert all(each.field == "network.batch_norm.renorm_clipping" for each in got.values())


def test_schedule_that_never_opens_is_plain_batch_norm() -> None:
    info = said(network=renorm("paper"))["renorm_schedule_unreached"]
    assert info.severity == "info"
    assert "r is kept in [1, 1] and d within ±0, which is plain batch norm" in info.message
    halfway = said(network=renorm({"rmax": [[0, 1], [38, 3]], "rmin": "1/rmax"}))["renorm_schedule_unreached"]
    assert "r is kept in [0.5, 2] and d within ±inf." in halfway.message


def test_frozen_renorm_needs_no_bounds() -> None:
    assert set(said(network=norm(renorm=True, trainable=False))) == {"frozen_from_scratch"}


def test_renorm_without_bounds_begins_with_the_averages_that_were_given() -> None:
    assert "0 and 1, so that nothing is normalized" in said(network=renorm())["renorm_without_clipping"].message
    network = norm(renorm=True, moving_mean_initializer="ones")
    assert "begin with what the initializers give" in said(network=network)["renorm_without_clipping"].message


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"gamma_constraint": "max_norm"}, True),
        ({"gamma_constraint": "unit_norm"}, True),
        ({"gamma_constraint": {"class_name": "MaxNorm", "config": {"max_value": 8}}}, False),
        ({"gamma_constraint": "max_norm", "virtual_batch_size": 32}, False),
        ({"gamma_constraint": "non_neg"}, False),
        ({"beta_constraint": "max_norm"}, False),
    ],
)
def test_norm_of_all_channels_together_is_pointed_out_where_it_shrinks_gamma(
    arguments: dict[str, Any], told: bool
) -> None:
    info = said(network=norm(**arguments)).get("norm_over_all_channels")
    assert (info is not None) is told
    if info is not None:
        assert info.field == "network.batch_norm.gamma_constraint"
        assert "that of 64 ones is 8" in info.message.lower()


def biased(*between: dict[str, Any], **arguments: Any) -> dict[str, Any]:
    layers = [{"type": "dense", "units": 8}, *between, {"type": "batch_norm", "momentum": 0.9, **arguments}, OUTPUT]
    return {"layers": layers}


def test_bias_that_does_nothing_is_pointed_out() -> None:
    info = said(network=biased())["redundant_bias"]
    assert (info.severity, info.field) == ("info", "network.layers[0].use_bias")
    assert "'dense' before 'batch_norm'" in info.message


@pytest.mark.parametrize(
    "network",
    [
        biased({"type": "activation", "function": "relu"}),
        biased(center=False),
        biased(trainable=False),
        biased(renorm=True),
        {
            "layers": [
                {"type": "dense", "units": 8},
                {"type": "batch_norm", "momentum": 0.9},
                {"type": "add", "inputs": ["dense", "batch_norm"]},
                OUTPUT,
            ]
        },
    ],
)
def test_bias_that_does_something_is_left_alone(network: dict[str, Any]) -> None:
    assert "redundant_bias" not in said(network=network)


def test_bias_of_a_convolution_is_redundant_only_where_its_channels_are_centred() -> None:
    def network(axis: int) -> dict[str, Any]:
        layers = [{"type": "conv2d", "filters": 2, "kernel_size": 3}, {"type": "batch_norm", "axis": axis}]
        return {"layers": [*layers, {"type": "flatten"}, OUTPUT]}

    assert "redundant_bias" in said(images(), network=network(-1))
    assert "redundant_bias" not in said(images(), network=network(1))


def test_warm_up_without_end_is_pointed_out() -> None:
    training = {"epochs": 4, "schedule": {"name": "constant", "warmup_steps": 500}}
    assert "warmup_never_ends" in said(training=training)


def test_missing_test_split_is_mentioned() -> None:
    assert set(said(manifest(test=False))) == {"no_test_split"}
