"""A request against its data set: losses, sizes, remarks."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from gammabeta.errors import InvalidRequest
from gammabeta.schemas.datasets import ArrayFile, Category, DatasetManifest, Feature, SplitFiles, Target
from gammabeta.schemas.jobs import JobRequest
from gammabeta.schemas.resolution import (
    Resolved,
    dry_run,
    input_shape,
    plan_of,
    plan_stored,
    resolve,
    steps_of,
    steps_per_epoch,
    validation_rows,
)


def manifest(classes: int | None = 3, n: int = 100, *, test: bool = True) -> DatasetManifest:
    """A table of a number, a number with holes, and a category with holes."""
    file = ArrayFile(sha256="0" * 64, bytes=1, dtype="float32", shape=(n, 3))
    split = SplitFiles(n=n, x=file, y=file)
    labels = None if classes is None else tuple(Category(label=str(i), count=n // classes) for i in range(classes))
    colours = (Category(label="blue", count=40), Category(label="red", count=50))
    return DatasetManifest(
        kind="table",
        features=(
            Feature(name="age", kind="numeric"),
            Feature(name="height", kind="numeric", missing=3),
            Feature(name="colour", kind="categorical", missing=10, categories=colours),
        ),
        target=Target(name="y", kind="number" if classes is None else "class", classes=labels),
        splits={"train": split, "test": split} if test else {"train": split},
    )


def resolved(data: DatasetManifest, **body: Any) -> Resolved:
    request = TypeAdapter(JobRequest).validate_python(
        {"dataset": "d", "model": "m", "network": {"preset": "mlp"}, **body}
    )
    return resolve(request, dataset_id="ds_1", manifest=data)


def refusal(data: DatasetManifest, **body: Any) -> tuple[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        resolved(data, **body)
    return caught.value.errors[0].field, caught.value.errors[0].message


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


def test_ragged_last_batch_is_merged_so_that_it_adds_no_step() -> None:
    assert [steps_per_epoch(n, 32) for n in (32, 63, 64, 65, 20)] == [1, 1, 2, 2, 1]
    got = resolved(manifest(), training={"epochs": 4, "batch_size": 32})
    assert steps_of(got.request.training, manifest()) == 8
    got = resolved(manifest(), training={"epochs": 4, "batch_size": 32, "max_steps": 5})
    assert steps_of(got.request.training, manifest()) == 5


def test_dry_run_warns_that_few_steps_leave_the_moving_statistics_cold() -> None:
    said = dry_run(resolved(manifest(), training={"epochs": 1}), manifest())
    warning = next(each for each in said.messages if each.code == "moving_statistics_cold")
    assert warning.severity == "warning"
    assert warning.field == "network.layers[1].momentum"
    assert "98%" in warning.message
    said = dry_run(resolved(manifest(), training={"epochs": 200}), manifest())
    assert "moving_statistics_cold" not in {each.code for each in said.messages}


def test_dry_run_points_out_a_bias_that_does_nothing() -> None:
    network = {"layers": [{"type": "dense", "units": 8}, {"type": "batch_norm"}, {"type": "dense", "units": "classes"}]}
    codes = {each.code for each in dry_run(resolved(manifest(), network=network), manifest()).messages}
    assert "redundant_bias" in codes
    codes = {each.code for each in dry_run(resolved(manifest()), manifest()).messages}
    assert "redundant_bias" not in codes


def test_dry_run_shows_both_momenta_and_the_variance_estimator() -> None:
    row = dry_run(resolved(manifest()), manifest()).layers[1]
    assert row.type == "batch_norm"
    assert row.details["momentum"] == 0.99
    assert row.details["torch_momentum"] == pytest.approx(0.01)
    assert row.details["moving_variance"] == "biased"


def test_dry_run_mentions_a_missing_test_split() -> None:
    data = manifest(test=False)
    assert "no_test_split" in {each.code for each in dry_run(resolved(data), data).messages}


def test_dry_run_warns_of_torchs_momentum() -> None:
    network = {"preset": "mlp", "batch_norm": {"momentum": 0.1}}
    said = dry_run(resolved(manifest(), network=network), manifest())
    (warning,) = [each for each in said.messages if each.code == "momentum_forgets"]
    assert "torch's 0.1 is 0.9 here" in warning.message
    assert "momentum_forgets" not in {each.code for each in dry_run(resolved(manifest()), manifest()).messages}


def test_dry_run_warns_of_a_warm_up_without_end() -> None:
    training = {"epochs": 4, "schedule": {"name": "constant", "warmup_steps": 500}}
    said = dry_run(resolved(manifest(), training=training), manifest())
    assert "warmup_never_ends" in {each.code for each in said.messages}


def test_remark_on_momentum_is_made_once_for_layers_that_are_alike() -> None:
    network = {"preset": "mlp", "hidden": [8, 8]}
    said = dry_run(resolved(manifest(), network=network, training={"epochs": 1}), manifest())
    (warning,) = [each for each in said.messages if each.code == "moving_statistics_cold"]
    assert "'batch_norm', 'batch_norm_1'" in warning.message
