"""Census income: mixed columns, missing values, a test file of its own."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.stack import Stack

PERSON: dict[str, Any] = {
    "age": 39,
    "workclass": "State-gov",
    "fnlwgt": 77516,
    "education": "Bachelors",
    "education_num": 13,
    "marital_status": "Never-married",
    "occupation": "Adm-clerical",
    "relationship": "Not-in-family",
    "race": "White",
    "sex": "Male",
    "capital_gain": 2174,
    "capital_loss": 0,
    "hours_per_week": 40,
    "native_country": "United-States",
}


@pytest.fixture(scope="module")
def adult(stack: Stack, data: Path) -> dict[str, Any]:
    """The data set with both files, and the model `income` trained on it."""
    first = stack.upload((data / "adult-train.csv").read_bytes(), name="adult", format="csv", target="income")
    assert first["state"] == "ready", first
    both = stack.upload((data / "adult-test.csv").read_bytes(), format="csv", split="test", of=first["id"])
    assert both["id"] == first["id"]
    job = stack.finished(
        stack.submit(
            dataset="adult",
            model="income",
            network={"preset": "mlp", "hidden": [64, 32], "batch_norm": "before_activation"},
            training={"epochs": 10, "batch_size": 128, "optimizer": {"name": "adam"}, "seed": 1},
        )
    )
    assert job["status"] == "succeeded", job
    return both


def test_both_files_are_described(adult: dict[str, Any]) -> None:
    assert adult["splits"] == {"train": 32_561, "test": 16_281}
    features = {each["name"]: each for each in adult["features"]}
    assert features["age"]["kind"] == "numeric"
    assert features["workclass"]["kind"] == "categorical"
    assert features["workclass"]["missing"] > 0
    assert {each["label"] for each in adult["target"]["classes"]} == {"<=50K", ">50K"}


def test_test_accuracy_is_that_of_a_good_tabular_network(stack: Stack, adult: dict[str, Any]) -> None:
    newest = stack.http.get("/v1/models/income").json()["versions"][0]
    assert newest["metrics"]["test"]["n"] == 16_281
    assert newest["metrics"]["test"]["accuracy"] >= 0.845


def test_predictions_of_the_test_file_count_as_the_job_counted(stack: Stack, adult: dict[str, Any], data: Path) -> None:
    with (data / "adult-test.csv").open() as file:
        rows = list(csv.DictReader(file))
    numeric = {each["name"] for each in adult["features"] if each["kind"] == "numeric"}
    truth = [row.pop("income") for row in rows]
    records = [
        {key: (float(cell) if key in numeric else cell) if cell else None for key, cell in row.items()} for row in rows
    ]
    right = 0
    for start in range(0, len(records), 4_000):
        answer = stack.predict("income", records[start : start + 4_000])
        labels = [each["label"] for each in answer["predictions"]]
        right += sum(a == b for a, b in zip(labels, truth[start : start + 4_000], strict=True))
    newest = stack.http.get("/v1/models/income").json()["versions"][0]
    assert right == newest["metrics"]["test"]["correct"]


def test_record_in_any_key_order_and_a_list_in_feature_order_agree(stack: Stack, adult: dict[str, Any]) -> None:
    record = stack.predict("income", [PERSON])["predictions"]
    backwards = stack.predict("income", [dict(reversed(PERSON.items()))])["predictions"]
    row = stack.predict("income", [[PERSON[each["name"]] for each in adult["features"]]])["predictions"]
    assert record == backwards == row


def test_unseen_category_and_missing_values_predict(stack: Stack, adult: dict[str, Any]) -> None:
    strange = PERSON | {"workclass": "Astronaut", "age": None}
    del strange["occupation"]
    (prediction,) = stack.predict("income", [strange])["predictions"]
    assert sum(prediction["scores"]) == pytest.approx(1, abs=1e-5)
    assert prediction["label"] in ("<=50K", ">50K")


def test_wrong_column_is_named(stack: Stack, adult: dict[str, Any]) -> None:
    answer = stack.http.post("/v1/models/income/predict", json={"instances": [PERSON, PERSON | {"agee": 3}]})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["field"] == "instances[1].agee"
