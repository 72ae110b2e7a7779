from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from gammabeta.store import workers
from gammabeta.store.engine import Database
from gammabeta.store.tables import now_ms
from tests.integration.samples import submit
from tests.integration.service.conftest import Service, eventually


def begin(database: Database, worker_id: str, *devices: str, **slots: str | None) -> None:
    running = {f"train-{rank}": None for rank in range(len(devices))} | {"light": None} | slots
    with database.write() as session:
        workers.register(session, worker_id, hostname="box", pid=os.getpid(), devices=[*devices], slots=running)


def listed(service: Service) -> list[dict[str, Any]]:
    answer = service.http.get("/v1/workers")
    assert answer.status_code == 200
    return list(answer.json()["data"])


def test_workers_are_listed_with_slots_devices_and_jobs(start: Callable[..., Any]) -> None:
    with start() as service:
        empty = service.http.get("/v1/workers").json()
        assert empty == {"data": [], "first_id": None, "last_id": None, "has_more": False}
        job = submit(service.shelf.database)
        begin(service.shelf.database, "box-1", "cuda:0", "cuda:1", **{"train-1": job})
        (shown,) = listed(service)
    assert (shown["id"], shown["hostname"], shown["pid"], shown["silent"]) == ("box-1", "box", os.getpid(), False)
    assert shown["slots"] == [
        {"name": "train-0", "device": "cuda:0", "job": None},
        {"name": "train-1", "device": "cuda:1", "job": job},
        {"name": "light", "device": "cpu", "job": None},
    ]
    assert shown["started_at"] <= shown["last_heartbeat"]
    assert shown["last_heartbeat"].endswith("Z")


def test_slots_are_in_the_order_of_their_devices(start: Callable[..., Any]) -> None:
    with start() as service:
        begin(service.shelf.database, "box-1", *["cpu"] * 12)
        (shown,) = listed(service)
    assert [slot["name"] for slot in shown["slots"]] == [*(f"train-{rank}" for rank in range(12)), "light"]


def test_a_worker_that_is_silent_for_longer_than_a_lease_is_marked_until_it_is_heard_again(
    start: Callable[..., Any],
) -> None:
    with start(lease_seconds=0.3) as service:
        database = service.shelf.database
        begin(database, "box-1", "cpu")
        (fresh,) = listed(service)
        eventually(lambda: listed(service)[0]["silent"])
        with database.write() as session:
            assert workers.beat(session, "box-1")
        (again,) = listed(service)
    assert again["last_heartbeat"] > fresh["last_heartbeat"]
    assert (fresh["silent"], again["silent"]) == (False, False)


def test_a_worker_that_ended_is_gone_and_the_others_are_the_oldest_first(start: Callable[..., Any]) -> None:
    with start() as service:
        database = service.shelf.database
        for number in range(3):
            begin(database, f"box-{number}", "cpu")
            _tick(database)
        with database.write() as session:
            workers.forget(session, "box-1")
        assert [each["id"] for each in listed(service)] == ["box-0", "box-2"]


def _tick(database: Database) -> None:
    """Until the database's clock shows another millisecond."""

    def now() -> int:
        with database.read() as session:
            return session.scalars(now_ms().select()).one()

    begun = now()
    eventually(lambda: now() > begun)
