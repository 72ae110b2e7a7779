from __future__ import annotations

import inspect

import numpy as np
import pytest

from gammabeta.cli import demo
from gammabeta.cli.failures import AccuraciesDiffer
from tests.unit.client.fake_service import DIGEST, TIME, FakeService, ok, prediction

ARRAYS = {"x_test": np.zeros((4, 1), dtype=np.float32), "y_test": np.array([1, 1, 0, 0])}


def answering(service: FakeService, reported: float) -> None:
    """A model that gets three of the four rows right, and says so, or not."""
    version = {
        "model": "digits",
        "version": "3",
        "job": "job_1",
        "dataset": "ds_1",
        "created_at": TIME,
        "network": {"layers": [{"type": "dense", "units": 2}]},
        "preprocessing": {"kind": "array", "shape": [1]},
        "classes": ["0", "1"],
        "metrics": {"test": {"accuracy": reported}},
        "weights_sha256": "ab",
        "batchnorm_digest": DIGEST,
        "parameters": 4,
    }
    service.on("GET", "/v1/models/digits/versions/3", ok(version))
    service.on("POST", "/v1/models/digits/predict", prediction(["1", "1", "0", "1"]))


def test_equal_accuracies_are_both_shown(service: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    answering(service, 0.75)
    with service.client() as client:
        demo.compare(client, "3", ARRAYS)
    printed = capsys.readouterr().out
    assert printed.count("0.7500") == 2
    assert "3 of 4" in printed


def test_accuracies_that_differ_in_the_last_bit_are_a_failure(service: FakeService) -> None:
    answering(service, float(np.nextafter(0.75, 1)))
    with service.client() as client, pytest.raises(AccuraciesDiffer, match="must be equal"):
        demo.compare(client, "3", ARRAYS)


def test_no_page_is_named_that_ends_with_the_demo() -> None:
    assert "/ui" not in inspect.getsource(demo)


def test_the_digits_are_split_into_disjoint_rows_of_all_classes() -> None:
    arrays = demo.digits()
    assert {name: array.shape[0] for name, array in arrays.items()} == {
        "x_train": 1437,
        "y_train": 1437,
        "x_test": 360,
        "y_test": 360,
    }
    assert set(arrays["y_test"]) == set(range(10))
    train = {row.tobytes() for row in arrays["x_train"]}
    assert not any(row.tobytes() in train for row in arrays["x_test"])
