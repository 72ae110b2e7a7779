from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

import gammabeta
from gammabeta.errors import ArtifactCorrupt, DatasetInvalid, InvalidRequest, VersionNotFound
from gammabeta.schemas.batchnorm import BatchNormState
from tests.pictures import zipped
from tests.unit.client.fake_service import (
    TIME,
    FakeService,
    batchnorm_answer,
    dataset,
    job,
    layer_state,
    ok,
    page,
    problem,
)

NETWORK = {"layers": [{"type": "dense", "units": 2}]}


def uploaded(service: FakeService, data: Any, **options: Any) -> httpx.Request:
    service.on("POST", "/v1/datasets", ok(dataset("validating"), 202))
    service.client().datasets.upload(data, wait=False, **options)
    return service.requests[-1]


def test_x_and_y_are_sent_as_an_npz_without_pickles(service: FakeService) -> None:
    x, y = np.arange(6.0).reshape(3, 2), ["a", "b", "a"]
    request = uploaded(service, (x, np.array(y, dtype=object)), name="rows", test_fraction=0.5, seed=1)
    sent = np.load(io.BytesIO(request.content), allow_pickle=False)
    np.testing.assert_array_equal(sent["x"], x)
    assert sent["y"].tolist() == y
    assert dict(request.url.params) == {"name": "rows", "format": "npz", "test_fraction": "0.5", "seed": "1"}


def test_arrays_by_name_are_sent_under_their_names(service: FakeService) -> None:
    arrays = {name: np.zeros(2) for name in ("x_train", "y_train", "x_test", "y_test")}
    request = uploaded(service, arrays, name="rows")
    assert sorted(np.load(io.BytesIO(request.content)).files) == sorted(arrays)


def test_objects_in_an_array_are_refused_before_anything_is_sent(service: FakeService) -> None:
    with pytest.raises(InvalidRequest, match="x: must be an array of numbers"):
        service.client().datasets.upload((np.array([{}], dtype=object), [1]), name="rows")
    assert service.requests == []


@pytest.mark.parametrize(
    ("file", "name", "format"),
    [
        ("mnist.npz", "mnist", "npz"),
        ("adult train (1).CSV", "adult-train-1-", "csv"),
        ("_x.csv", "x", "csv"),
        ("digits.zip", "digits", "image_zip"),
    ],
)
def test_a_file_names_its_data_set_and_its_format(
    service: FakeService, tmp_path: Path, file: str, name: str, format: str
) -> None:
    (tmp_path / file).write_bytes(b"bytes")
    request = uploaded(service, tmp_path / file)
    assert (request.url.params["name"], request.url.params["format"]) == (name, format)
    assert request.content == b"bytes"


@pytest.mark.parametrize(
    ("data", "format"),
    [
        (b"PK\x03\x04", "npz"),
        (zipped({"x.npy": b"", "y.npy": b""}), "npz"),
        (zipped({"cat/1.png": b"", "dog/1.png": b""}), "image_zip"),
        (b"a,b\n", "csv"),
    ],
    ids=["part of a zip", "arrays", "images", "csv"],
)
def test_bytes_tell_their_format(service: FakeService, data: bytes, format: str) -> None:
    assert uploaded(service, data, name="rows").url.params["format"] == format


def test_columns_are_sent_as_lists(service: FakeService) -> None:
    request = uploaded(service, b"a,b\n", name="rows", target="c", categorical=["a", "b"], ignore=("d",))
    assert [request.url.params[key] for key in ("target", "categorical", "ignore")] == ["c", "a,b", "d"]


def test_a_second_file_becomes_the_test_split_of_the_first(service: FakeService) -> None:
    request = uploaded(service, b"a,b\n", test_of="ds_1")
    assert dict(request.url.params) == {"format": "csv", "split": "test", "of": "ds_1"}


