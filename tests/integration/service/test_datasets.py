from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from gammabeta.schemas.jobs import Lane
from gammabeta.store import datasets, jobs
from gammabeta.store.tables import DEFAULT_PROJECT
from tests.integration.service.conftest import Service, eventually

CSV = b"age,work,income\n39,State,<=50K\n50,Private,>50K\n"


def upload(
    service: Service, name: str, body: Any = CSV, *, headers: dict[str, str] | None = None, **query: Any
) -> httpx.Response:
    params = {"name": name, "format": "csv", "target": "income", **query}
    present = {key: value for key, value in params.items() if value is not None}
    return service.http.post("/v1/datasets", params=present, content=body, headers=headers)


def uploads(service: Service) -> list[str]:
    folder = service.shelf.blobs.root / "uploads"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_an_upload_is_stored_whole_and_queued(service: Service) -> None:
    answer = upload(service, "whole", categorical="work", ignore="a, b", test_fraction=0.2, seed=3)
    assert answer.status_code == 202
    dataset = answer.json()
    assert answer.headers["location"] == f"/v1/datasets/{dataset['id']}"
    assert (dataset["state"], dataset["bytes"], dataset["sha256"]) == (
        "validating",
        len(CSV),
        hashlib.sha256(CSV).hexdigest(),
    )
    assert service.shelf.blobs.upload_path(dataset["id"]).read_bytes() == CSV
    assert not [name for name in uploads(service) if name.endswith(".part")]
    (job,) = [each for each in jobs_of(service, "ingest") if each["dataset"] == dataset["id"]]
    assert (job["status"], job["model"]) == ("queued", None)
    assert job["request"] == {
        "format": "csv",
        "target": "income",
        "categorical": ["work"],
        "ignore": ["a", "b"],
        "test_fraction": 0.2,
        "seed": 3,
        "split": None,
    }


def jobs_of(service: Service, kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.http.get("/v1/jobs", params={"kind": kind, "limit": 100}).json()["data"]
    return found


def test_a_dataset_is_found_by_id_and_by_name(service: Service) -> None:
    made = upload(service, "found").json()
    assert service.http.get("/v1/datasets/found").json() == made
    assert service.http.get(f"/v1/datasets/{made['id']}").json() == made
    missing = service.http.get("/v1/datasets/ds_nothing")
    assert (missing.status_code, missing.json()["code"]) == (404, "dataset_not_found")


def test_a_name_is_taken_once(service: Service) -> None:
    upload(service, "twice")
    before = uploads(service)
    second = upload(service, "twice")
    assert (second.status_code, second.json()["code"]) == (409, "name_taken")
    assert uploads(service) == before


@pytest.mark.parametrize(
    "media_type", ["application/octet-stream", "text/csv", "text/csv; charset=utf-8", "Application/X-NPZ"]
)
def test_known_media_types_are_taken(service: Service, media_type: str) -> None:
    name = "media-" + hashlib.sha256(media_type.encode()).hexdigest()[:8]
    assert upload(service, name, headers={"Content-Type": media_type}).status_code == 202


@pytest.mark.parametrize(
    "media_type",
    [
        "multipart/form-data; boundary=x",
        "application/json",
        "application/x-www-form-urlencoded",
        "application/vnd.bentoml+pickle",
        "application/x-pickle",
        "application/x-tar",
        "image/png",
        "",
    ],
)
def test_cve_2025_27520_media_types(service: Service, media_type: str) -> None:
    answer = upload(service, "smuggled", headers={"Content-Type": media_type})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert service.http.get("/v1/datasets/smuggled").status_code == 404


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"target": None}, "target"),
        ({"name": None}, "name"),
        ({"name": "../../etc/passwd"}, "name"),
        ({"format": None}, "format"),
        ({"format": "xlsx"}, "format"),
        ({"test_fraction": 0}, "test_fraction"),
        ({"test_fraction": 0.6}, "test_fraction"),
        ({"test_fraction": "nan"}, "test_fraction"),
        ({"seed": -1}, "seed"),
        ({"targt": "x"}, "targt"),
        ({"split": "test"}, "of"),
        ({"of": "ds_1"}, "split"),
        ({"split": "train", "of": "ds_1"}, "split"),
        ({"split": "test", "of": "ds_1"}, "name"),
        ({"name": None, "split": "test", "of": "ds_1"}, "target"),
    ],
)
def test_a_wrong_query_names_its_field(service: Service, query: dict[str, Any], field: str) -> None:
    before = uploads(service)
    answer = upload(service, **{"name": "wrong", **query})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert field in [error["field"] for error in answer.json()["errors"]]
    assert uploads(service) == before


def test_formats_to_come_are_said_to_come(service: Service) -> None:
    answer = upload(service, "later", format="parquet")
    assert (answer.status_code, answer.json()["code"]) == (422, "not_supported")


def test_the_same_key_and_file_give_the_first_answer_again(service: Service) -> None:
    key = {"Idempotency-Key": "upload-1"}
    first, again = upload(service, "once", headers=key), upload(service, "once", headers=key)
    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["location"] == first.headers["location"]
    assert len([each for each in jobs_of(service, "ingest") if each["dataset"] == first.json()["id"]]) == 1


@pytest.mark.parametrize("change", [{"body": CSV + b"1,State,<=50K\n"}, {"seed": 9}])
def test_another_request_under_a_used_key_is_a_conflict(service: Service, change: dict[str, Any]) -> None:
    key = {"Idempotency-Key": "upload-2"}
    upload(service, "conflict", headers=key)
    answer = upload(service, "conflict", headers=key, **change)
    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_conflict")


