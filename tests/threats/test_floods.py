"""Row 22: a flood of jobs by one key: exactly as many are taken as may be, and no faster than they may come."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from gammabeta.errors import QuotaExceeded
from gammabeta.schemas.keys import Scope
from gammabeta.store import jobs
from gammabeta.store.engine import Database
from gammabeta.store.limits import QueueLimits
from gammabeta.store.tables import DEFAULT_PROJECT
from tests.integration.databases import clock, cluster, databases, db, kind, url
from tests.integration.samples import new_job
from tests.integration.service.conftest import Service, eventually
from tests.threats.conftest import made_key
from tests.threats.wire import announced

__all__ = ["clock", "cluster", "databases", "db", "kind", "url"]

QUOTA = 100
SUBMITS = {"sqlite": 10_000, "postgresql": 1_000}
JOB = {"dataset": "people", "model": "m", "network": {"preset": "mlp"}, "training": {"batch_size": 4}}


def test_10_000_submits_of_one_key_are_exactly_its_quota(db: Database, kind: str) -> None:
    """By four at a time, each in the transaction that the service has."""

    def submitted(_: int) -> bool:
        try:
            with db.write() as session:
                jobs.submit(session, new_job(owner_id="flood"), limits=QueueLimits(of_owner=QUOTA))
        except QuotaExceeded:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        taken = sum(pool.map(submitted, range(SUBMITS[kind])))
    assert taken == QUOTA
    with db.write() as session:  # and another key is let in as before
        jobs.submit(session, new_job(owner_id="other"), limits=QueueLimits(of_owner=QUOTA))


def _flooded(service: Service, key: str, number: int, **more: Any) -> list[int]:
    """The statuses, of four at a time."""
    headers = {"Authorization": f"Bearer {key}"}

    def submit(_: int) -> int:
        return service.http.post("/v1/jobs", json=JOB, headers=headers, **more).status_code

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(submit, range(number)))


def _stocked(service: Service) -> tuple[str, str]:
    service.shelf.dataset("people", np.zeros((20, 2)), np.arange(20) % 2)
    first, second = (made_key(service, DEFAULT_PROJECT, *Scope) for _ in range(2))
    path, headers = "/v1/jobs", {"Authorization": f"Bearer {second}"}
    eventually(lambda: service.http.get(path, headers=headers).status_code == 200)
    eventually(lambda: service.http.get(path).status_code == 401)
    return first, second


def test_a_flood_over_http_is_taken_up_to_the_quota(start: Callable[..., Any]) -> None:
    with start(max_queued_per_key=QUOTA) as service:
        flooding, other = _stocked(service)
        statuses = _flooded(service, flooding, 500)
        assert (statuses.count(202), statuses.count(429)) == (QUOTA, 400)
        headers = {"Authorization": f"Bearer {other}"}
        assert service.http.post("/v1/jobs", json=JOB, headers=headers).status_code == 202


@pytest.fixture
def slow(start: Callable[..., Any]) -> Any:
    """A service that takes a submission of each key in a thousand seconds, and ten seconds' worth: one at once."""
    with start(submits_per_second=0.001) as service:
        yield service


def test_a_key_that_submits_too_often_is_told_when_to_come_again(slow: Service) -> None:
    flooding, other = _stocked(slow)
    assert _flooded(slow, flooding, 40).count(202) == 1
    refused = slow.http.post("/v1/jobs", json=JOB, headers={"Authorization": f"Bearer {flooding}"})
    assert (refused.status_code, refused.json()["code"]) == (429, "too_often")
    assert 900 <= int(refused.headers["Retry-After"]) <= 1_000
    assert _flooded(slow, other, 1) == [202]
    look = slow.http.get("/v1/jobs?kind=train", headers={"Authorization": f"Bearer {flooding}"})
    assert len(look.json()["data"]) == 2


@pytest.mark.parametrize("first", ["dry run", "upload", "retry", "a body that is no job"])
def test_whatever_makes_work_takes_a_token(slow: Service, first: str) -> None:
    flooding, _ = _stocked(slow)
    headers = {"Authorization": f"Bearer {flooding}"}
    ways: dict[str, Callable[[], Any]] = {
        "dry run": lambda: slow.http.post("/v1/jobs?dry_run=true", json=JOB, headers=headers),
        "upload": lambda: slow.http.post("/v1/datasets?name=d&format=csv&target=y", content=b"a,y\n", headers=headers),
        "retry": lambda: slow.http.post("/v1/jobs/job_nothing/retry", headers=headers),
        "a body that is no job": lambda: slow.http.post("/v1/jobs", json={}, headers=headers),
    }
    assert ways[first]().status_code != 429
    assert {each().status_code for each in ways.values()} == {429}


def test_an_upload_that_comes_too_often_is_refused_before_it_is_read(slow: Service) -> None:
    flooding, _ = _stocked(slow)
    _flooded(slow, flooding, 1)
    path, key = "/v1/datasets?name=d&format=csv&target=y", f"Authorization: Bearer {flooding}"
    status, said = announced(slow.http.base_url, "POST", path, key, "Content-Length: 4000000")
    assert (status, said["code"]) == (429, "too_often")
    assert list((slow.shelf.blobs.root / "uploads").glob("*")) == []
