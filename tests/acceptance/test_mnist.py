"""The main job on real digits: train over HTTP, predict from the stored moving statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.acceptance.stack import Stack


@pytest.fixture(scope="module")
def test_rows(data: Path) -> tuple[Any, Any]:
    with np.load(data / "mnist.npz", allow_pickle=False) as arrays:
        return arrays["x_test"], arrays["y_test"]


def version_of(stack: Stack, trained: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = stack.http.get(f"/v1/models/mnist/versions/{trained['version']}").json()
    return found


def test_ten_epochs_reach_the_accuracy_of_the_published_example(stack: Stack, trained: dict[str, Any]) -> None:
    metrics = version_of(stack, trained)["metrics"]
    assert metrics["test"]["accuracy"] >= 0.965
    assert metrics["test"]["n"] == 10_000
    assert metrics["validation"]["n"] == 6_000


def test_predictions_over_http_are_right_exactly_as_often_as_the_job_reported(
    stack: Stack, trained: dict[str, Any], test_rows: tuple[Any, Any]
) -> None:
    x, y = test_rows
    right, digests = 0, set()
    for start in range(0, len(x), 1_000):
        answer = stack.predict("mnist", x[start : start + 1_000].tolist())
        labels = [each["label"] for each in answer["predictions"]]
        right += sum(label == str(truth) for label, truth in zip(labels, y[start : start + 1_000], strict=True))
        digests.add(answer["batchnorm"]["digest"])
    version = version_of(stack, trained)
    assert right == version["metrics"]["test"]["correct"]
    assert right / len(x) == version["metrics"]["test"]["accuracy"]
    assert digests == {version["batchnorm_digest"]}


def test_a_row_alone_answers_as_in_a_batch_of_200(
    stack: Stack, trained: dict[str, Any], test_rows: tuple[Any, Any]
) -> None:
    rows = test_rows[0][:200].tolist()
    together = [each["scores"] for each in stack.predict("mnist", rows)["predictions"]]
    alone = [stack.predict("mnist", [row])["predictions"][0]["scores"] for row in rows]
    assert np.abs(np.array(together) - np.array(alone)).max() <= 1e-5


def test_a_thousand_predictions_leave_the_state_in_memory_as_it_was_stored(
    stack: Stack, trained: dict[str, Any], test_rows: tuple[Any, Any]
) -> None:
    for row in test_rows[0][:1_000]:
        stack.predict("mnist", [row.tolist()])
    served = stack.http.get(f"/v1/models/mnist/versions/{trained['version']}/served").json()
    assert served["predictions"] >= 1_000
    assert served["training"] is False
    assert served["digest"] == served["stored_digest"] == version_of(stack, trained)["batchnorm_digest"]


def test_flat_rows_and_nested_rows_are_the_same(
    stack: Stack, trained: dict[str, Any], test_rows: tuple[Any, Any]
) -> None:
    rows = test_rows[0][:3]
    nested = stack.predict("mnist", rows.tolist())
    assert stack.predict("mnist", rows.reshape(3, -1).tolist())["predictions"] == nested["predictions"]


def test_batch_norm_is_readable_data(stack: Stack, trained: dict[str, Any]) -> None:
    answer = stack.http.get(f"/v1/models/mnist/versions/{trained['version']}/batchnorm").json()
    (layer,) = answer["layers"]
    assert [len(layer[key]) for key in ("gamma", "beta", "moving_mean", "moving_variance")] == [64] * 4
    assert (layer["momentum"], layer["epsilon"]) == (0.99, 0.001)
    assert layer["updates"] == 10 * (54_000 // 32)
    assert min(layer["moving_variance"]) >= 0
    assert max(abs(value) for value in layer["moving_mean"]) > 0.01


def test_finished_job_shows_what_was_published(stack: Stack, trained: dict[str, Any]) -> None:
    version = version_of(stack, trained)
    for split in ("train", "validation", "test"):
        assert trained["result"]["metrics"][split]["accuracy"] == version["metrics"][split]["accuracy"]
    assert trained["progress"]["eta_seconds"] is None


def test_series_has_a_point_for_each_epoch(stack: Stack, trained: dict[str, Any]) -> None:
    answer = stack.http.get(f"/v1/jobs/{trained['id']}/metrics", params={"names": "val_accuracy,val_loss"}).json()
    series = {each["name"]: each for each in answer["series"]}
    assert len(series["val_accuracy"]["value"]) == 10
    assert series["val_accuracy"]["epoch"] == list(range(1, 11))


def test_event_stream_tells_the_whole_story_and_ends(stack: Stack, trained: dict[str, Any]) -> None:
    headers = {"Accept": "text/event-stream"}
    with stack.http.stream("GET", f"/v1/jobs/{trained['id']}/events", headers=headers) as stream:
        lines = list(stream.iter_lines())
    types = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    ids = [int(line.removeprefix("id: ")) for line in lines if line.startswith("id: ")]
    assert types[:2] == ["submitted", "claimed"]
    assert types[-1] == "succeeded"
    assert ids == sorted(set(ids))
    resume = headers | {"Last-Event-ID": str(ids[2])}
    with stack.http.stream("GET", f"/v1/jobs/{trained['id']}/events", headers=resume) as stream:
        again = [int(line.removeprefix("id: ")) for line in stream.iter_lines() if line.startswith("id: ")]
    assert again == ids[3:]