@pytest.mark.parametrize(
    ("data", "field"), [(b"a,b", "name"), ("missing.csv", "data"), (3, "name"), ("notes.txt", "format")]
)
def test_what_cannot_be_uploaded_is_refused_with_the_field(service: FakeService, data: Any, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        service.client().datasets.upload(data)
    assert caught.value.errors[0].field == field


def test_upload_waits_until_the_file_was_read(service: FakeService) -> None:
    service.on("POST", "/v1/datasets", ok(dataset("validating"), 202))
    service.on("GET", "/v1/datasets/ds_1", ok(dataset("validating")), ok(dataset("ready")))
    assert service.client().datasets.upload(b"a,b\n", name="rows").state == "ready"


def test_a_file_that_was_refused_raises_its_reason(service: FakeService) -> None:
    error = {"code": "ragged_rows", "message": "line 3 must have 2 cells. Received: 5."}
    service.on("POST", "/v1/datasets", ok(dataset("validating"), 202))
    service.on("GET", "/v1/datasets/ds_1", ok(dataset("failed", error=error)))
    with pytest.raises(DatasetInvalid, match="line 3") as caught:
        service.client().datasets.upload(b"a,b\n", name="rows")
    assert caught.value.reason == "ragged_rows"


def test_lists_follow_the_pages_up_to_their_limit(service: FakeService) -> None:
    first, second = ({**job(), "id": f"job_{number}"} for number in (1, 2))
    service.on("GET", "/v1/jobs", page(first, more=True), page(second))
    jobs = service.client().jobs.list(status="running", metadata={"team": "a"}, limit=150)
    assert [each.id for each in jobs] == ["job_1", "job_2"]
    assert dict(service.requests[0].url.params) == {
        "status": "running",
        "order": "desc",
        "metadata[team]": "a",
        "limit": "100",
    }
    assert service.requests[1].url.params["after"] == "job_1"


def test_a_limit_is_not_exceeded(service: FakeService) -> None:
    service.on("GET", "/v1/datasets", page(dataset(), more=True))
    assert len(service.client().datasets.list(limit=1)) == 1
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    "network",
    [
        gammabeta.MlpPreset(hidden=(64,)),
        gammabeta.MlpPreset(batch_norm=gammabeta.BatchNormOptions(momentum=0.9)),
        gammabeta.CnnPreset(filters=(4,), hidden=(), batch_norm=("none",)),
        gammabeta.LayersNetwork(layers=(gammabeta.Dense(units="classes"),)),
    ],
    ids=["mlp", "options", "cnn", "layers"],
)
def test_specs_survive_the_way_over_the_wire(service: FakeService, network: Any) -> None:
    service.on("POST", "/v1/jobs", ok(job("queued"), 202))
    request = gammabeta.TrainRequest(
        dataset="digits",
        model="digits",
        network=network,
        training=gammabeta.TrainingSpec(optimizer=gammabeta.SGD(momentum=0.9), schedule=gammabeta.CosineSchedule()),
        max_seconds=60,
    )
    client = service.client()
    client.jobs.submit(request)
    client.train("digits", "digits", network=network, training=request.training, max_seconds=60)
    for sent in service.requests:
        assert gammabeta.TrainRequest.model_validate_json(sent.content) == request


def test_layers_may_be_a_plain_list(service: FakeService) -> None:
    service.on("POST", "/v1/jobs", ok(job("queued"), 202))
    service.client().train("digits", "digits", network=[gammabeta.Dense(units=3), {"type": "flatten"}])
    sent = orjson.loads(service.requests[0].content)
    assert [layer["type"] for layer in sent["network"]["layers"]] == ["dense", "flatten"]


@pytest.mark.parametrize("version", ["", 0, "7/../1"])
def test_a_version_that_is_no_version_never_stands_for_another_one(service: FakeService, version: str | int) -> None:
    path = f"/v1/models/digits/versions/{version}"
    service.on("DELETE", path, problem(404, "version_not_found", "no"))
    with pytest.raises(VersionNotFound):
        service.client().models.delete("digits", version)
    (request,) = service.requests
    assert request.url.raw_path.decode() == path.replace("7/../1", "7%2F..%2F1")