def test_a_second_file_goes_into_the_same_dataset(service: Service) -> None:
    first = service.shelf.dataset("split", np.zeros((5, 2)), np.zeros(5))
    answer = service.http.post("/v1/datasets", params={"format": "csv", "split": "test", "of": "split"}, content=CSV)
    assert answer.status_code == 202
    assert (answer.json()["id"], answer.json()["state"]) == (first, "validating")
    assert service.shelf.blobs.upload_path(first).read_bytes() == CSV
    again = service.http.post("/v1/datasets", params={"format": "csv", "split": "test", "of": "split"}, content=b"x")
    assert (again.status_code, again.json()["code"]) == (409, "wrong_state")
    assert service.shelf.blobs.upload_path(first).read_bytes() == CSV


def test_rows_are_shown_with_labels(service: Service) -> None:
    x = np.array([[39, 1], [np.nan, 0], [50, np.nan]], dtype=np.float32)
    service.shelf.dataset("seen", x, np.array([0, 1, 1]))
    preview = service.http.get("/v1/datasets/seen/preview", params={"rows": 2}).json()
    assert preview["split"] == "train"
    assert preview["rows"] == [
        {"age": 39.0, "work": "State", "income": "<=50K"},
        {"age": None, "work": "Private", "income": ">50K"},
    ]
    assert service.http.get("/v1/datasets/seen/preview?split=test").status_code == 422


def test_rows_of_what_is_not_ready_are_not_shown(service: Service) -> None:
    upload(service, "unread")
    answer = service.http.get("/v1/datasets/unread/preview")
    assert (answer.status_code, answer.json()["code"]) == (409, "wrong_state")
    assert "validating" in answer.json()["detail"]


def test_deleting_frees_the_name(service: Service) -> None:
    service.shelf.dataset("gone", np.zeros((5, 2)), np.zeros(5))
    assert service.http.delete("/v1/datasets/gone").status_code == 204
    assert service.http.get("/v1/datasets/gone").status_code == 404
    assert service.http.delete("/v1/datasets/gone").status_code == 404
    assert upload(service, "gone").status_code == 202


def test_a_dataset_in_use_is_not_deleted(service: Service) -> None:
    made = upload(service, "used").json()
    answer = service.http.delete("/v1/datasets/used")
    assert (answer.status_code, answer.json()["code"]) == (409, "wrong_state")
    assert service.shelf.blobs.upload_path(made["id"]).exists()


def test_pages_follow_each_other_without_a_gap(start: Callable[..., Any]) -> None:
    with start() as service:
        made = [upload(service, f"page-{number}").json()["id"] for number in range(5)]
        first = service.http.get("/v1/datasets?limit=2").json()
        assert first["has_more"]
        assert [each["id"] for each in first["data"]] == [made[4], made[3]] == [first["first_id"], first["last_id"]]
        rest = service.http.get("/v1/datasets", params={"limit": 3, "after": first["last_id"]}).json()
        assert [each["id"] for each in rest["data"]] == made[2::-1]
        assert not rest["has_more"]
        oldest = service.http.get("/v1/datasets?order=asc&limit=1").json()["data"][0]
        assert oldest["id"] == made[0]


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "order=up", "after=%00", "nothing=1"])
def test_a_wrong_page_is_refused(service: Service, query: str) -> None:
    assert service.http.get(f"/v1/datasets?{query}").status_code == 422


@pytest.mark.parametrize("name", ["..%2f..%2fgammabeta.db", "%2e%2e", "a%00b", "%252e%252e", "x" * 200, "..%5c", "%23"])
def test_cve_2023_1177_names_lead_nowhere(service: Service, name: str) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/preview")):
        assert service.http.request(method, f"/v1/datasets/{name}{path}").status_code in (404, 405, 422)


def test_a_file_over_the_limit_leaves_nothing(start: Callable[..., Any]) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(100_000):
            yield b"x" * 65_536

    with start(max_upload_bytes=1_000_000) as service:
        declared = upload(service, "large", b"x" * 1_000_001)
        counted = upload(service, "large", endless())
        assert [answer.status_code for answer in (declared, counted)] == [413, 413]
        assert counted.json()["code"] == "too_large"
        assert uploads(service) == []
        assert upload(service, "large", b"x" * 1_000_000).status_code == 202


def test_a_client_that_goes_away_leaves_nothing(start: Callable[..., Any]) -> None:
    with start() as service:
        host, port = service.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                b"POST /v1/datasets?name=half&format=npz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\n"
            )
            connection.sendall(b"x" * 1_000_000)
            eventually(lambda: uploads(service))
        eventually(lambda: not uploads(service))
        assert service.http.get("/v1/datasets/half").status_code == 404


def test_a_large_upload_takes_constant_memory(start: Callable[..., Any]) -> None:
    block = os.urandom(1 << 20)

    def megabytes() -> Iterator[bytes]:
        for _ in range(200):
            yield block

    with start() as service:
        upload(service, "warm", b"x" * (4 << 20))
        before = peak_rss()
        answer = upload(service, "much", megabytes(), format="npz", target=None)
        assert answer.json()["bytes"] == 200 << 20
        assert peak_rss() - before < 40 << 20


def peak_rss() -> int:
    """Of this process, which is client and service in one."""
    (line,) = [each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def test_the_worker_finds_what_it_needs(service: Service) -> None:
    made = upload(service, "handed").json()
    with service.shelf.database.write() as session:
        while claim := jobs.claim(session, worker_id="w", lane=Lane.LIGHT, free=0, ttl_ms=60_000, device="cpu"):
            if claim.dataset_id == made["id"]:
                break
        assert claim is not None
        row = datasets.get(session, DEFAULT_PROJECT, made["id"])
        assert claim.request == row.options
