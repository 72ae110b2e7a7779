"""Everything that people send by mistake: the answer says what must hold, and nothing is stored or lost."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from gammabeta import Client
from gammabeta.errors import DatasetInvalid
from tests.acceptance.stack import Stack, until

RNG = np.random.default_rng(0)


def csv(*lines: str) -> bytes:
    return ("\n".join(lines) + "\n").encode()


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


X = RNG.normal(size=(60, 4)).astype(np.float32)
Y = RNG.integers(0, 3, 60)
WITH_NAN = X.copy()
WITH_NAN[7, 2] = np.nan

REFUSED_FILES: list[tuple[str, bytes, dict[str, Any], str, str]] = [
    ("not a csv", bytes(range(256)) * 4, {"format": "csv", "target": "y"}, "not_csv", "binary file"),
    ("ragged rows", csv("a,b,y", "1,2,x", "1,2,3,z"), {"format": "csv", "target": "y"}, "ragged_rows", "line 3"),
    ("no target column", csv("a,b", "1,2", "3,4"), {"format": "csv", "target": "y"}, "no_target", "'a', 'b'"),
    ("one class only", csv("a,y", "1,x", "2,x", "3,x"), {"format": "csv", "target": "y"}, "one_class_only", "x"),
    ("nan in csv", csv("a,y", "1,p", "nan,q", "3,p"), {"format": "csv", "target": "y"}, "non_finite", "'a'"),
    ("infinity in csv", csv("a,y", "1,p", "2,q", "-inf,p"), {"format": "csv", "target": "y"}, "non_finite", "'a'"),
    (
        "10,000 strings to predict",
        csv("a,y", *(f"{i},label-{i}" for i in range(10_000))),
        {"format": "csv", "target": "y"},
        "too_many_classes",
        "10,000",
    ),
    ("empty csv", csv("a,y"), {"format": "csv", "target": "y"}, "empty_file", "row"),
    ("not an npz", b"hello, world", {"format": "npz"}, "not_npz", "npz"),
    ("object array", npz(x=np.array([{}, []], dtype=object), y=Y[:2]), {"format": "npz"}, "object_array", "pickle"),
    ("lengths differ", npz(x=X, y=Y[:59]), {"format": "npz"}, "length_mismatch", "59"),
    ("no y", npz(x=X), {"format": "npz"}, "missing_array", "y"),
    ("nan in npz", npz(x=WITH_NAN, y=Y), {"format": "npz"}, "non_finite", "x[7, 2]"),
    ("one class in npz", npz(x=X, y=np.zeros(60, int)), {"format": "npz"}, "one_class_only", "0"),
]


@pytest.mark.parametrize(
    ("what", "body", "query", "code", "word"), REFUSED_FILES, ids=[each[0] for each in REFUSED_FILES]
)
def test_bad_file_fails_with_its_reason_and_keeps_nothing(
    stack: Stack, what: str, body: bytes, query: dict[str, Any], code: str, word: str
) -> None:
    found = stack.upload(body, name=f"bad-{what.replace(' ', '-').replace(',', '')}", **query)
    assert found["state"] == "failed"
    assert found["error"]["code"] == code
    assert word in found["error"]["message"]
    assert (found["splits"], found["features"]) == ({}, [])
    uploads = stack.home / "blobs" / "uploads"
    until(lambda: not list(uploads.glob(f"*{found['id']}*")), "the uploaded bytes to be removed")


def test_corrected_file_takes_the_name_of_the_refused_one(stack: Stack) -> None:
    query = {"name": "again", "format": "csv", "target": "y"}
    assert stack.upload(csv("a,y", "1,p", "nan,q"), **query)["state"] == "failed"
    assert stack.upload(csv("a,y", "1,p", "2,q"), **query)["state"] == "ready"
    taken = stack.http.post("/v1/datasets", params=query, content=csv("a,y", "1,p", "2,q"))
    assert (taken.status_code, taken.json()["code"]) == (409, "name_taken")


def test_bad_second_file_leaves_the_data_set_as_it_was(stack: Stack) -> None:
    first = stack.upload(csv("a,y", "1,p", "2,q"), name="pair", format="csv", target="y")
    after = stack.upload(csv("b,y", "1,p"), format="csv", split="test", of=first["id"])
    assert after == first
    with Client(stack.url) as client, pytest.raises(DatasetInvalid, match="no column 'a'"):
        client.datasets.upload(csv("b,y", "1,p"), format="csv", test_of=first["id"])
    both = stack.upload(csv("a,y", "3,q"), format="csv", split="test", of=first["id"])
    assert both["splits"] == {"train": 2, "test": 1}


def test_empty_body_is_refused_before_anything_is_stored(stack: Stack) -> None:
    answer = stack.http.post("/v1/datasets", params={"name": "nothing", "format": "csv", "target": "y"}, content=b"")
    assert answer.status_code == 422
    assert "empty" in answer.json()["detail"]
    assert stack.http.get("/v1/datasets/nothing").status_code == 404


REFUSED_QUERIES: list[tuple[dict[str, Any], str]] = [
    ({"name": "../up", "format": "npz"}, "name"),
    ({"name": "a", "format": "xlsx"}, "format"),
    ({"name": "a", "format": "parquet", "target": "y"}, "format"),
    ({"name": "a", "format": "csv"}, "target"),
    ({"name": "a", "format": "npz", "test_fraction": "1.5"}, "test_fraction"),
    ({"name": "a", "format": "npz", "colour": "red"}, "colour"),
]


@pytest.mark.parametrize(("query", "field"), REFUSED_QUERIES)
def test_bad_query_of_an_upload_names_the_field(stack: Stack, query: dict[str, Any], field: str) -> None:
    answer = stack.http.post("/v1/datasets", params=query, content=npz(x=X, y=Y))
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert [each["field"] for each in answer.json()["errors"]] == [field]


def test_pickle_is_not_a_media_type(stack: Stack) -> None:
    answer = stack.http.post(
        "/v1/datasets",
        params={"name": "a", "format": "npz"},
        content=b"\x80\x04.",
        headers={"Content-Type": "application/x-pickle"},
    )
    assert answer.status_code == 415


@pytest.fixture(scope="module")
def small(stack: Stack) -> str:
    """A small good data set, with a model trained on it."""
    found = stack.upload(npz(x=X, y=Y), name="small", format="npz")
    assert found["state"] == "ready", found
    job = stack.finished(
        stack.submit(dataset="small", model="small", network={"preset": "mlp"}, training={"epochs": 1})
    )
    assert job["status"] == "succeeded", job
    return "small"


def network(*layers: dict[str, Any]) -> dict[str, Any]:
    return {"network": {"layers": [*layers, {"type": "dense", "units": "classes"}]}}


REFUSED_JOBS: list[tuple[str, dict[str, Any], str]] = [
    ("unknown layer", network({"type": "lstm"}), "network.layers[0].type"),
    ("unknown optimizer", {"training": {"optimizer": {"name": "lion"}}}, "training.optimizer.name"),
    ("unknown field", {"colour": "red"}, "colour"),
    ("unfitting layer", network({"type": "conv2d", "filters": 3, "kernel_size": 3}), "network.layers[0]"),
    ("no units", network({"type": "dense", "units": 0}), "network.layers[0].units"),
    ("momentum", network({"type": "batch_norm", "momentum": 1.01}), "network.layers[0].momentum"),
    ("epsilon", network({"type": "batch_norm", "epsilon": 0}), "network.layers[0].epsilon"),
    ("batch larger than the data", {"training": {"batch_size": 61}}, "training.batch_size"),
    ("not supported yet", {"training": {"recalibrate": True}}, "training.recalibrate"),
]


@pytest.mark.parametrize(("what", "change", "field"), REFUSED_JOBS, ids=[each[0] for each in REFUSED_JOBS])
@pytest.mark.parametrize("dry_run", [False, True])
def test_bad_job_names_the_field_and_is_not_queued(
    stack: Stack, small: str, what: str, change: dict[str, Any], field: str, dry_run: bool
) -> None:
    before = stack.http.get("/v1/jobs", params={"limit": 1}).json()["first_id"]
    body = {"kind": "train", "dataset": small, "model": "m", "network": {"preset": "mlp"}} | change
    answer = stack.http.post("/v1/jobs", params={"dry_run": str(dry_run).lower()}, json=body)
    assert answer.status_code == 422
    problem = answer.json()
    assert field in [each["field"] for each in problem["errors"]]
    assert all(each["message"] for each in problem["errors"])
    assert stack.http.get("/v1/jobs", params={"limit": 1}).json()["first_id"] == before


def test_dataset_and_model_that_are_not_there_are_404(stack: Stack, small: str) -> None:
    body = {"kind": "train", "dataset": "nowhere", "model": "m", "network": {"preset": "mlp"}}
    assert stack.http.post("/v1/jobs", json=body).status_code == 404
    for path in ("/v1/datasets/nowhere", "/v1/models/nowhere", "/v1/jobs/job_0", f"/v1/models/{small}/versions/99"):
        answer = stack.http.get(path)
        assert answer.status_code == 404, path
        assert answer.json()["code"].endswith("not_found")
    assert stack.http.post("/v1/models/nowhere/predict", json={"instances": [[1]]}).status_code == 404


REFUSED_INSTANCES: list[tuple[str, Any, str]] = [
    ("too short", [[1.0, 2.0, 3.0]], "instances[0]"),
    ("second too long", [[1, 2, 3, 4], [1, 2, 3, 4, 5]], "instances[1]"),
    ("a word", [[1, 2, "three", 4]], "instances[0]"),
    ("null", [[1, 2, None, 4]], "instances[0]"),
    ("nothing", [], "instances"),
    ("not a list", {"a": 1}, "instances"),
]


@pytest.mark.parametrize(("what", "instances", "field"), REFUSED_INSTANCES, ids=[each[0] for each in REFUSED_INSTANCES])
def test_bad_instance_is_named(stack: Stack, small: str, what: str, instances: Any, field: str) -> None:
    answer = stack.http.post(f"/v1/models/{small}/predict", json={"instances": instances})
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["field"].startswith(field)


def test_number_that_json_does_not_have_is_refused(stack: Stack, small: str) -> None:
    body = b'{"instances": [[1, 2, NaN, 4]]}'
    answer = stack.http.post(f"/v1/models/{small}/predict", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "instances[0]"


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/models/small/predict"])
def test_body_that_is_not_json_is_400(stack: Stack, small: str, path: str) -> None:
    answer = stack.http.post(path, content=b"{not json", headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["code"] == "malformed_request"


def test_idempotency_key_gives_the_first_answer_again_and_refuses_another_body(stack: Stack, small: str) -> None:
    body = {
        "kind": "train",
        "dataset": small,
        "model": "twice",
        "network": {"preset": "mlp"},
        "training": {"epochs": 1},
    }
    headers = {"Idempotency-Key": "monday"}
    first = stack.http.post("/v1/jobs", json=body, headers=headers)
    again = stack.http.post("/v1/jobs", json=body, headers=headers)
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json() == first.json()
    other = stack.http.post("/v1/jobs", json=body | {"priority": 5}, headers=headers)
    assert other.status_code == 409
    assert other.json()["code"] == "idempotency_conflict"
    stack.finished(first.json()["id"])
    assert len(stack.http.get("/v1/models/twice").json()["versions"]) == 1


def test_idempotency_key_of_an_upload_gives_the_first_answer_again(stack: Stack) -> None:
    headers = {"Idempotency-Key": "tuesday"}
    query = {"name": "once", "format": "npz"}
    first = stack.http.post("/v1/datasets", params=query, content=npz(x=X, y=Y), headers=headers)
    again = stack.http.post("/v1/datasets", params=query, content=npz(x=X, y=Y), headers=headers)
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json()["id"] == first.json()["id"]
    other = stack.http.post("/v1/datasets", params=query, content=npz(x=X, y=Y[::-1]), headers=headers)
    assert other.status_code == 409
    assert stack.settled(first.json()["id"])["state"] == "ready"


def test_after_all_that_the_good_model_still_answers(stack: Stack, small: str) -> None:
    assert len(stack.predict(small, X[:5].tolist())["predictions"]) == 5
    assert stack.http.get("/readyz").status_code == 200