def test_workers_come_with_their_slots(service: FakeService) -> None:
    slots = [{"name": "train-0", "device": "cpu", "job": "job_1"}, {"name": "light", "device": "cpu"}]
    times = {"started_at": TIME, "last_heartbeat": TIME}
    service.on(
        "GET", "/v1/workers", page({"id": "w", "hostname": "box", "pid": 1, "slots": slots, "silent": True, **times})
    )
    (worker,) = service.client().workers()
    assert (worker.id, worker.silent, [slot.job for slot in worker.slots]) == ("w", True, ["job_1", None])


def test_a_dry_run_creates_nothing(service: FakeService) -> None:
    resolved = {
        "dataset": "ds_1",
        "model": "digits",
        "network": NETWORK,
        "preprocessing": {},
        "training": {},
        "resources": {},
        "priority": 0,
        "metadata": {},
    }
    answer = {"request": resolved, "layers": [], "parameters": 10, "memory_bytes": 1, "steps": 5, "messages": []}
    service.on("POST", "/v1/jobs", ok(answer))
    assert service.client().jobs.dry_run({"kind": "train"}).steps == 5
    assert service.requests[0].url.params["dry_run"] == "true"
    assert "Idempotency-Key" not in service.requests[0].headers


def test_an_alias_is_put(service: FakeService) -> None:
    path = "/v1/models/digits/aliases/production"
    service.on("PUT", path, ok({"model": "digits", "alias": "production", "version": "3"}))
    assert service.client().models.alias("digits", "production", 3).version == "3"
    assert orjson.loads(service.requests[0].content) == {"version": "3"}


STATE = BatchNormState((layer_state(),))


def test_batch_norm_arrives_bit_by_bit(service: FakeService) -> None:
    service.on("GET", "/v1/models/digits/versions/2/batchnorm", ok(batchnorm_answer(STATE)))
    received = service.client().models.batchnorm("digits", 2)
    assert received.digest == STATE.digest
    assert received.layers[0].beta is None
    assert received.layers[0].moving_variance.dtype == np.float32
    assert received.layers[0].arguments["epsilon"] == received.layers[0].epsilon
    assert (received.layers[0].variance_estimator, received.layers[0].skipped) == ("biased", 0)


def test_several_axes_arrive_as_they_are_hashed(service: FakeService) -> None:
    state = BatchNormState((replace(layer_state(6), axis=(1, 3)),))
    service.on("GET", "/v1/models/digits/versions/2/batchnorm", ok(batchnorm_answer(state)))
    assert service.client().models.batchnorm("digits", 2).layers[0].axis == (1, 3)


def test_numbers_that_do_not_fit_their_digest_are_refused(service: FakeService) -> None:
    service.on("GET", "/v1/models/digits/versions/2/batchnorm", ok(batchnorm_answer(STATE, digest="sha256:0")))
    with pytest.raises(ArtifactCorrupt, match="sha256:0"):
        service.client().models.batchnorm("digits", 2)


@pytest.mark.parametrize(("aliases", "version"), [({"production": "1"}, "1"), ({"best": "1"}, "2")])
def test_without_a_version_it_is_that_of_a_prediction(
    service: FakeService, aliases: dict[str, str], version: str
) -> None:
    versions: list[dict[str, Any]] = [
        {
            "version": number,
            "job": "job_1",
            "dataset": "ds_1",
            "created_at": TIME,
            "metrics": {},
            "weights_sha256": "",
            "batchnorm_digest": "",
        }
        for number in ("2", "1")
    ]
    service.on(
        "GET", "/v1/models/digits", ok({"name": "digits", "versions": versions, "aliases": aliases, "created_at": TIME})
    )
    service.on("GET", f"/v1/models/digits/versions/{version}/batchnorm", ok(batchnorm_answer(STATE)))
    assert service.client().models.batchnorm("digits").digest == STATE.digest
