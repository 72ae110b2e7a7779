"""The media types of a running service: the same rows and scores, however they are spelled."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest

from gammabeta.errors import NotAcceptable
from gammabeta.schemas.preprocessing import FittedArray
from tests.integration.service.conftest import Service

ROWS = [{"age": 39, "work": "State", "hours": 40.5}, {"work": None, "hours": 60}]
TABLE = "hours,age,work\r\n40.5,39,State\r\n60,,\r\n"
NUMBERS = np.random.default_rng(0).normal(size=(5, 40)).astype(np.float32)


@pytest.fixture(scope="module")
def income(service: Service) -> str:
    service.shelf.version("income")
    return "/v1/models/income/predict"


@pytest.fixture(scope="module")
def value(service: Service) -> str:
    service.shelf.version("value", FittedArray(shape=(40,)), classes=None)
    return "/v1/models/value/predict"


def ask(service: Service, path: str, **request: Any) -> httpx.Response:
    answer = service.http.post(path, **request)
    assert answer.status_code == 200, answer.text
    return answer


def test_a_table_answers_as_its_rows_in_json_do(service: Service, income: str) -> None:
    from_csv = ask(service, income, content=TABLE, headers={"Content-Type": "text/csv; charset=utf-8"})
    assert from_csv.json() == ask(service, income, json={"instances": ROWS}).json()


def test_scores_are_the_same_in_every_media_type(service: Service, income: str) -> None:
    said = ask(service, income, json={"instances": ROWS}).json()
    scores = np.float32([each["scores"] for each in said["predictions"]])

    table = ask(service, income, json={"instances": ROWS}, headers={"Accept": "text/csv"})
    assert table.headers["content-type"].startswith("text/csv")
    header, *lines = [line.split(",") for line in table.text.splitlines()]
    assert header == ["label", "score_<=50K", "score_>50K"]
    assert [line[0] for line in lines] == [each["label"] for each in said["predictions"]]
    np.testing.assert_array_equal(np.float32([line[1:] for line in lines]), scores)

    raw = ask(service, income, json={"instances": ROWS}, headers={"Accept": "application/octet-stream"})
    assert raw.headers["content-type"] == "application/octet-stream"
    shape = [int(extent) for extent in raw.headers["gammabeta-shape"].split(",")]
    np.testing.assert_array_equal(np.frombuffer(raw.content, "<f4").reshape(shape), scores)
    assert raw.headers["gammabeta-version"] == said["version"]
    assert raw.headers["gammabeta-batchnorm-digest"] == said["batchnorm"]["digest"]


def test_values_are_the_same_in_every_media_type(service: Service, value: str) -> None:
    said = ask(service, value, json={"instances": NUMBERS.tolist()}).json()
    values = np.float32([each["value"] for each in said["predictions"]])
    header, *lines = ask(
        service, value, json={"instances": NUMBERS.tolist()}, headers={"Accept": "text/csv"}
    ).text.splitlines()
    assert header == "value"
    np.testing.assert_array_equal(np.float32(lines), values)
    raw = ask(service, value, json={"instances": NUMBERS.tolist()}, headers={"Accept": "application/octet-stream"})
    assert raw.headers["gammabeta-shape"] == "5"
    np.testing.assert_array_equal(np.frombuffer(raw.content, "<f4"), values)


def test_an_accept_that_nothing_fits_is_a_problem(service: Service, income: str) -> None:
    answer = service.http.post(income, json={"instances": ROWS}, headers={"Accept": "application/xml"})
    assert (answer.status_code, answer.json()["code"]) == (406, NotAcceptable.code)
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_table_for_a_model_of_arrays_is_the_wrong_media_type(service: Service, value: str) -> None:
    answer = service.http.post(value, content="a\n1\n", headers={"Content-Type": "text/csv"})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("table", "status", "words"),
    [
        ("hours\nmany\n", 422, "instances[0].hours"),
        ("hours,wage\n1,2\n", 422, "header"),
        ("hours\n", 422, "instances"),
        ("", 422, "header"),
        ('hours\n"1\n', 400, "must be csv"),
        ("hours\n1\0\n", 400, "binary"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_with_the_place(
    service: Service, income: str, table: str, status: int, words: str
) -> None:
    answer = service.http.post(income, content=table, headers={"Content-Type": "text/csv"})
    assert answer.status_code == status
    assert words in answer.text
