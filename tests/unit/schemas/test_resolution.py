"""A request against its data set: losses, sizes, batches."""

from __future__ import annotations

from typing import Any

import pytest

from gammabeta.schemas.jobs import ResolvedTrainRequest
from gammabeta.schemas.resolution import dry_run, input_shape, plan_of, plan_stored, steps_of, validation_rows
from tests.unit.schemas.manifests import images, manifest, refusal, resolved


def test_input_has_a_number_per_numeric_column_and_per_category_and_a_place_for_missing_ones() -> None:
    assert input_shape(manifest()) == (1 + 1 + 2 + 1,)


@pytest.mark.parametrize(
    ("classes", "network", "loss", "task", "outputs"),
    [
        (3, {"preset": "mlp"}, "sparse_categorical_crossentropy", "classes", 3),
        (2, {"preset": "mlp"}, "sparse_categorical_crossentropy", "classes", 2),
        (2, {"layers": [{"type": "dense", "units": 1}]}, "binary_crossentropy", "binary", 1),
        (
            2,
            {"layers": [{"type": "dense", "units": 1}, {"type": "activation", "function": "sigmoid"}]},
            "binary_crossentropy",
            "binary",
            1,
        ),
        (None, {"preset": "mlp"}, "mean_squared_error", "number", 1),
    ],
)
def test_auto_loss_follows_target_and_last_layer(
    classes: int | None, network: dict[str, Any], loss: str, task: str, outputs: int
) -> None:
    got = resolved(manifest(classes), network=network)
    assert (got.request.training.loss, got.task, got.plan.outputs) == (loss, task, outputs)


def test_binary_loss_makes_classes_mean_one_number() -> None:
    got = resolved(manifest(2), training={"loss": "binary_crossentropy"})
    assert got.plan.layers[-1].output_shape == (1,)


def test_resolved_request_plans_to_the_same_network_in_the_trainer() -> None:
    data = manifest()
    got = resolved(data)
    assert plan_of(got.request, data) == (got.plan, got.task)


def test_limit_of_seconds_is_resolved_and_a_request_stored_without_one_is_read() -> None:
    data = manifest()
    assert resolved(data, max_seconds=60).request.max_seconds == 60
    stored = resolved(data).request.model_dump(mode="json")
    del stored["max_seconds"]
    assert ResolvedTrainRequest.model_validate(stored) == resolved(data).request


def test_stored_network_plans_to_the_same_without_the_data() -> None:
    data = manifest()
    got = resolved(data)
    stored = plan_stored(got.request.network, input_shape=input_shape(data), classes=data.target.labels)
    assert stored == (got.plan, got.task)


REFUSED: list[tuple[int | None, dict[str, Any], str, str]] = [
    (3, {"training": {"batch_size": 91}}, "training.batch_size", "at most the 90 rows"),
    (3, {"training": {"loss": "huber"}}, "training.loss", "a loss for classes"),
    (3, {"training": {"loss": "binary_crossentropy"}}, "training.loss", "needs two classes; the target has 3"),
    (None, {"training": {"loss": "binary_crossentropy"}}, "training.loss", "a loss for numbers"),
    (
        None,
        {"training": {"early_stopping": {"metric": "val_accuracy"}}},
        "training.early_stopping.metric",
        "val_loss, val_mae, val_rmse",
    ),
    (3, {"preprocessing": {"missing": "error"}}, "preprocessing.missing", "column 'height' has 3"),
    (
        3,
        {"network": {"layers": [{"type": "dense", "units": "classes"}, {"type": "activation", "function": "sigmoid"}]}},
        "network.layers[1].function",
        "must be softmax",
    ),
]


@pytest.mark.parametrize(("classes", "body", "field", "message"), REFUSED)
def test_request_that_does_not_fit_the_data_is_refused(
    classes: int | None, body: dict[str, Any], field: str, message: str
) -> None:
    got_field, got_message = refusal(manifest(classes), **body)
    assert got_field == field
    assert message in got_message


@pytest.mark.parametrize(
    ("n", "fraction", "rows"), [(100, 0.1, 10), (100, 0.0, 0), (3, 0.1, 1), (2, 0.5, 1), (60000, 0.1, 6000)]
)
def test_validation_takes_at_least_one_row_and_never_all(n: int, fraction: float, rows: int) -> None:
    assert validation_rows(n, fraction) == rows


@pytest.mark.parametrize(("last", "steps"), [("merge", 8), ("drop", 8), ("keep", 12)])
def test_steps_of_a_run_count_the_last_batch_as_it_is_cut(last: str, steps: int) -> None:
    training = {"epochs": 4, "batch_size": 32, "last_batch": last}
    got = resolved(manifest(), training=training)
    assert steps_of(got.request.training, got.plan, manifest()) == steps
    assert dry_run(got, manifest()).steps == steps
    got = resolved(manifest(), training={**training, "max_steps": 5})
    assert steps_of(got.request.training, got.plan, manifest()) == 5


@pytest.mark.parametrize("last", ["merge", "drop", "keep"])
@pytest.mark.parametrize("n", [2, 3, 7])
def test_two_rows_are_enough_to_train_on(n: int, last: str) -> None:
    training = {"validation_fraction": 0, "batch_size": n - n % 2, "last_batch": last}
    got = resolved(manifest(n=n), training=training)
    assert steps_of(got.request.training, got.plan, manifest(n=n)) >= 1


