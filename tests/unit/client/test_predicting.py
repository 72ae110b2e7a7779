from __future__ import annotations

import httpx
import numpy as np
import orjson
import pytest

from gammabeta.client.connection import Connection
from gammabeta.client.predicting import Prediction, predict
from gammabeta.errors import ServiceFault
from tests.unit.client.fake_service import DIGEST, FakeService, ok, prediction

PATH = "/v1/models/digits/predict"


def echo(request: httpx.Request) -> httpx.Response:
    """Label 1 where the first number of a row is odd."""
    rows = orjson.loads(request.content)["instances"]
    return prediction([str(int(row[0]) % 2) for row in rows])


def in_chunks(service: FakeService, rows: np.ndarray, max_bytes: int = 60) -> Prediction:
    connection: Connection = service.client()._connection
    return predict(connection, "digits", rows, max_bytes=max_bytes)


def test_labels_and_scores_come_as_list_and_array(service: FakeService) -> None:
    service.on("POST", PATH, echo)
    result = service.client().predict("digits", np.array([[1.0], [2.0]]))
    assert result.labels == ["1", "0"]
    assert result.classes == ("0", "1")
    np.testing.assert_array_equal(result.scores, [[0, 1], [1, 0]])
    assert (result.version, result.digest, len(result), result.values.shape) == ("3", DIGEST, 2, (0,))


def test_a_number_comes_as_values(service: FakeService) -> None:
    answer = {"model": "price", "version": "1", "classes": None, "batchnorm": {"mode": "eval", "digest": DIGEST}}
    service.on("POST", "/v1/models/price/predict", ok({**answer, "predictions": [{"value": 3.25}, {"value": -1}]}))
    result = service.client().predict("price", [{"a": 1}, {"a": 2}])
    np.testing.assert_array_equal(result.values, [3.25, -1.0])
    assert (result.classes, result.labels, len(result)) == (None, [], 2)


def test_chunks_are_joined_in_order_and_pinned_to_the_first_version(service: FakeService) -> None:
    service.on("POST", PATH, echo)
    result = in_chunks(service, np.arange(100).reshape(100, 1))
    assert result.labels == [str(number % 2) for number in range(100)]
    assert result.scores.shape == (100, 2)
    assert "version" not in service.requests[0].url.params
    assert {request.url.params["version"] for request in service.requests[1:]} == {"3"}


def test_an_alias_is_asked_for_once_and_then_its_version(service: FakeService) -> None:
    service.on("POST", PATH, echo)
    connection = service.client()._connection
    predict(connection, "digits", np.arange(30).reshape(30, 1), alias="best", max_bytes=60)
    assert dict(service.requests[0].url.params) == {"alias": "best"}
    assert dict(service.requests[1].url.params) == {"version": "3"}


@pytest.mark.parametrize("other", [{"version": "4"}, {"digest": "sha256:" + "b" * 64}], ids=["version", "digest"])
def test_chunks_from_two_states_are_never_joined(service: FakeService, other: dict[str, str]) -> None:
    service.on("POST", PATH, echo, prediction(["1"], **other))
    with pytest.raises(ServiceFault, match="All rows must be answered by version 3"):
        in_chunks(service, np.arange(100).reshape(100, 1))


@pytest.mark.parametrize("body", [{}, {"classes": ["0"], "predictions": [{}]}, [], "text"], ids=repr)
def test_an_answer_without_predictions_is_a_fault_of_the_service(service: FakeService, body: object) -> None:
    service.on("POST", PATH, ok(body))
    with pytest.raises(ServiceFault, match="must answer as gammabeta does"):
        service.client().predict("digits", [[1]])


def test_no_rows_give_empty_arrays(service: FakeService) -> None:
    service.on("POST", PATH, echo)
    assert service.client().predict("digits", np.zeros((0, 1))).scores.shape == (0, 2)


def test_a_model_name_cannot_leave_its_path(service: FakeService) -> None:
    service.on("POST", PATH, echo)
    with pytest.raises(Exception, match="nothing at"):
        service.client().predict("../datasets", [[1]])
    assert service.requests[0].url.raw_path == b"/v1/models/..%2Fdatasets/predict"
