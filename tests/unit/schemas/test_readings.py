"""How a version reads a data set: by names and labels, whatever their order; and what it refuses."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from gammabeta.errors import InvalidRequest
from gammabeta.schemas import readings
from gammabeta.schemas.datasets import Category, DatasetManifest, Feature, Target
from gammabeta.schemas.jobs import JobRequest, PredictDatasetRequest
from gammabeta.schemas.models import Version
from gammabeta.schemas.preprocessing import (
    CategoricalColumn,
    FittedArray,
    FittedImage,
    FittedPreprocessing,
    FittedTable,
    NumericColumn,
)
from gammabeta.schemas.problems import invalid
from tests.unit.schemas.manifests import images, manifest

TABLE = FittedTable(
    columns=(
        CategoricalColumn(name="colour", categories=("red", "green", "blue")),
        NumericColumn(name="age", fill=30.0),
    )
)


def version(preprocessing: FittedPreprocessing = TABLE, classes: tuple[str, ...] | None = ("0", "1", "2")) -> Version:
    return Version.model_validate(
        {
            "model": "m",
            "version": "3",
            "job": "job_1",
            "dataset": "ds_0",
            "created_at": datetime.now(UTC),
            "network": {"layers": [{"type": "dense", "units": 3}]},
            "preprocessing": preprocessing,
            "classes": classes,
            "metrics": {},
            "weights_sha256": "0" * 64,
            "batchnorm_digest": "sha256:0",
            "parameters": 1,
        }
    )


def request(**changes: Any) -> PredictDatasetRequest:
    found = TypeAdapter(JobRequest).validate_python({"kind": "predict", "model": "m", "dataset": "d", **changes})
    assert isinstance(found, PredictDatasetRequest)
    return found


def resolved(data: DatasetManifest, made: Version, **changes: Any) -> Any:
    return readings.resolve(request(**changes), version=made, dataset_id="ds_1", manifest=data)


def refusal(data: DatasetManifest, preprocessing: FittedPreprocessing, **changes: Any) -> tuple[str, str, str]:
    with pytest.raises(InvalidRequest) as caught:
        resolved(data, version(preprocessing), **changes)
    (error,) = caught.value.errors
    return error.field, error.message, str(error.received)


def table(*columns: Any) -> FittedTable:
    return FittedTable(columns=columns)


def test_every_name_is_settled_when_it_is_submitted() -> None:
    found = resolved(manifest(), version(), format="parquet", max_seconds=60, metadata={"team": "a"})
    assert found.model_dump(mode="json") == {
        "kind": "predict",
        "model": "m",
        "version": "3",
        "dataset": "ds_1",
        "split": "test",
        "format": "parquet",
        "priority": 0,
        "max_seconds": 60,
        "metadata": {"team": "a"},
    }
    assert found.file == "predictions.parquet"


def test_without_a_test_split_the_training_split_is_answered() -> None:
    assert resolved(manifest(test=False), version()).split == "train"


def test_a_split_that_is_not_there_is_refused_by_those_that_are() -> None:
    field, message, received = refusal(manifest(test=False), TABLE, split="test")
    assert (field, received) == ("split", "test")
    assert message.endswith("which is train")


def test_columns_are_found_by_their_names_and_categories_by_their_labels() -> None:
    found = readings.reading(TABLE, manifest())
    assert found.places == (2, 0)
    assert found.codes == ((0, (2, 0)),)  # the data set counts blue, red


def test_a_category_that_the_model_has_not_seen_is_unknown() -> None:
    only_red = table(CategoricalColumn(name="colour", categories=("red",)))
    assert readings.reading(only_red, manifest()).codes == ((0, (readings.UNKNOWN, 0)),)


@pytest.mark.parametrize(
    ("column", "said", "received"),
    [
        (NumericColumn(name="weight", fill=0.0), "'weight'", "'age', 'height', 'colour'"),
        (NumericColumn(name="y", fill=0.0), "'y' is the target here", "'age', 'height', 'colour'"),
        (NumericColumn(name="colour", fill=0.0), "numbers in column 'colour'", "categories"),
        (CategoricalColumn(name="age", categories=("1",)), "Upload the file with categorical=age", "numbers"),
    ],
)
def test_a_column_that_does_not_fit_is_named(column: Any, said: str, received: str) -> None:
    field, message, got = refusal(manifest(), table(column))
    assert field == "dataset"
    assert said in message
    assert received in got


def test_missing_values_are_refused_where_the_model_was_trained_to_refuse_them() -> None:
    strict = table(NumericColumn(name="height", fill=None))
    assert "'height'" in refusal(manifest(), strict, split="train")[1]
    assert resolved(manifest(), version(strict), split="test").split == "test"


@pytest.mark.parametrize(
    ("data", "preprocessing", "received"),
    [
        (images(), FittedImage(shape=(4, 4)), "an image of shape [4, 4, 3]"),
        (images(), FittedArray(shape=(4, 4, 3)), "an image of shape [4, 4, 3]"),
        (images(), TABLE, "an image of shape [4, 4, 3]"),
        (manifest(), FittedImage(shape=(3,)), "a table with the columns 'age', 'height', 'colour'"),
    ],
)
def test_rows_of_another_shape_are_refused(
    data: DatasetManifest, preprocessing: FittedPreprocessing, received: str
) -> None:
    assert refusal(data, preprocessing)[::2] == ("dataset", received)


def test_images_of_the_models_shape_are_read_as_they_are() -> None:
    assert readings.reading(FittedImage(shape=(4, 4, 3)), images()) == readings.Reading()


@pytest.mark.parametrize(
    ("classes", "labels", "codes"),
    [
        (("0", "1", "2"), ("2", "0"), (2, 0)),
        (("0", "1"), ("2", "0"), None),
        (("0", "1"), None, None),
        (None, ("0", "1"), None),
        (None, None, ()),
    ],
)
def test_answers_are_measured_where_the_model_knows_every_target(
    classes: tuple[str, ...] | None, labels: tuple[str, ...] | None, codes: tuple[int, ...] | None
) -> None:
    counted = None if labels is None else tuple(Category(label=each, count=1) for each in labels)
    target = Target(name="y", kind="number" if labels is None else "class", classes=counted)
    assert readings.target_codes(classes, target) == codes


def test_a_dry_run_says_what_the_file_would_be() -> None:
    data, made = manifest(), version()
    found = readings.dry_run(resolved(data, made), made, data)
    assert (found.rows, found.unused, found.measured) == (100, ("height",), True)
    assert found.columns == ("row", "label", "score_0", "score_1", "score_2", "target")


def test_no_two_columns_of_a_file_share_a_name_whatever_the_classes_are_called() -> None:
    names = readings.columns(("row", "label", "target", "value", "score_row", ""))
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"model": "a/b"}, "model"),
        ({"dataset": None}, "dataset"),
        ({"split": "validation"}, "split"),
        ({"format": "xlsx"}, "format"),
        ({"max_seconds": 0}, "max_seconds"),
        ({"priority": 1_001}, "priority"),
        ({"metadata": {"": "a"}}, "metadata"),
        ({"network": {}}, "network"),
    ],
)
def test_a_wrong_field_of_a_request_is_named(body: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        request(**body)
    assert [each.field for each in invalid(caught.value).errors] == [field]


def test_a_feature_without_a_name_in_the_model_is_left_unread() -> None:
    data = manifest()
    more = data.model_copy(update={"features": (*data.features, Feature(name="extra", kind="numeric"))})
    assert readings.reading(TABLE, more).places == (2, 0)