@pytest.mark.parametrize(
    ("n", "told"), [(1, "has 1, of which 0 are for validation. Add rows."), (2, 'or write "validation_fraction": 0.')]
)
def test_one_row_to_train_on_is_refused_with_advice(n: int, told: str) -> None:
    field, message = refusal(manifest(n=n), training={"batch_size": 1})
    assert field == "dataset"
    assert "at least 2 rows to train on" in message
    assert told in message


def ghosts(rows: int, **more: Any) -> dict[str, Any]:
    return {"preset": "mlp", "batch_norm": {"virtual_batch_size": rows, **more}}


@pytest.mark.parametrize(
    ("size", "ghost", "advice"),
    [
        (32, 5, "Write 4 or a batch_size of 30, or leave it out."),
        (32, 64, "Write 32 or a batch_size of 64, or leave it out."),
        (7, 3, "Write 7 or a batch_size of 6, or leave it out."),
        (1, 2, "Write a batch_size of 2, or leave it out."),
        (32, 128, "Write 32, or leave it out."),
        (1, 95, "of 95. Leave it out."),
    ],
)
def test_ghost_batches_that_do_not_divide_the_batch_are_refused_with_advice(size: int, ghost: int, advice: str) -> None:
    field, message = refusal(manifest(), network=ghosts(ghost), training={"batch_size": size})
    assert field == "network.batch_norm.virtual_batch_size"
    assert (
        f"must divide batch_size {size} (layer 'batch_norm'): batches of {size} are not whole ghost batches of {ghost}."
        in message
    )
    assert advice in message


def test_ghost_batches_of_a_layer_are_refused_where_it_stands() -> None:
    network = {"layers": [{"type": "batch_norm", "virtual_batch_size": 5}, {"type": "dense", "units": "classes"}]}
    assert refusal(manifest(), network=network)[0] == "network.layers[0].virtual_batch_size"


def test_frozen_layer_makes_no_ghost_batches_and_may_have_any_size_of_them() -> None:
    got = resolved(manifest(), network=ghosts(5, trainable=False), training={"batch_size": 32})
    assert got.plan.batch_norms[0].spec.type == "batch_norm"


IMAGE_NETWORK: list[dict[str, Any]] = [
    {"type": "flatten"},
    {"type": "dense", "units": "classes"},
]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, {"axis": 3, "fused_effective": True, "variance_estimator": "unbiased", "values_per_channel": 32 * 16}),
        ({"axis": 1}, {"axis": 1, "fused_effective": True, "values_per_channel": 32 * 12}),
        ({"axis": 2}, {"axis": 2, "fused_effective": False, "variance_estimator": "biased"}),
        ({"axis": [-1, 1]}, {"axis": [1, 3], "fused_effective": False, "values_per_channel": 32 * 4}),
        ({"fused": False}, {"fused_effective": False, "variance_estimator": "biased", "arguments": {}}),
        ({"renorm": True}, {"variance_estimator": "renorm", "fused_effective": False, "arguments": {"renorm": True}}),
        (
            {"virtual_batch_size": 8, "gamma_regularizer": "l2", "momentum": 0.9},
            {
                "values_per_channel": 8 * 16,
                "momentum": 0.9,
                "torch_momentum": pytest.approx(0.1),
                "arguments": {
                    "virtual_batch_size": 8,
                    "momentum": 0.9,
                    "gamma_regularizer": {"class_name": "L1L2", "config": {"l1": 0.0, "l2": 0.01}},
                },
            },
        ),
        ({"adjustment": {"kind": "uniform", "bias": [-1, 1]}, "name": "n"}, {"fused_effective": False}),
    ],
)
def test_dry_run_describes_a_batch_norm(arguments: dict[str, Any], expected: dict[str, Any]) -> None:
    network = {"layers": [{"type": "batch_norm", **arguments}, *IMAGE_NETWORK]}
    details = dry_run(resolved(images(), network=network), images()).layers[0].details
    assert {key: details[key] for key in expected} == expected
    assert details["torch_momentum"] == pytest.approx(1 - details["momentum"])


def test_dry_run_shows_an_adjustment_although_its_parts_are_at_their_defaults() -> None:
    network = {"layers": [{"type": "batch_norm", "adjustment": {"kind": "uniform", "bias": [-1, 1]}}, *IMAGE_NETWORK]}
    details = dry_run(resolved(images(), network=network), images()).layers[0].details
    assert details["arguments"]["adjustment"]["kind"] == "uniform"


def test_memory_counts_the_padding_of_a_window_that_reaches_far_beyond_its_input() -> None:
    def needed(dilation: int) -> int:
        layer = {"type": "conv2d", "filters": 1, "kernel_size": 65, "dilation_rate": dilation, "padding": "same"}
        got = resolved(images(), network={"layers": [layer, *IMAGE_NETWORK]}, training={"batch_size": 45})
        return dry_run(got, images()).memory_bytes

    assert needed(10) - needed(1) == 4 * 2 * 45 * 3 * ((4 + 640) ** 2 - (4 + 64) ** 2)


def test_dry_run_says_nothing_more_of_layers_without_statistics() -> None:
    assert dry_run(resolved(manifest()), manifest()).layers[0].details == {}
