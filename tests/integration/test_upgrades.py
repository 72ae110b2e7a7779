"""A program of this version beside another schema, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData, text

from gammabeta.errors import NotReady
from gammabeta.schemas.jobs import JobState, Lane
from gammabeta.schemas.keys import KeyRequest, Scope
from gammabeta.store import jobs, keys, migrations
from gammabeta.store.engine import Database
from gammabeta.store.jobs import Outcome
from gammabeta.store.migrations import Standing
from gammabeta.store.tables import DEFAULT_PROJECT
from tests.integration.auditor import audit
from tests.integration.databases import Databases
from tests.integration.future import CONTRACT, EXPAND, Future
from tests.integration.samples import attempt, claimed, dataset, submit
from tests.integration.service.conftest import migrated, start
from tests.integration.workshop import until, workshop
from tests.unit.cli.conftest import Run, run

__all__ = ["migrated", "run", "start"]

HEAD = migrations.head() or ""


@pytest.fixture
def own(kind: str, databases: Databases, tmp_path: Path) -> str:
    """The address of a database that nobody else is going to use."""
    return databases.migrated(kind, tmp_path)


@pytest.fixture
def future(tmp_path: Path) -> Future:
    return Future(tmp_path / "alembic")


def rows(db: Database) -> dict[str, list[Any]]:
    """Everything in the database, by table."""
    stored = MetaData()
    with db.connection() as connection:
        stored.reflect(connection)
        return {
            table.name: sorted(map(repr, connection.execute(table.select()).mappings().all()))
            for table in stored.sorted_tables
        }


def populated(db: Database) -> jobs.Claim:
    """A data set, jobs in several states, and the attempt of one that runs."""
    dataset(db)
    submit(db)
    ended = claimed(db, priority=1)
    with db.write() as session:
        jobs.stop(session, **attempt(ended), outcome=Outcome.FAILURE, reason="training_error", message="no")
    return claimed(db, priority=2)


def test_a_migrated_database_serves_this_version(own: str) -> None:
    database = Database(own)
    assert migrations.standing(database) is Standing.CURRENT
    assert migrations.complaint(database) is None
    with database.read() as session:
        assert HEAD in session.execute(text("SELECT head FROM served_programs")).scalars().all()
    database.dispose()


def test_an_older_schema_must_be_upgraded_first(kind: str, databases: Databases, tmp_path: Path) -> None:
    url = databases.empty(kind, tmp_path)
    migrations.upgrade(url, to="0002")
    database = Database(url)
    assert migrations.standing(database) is Standing.OLDER
    assert "gammabeta db upgrade" in (migrations.complaint(database) or "")
    database.dispose()


def test_a_newer_schema_that_serves_this_version_is_worked_with(own: str, future: Future) -> None:
    newer = future.add(EXPAND, serves=[HEAD])
    database = Database(own)
    held = populated(database)
    future.upgrade(own)
    assert migrations.standing(database) is Standing.NEWER
    assert migrations.complaint(database) is None
    submit(database)
    with database.write() as session:
        assert jobs.stop(session, **attempt(held), outcome=Outcome.DRAIN) == JobState.QUEUED
        assert jobs.claim(session, worker_id="w2", lane=Lane.TRAIN, free=1, ttl_ms=9_000, device="cpu") is not None
        assert audit(session) == []
    migrations.upgrade(own)
    assert migrations.current(database) == newer
    database.dispose()


def test_a_newer_schema_that_does_not_serve_this_version_is_refused(own: str, future: Future) -> None:
    future.add(EXPAND, serves=[HEAD])
    newer = future.add(CONTRACT, serves=[])
    future.upgrade(own)
    database = Database(own)
    assert migrations.standing(database) is Standing.TOO_NEW
    expected = f"The database must serve this version, whose schema is {HEAD}. Received: the newer schema {newer}"
    assert expected in (migrations.complaint(database) or "")
    with pytest.raises(NotReady, match="Install the version that upgraded the database"):
        migrations.upgrade(own)
    database.dispose()


def test_a_schema_of_another_program_is_refused(own: str) -> None:
    database = Database(own)
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = 'f00d'"))
        session.execute(text("DROP TABLE served_programs"))
    assert migrations.standing(database) is Standing.TOO_NEW
    database.dispose()


def test_the_check_of_the_command_line_says_how_it_stands(
    own: str, future: Future, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAMMABETA_DATABASE_URL", own)
    ran = run("db", "check")
    assert (ran.code, "newest schema" in ran.err) == (0, True)
    future.add(EXPAND, serves=[HEAD])
    future.upgrade(own)
    for command in ("check", "upgrade"):
        ran = run("db", command)
        assert (ran.code, "newer schema, which serves this version" in ran.err) == (0, True)
    future.add(CONTRACT, serves=[])
    future.upgrade(own)
    ran = run("db", "check")
    assert (ran.code, "Install the version that upgraded the database" in ran.err) == (1, True)


def test_going_back_and_forth_with_a_running_job_loses_nothing(own: str) -> None:
    database = Database(own)
    held = populated(database)
    before = rows(database)
    migrations.downgrade(own, to="0002")
    assert migrations.standing(database) is Standing.OLDER
    migrations.upgrade(own)
    assert rows(database) == before
    with database.write() as session:
        assert jobs.stop(session, **attempt(held), outcome=Outcome.DRAIN) == JobState.QUEUED
        assert audit(session) == []
    database.dispose()


def test_a_schema_without_room_for_keys_is_gone_back_to_only_if_there_are_none(own: str) -> None:
    migrations.downgrade(own, to="0003")
    migrations.upgrade(own)
    database = Database(own)
    with database.write() as session:
        keys.create(session, DEFAULT_PROJECT, KeyRequest(name="ci", scopes=(Scope.READ,)))
    before = rows(database)
    with pytest.raises(RuntimeError, match="no room for API keys"):
        migrations.downgrade(own, to="0003")
    assert rows(database) == before
    database.dispose()


def test_programs_of_the_schema_before_keys_go_on_beside_it(own: str) -> None:
    database = Database(own)
    with database.read() as session:
        assert set(session.execute(text("SELECT head FROM served_programs")).scalars()) == {"0003", "0004", "0005"}
    database.dispose()


def test_the_command_line_goes_back_or_says_why_not(
    own: str, future: Future, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAMMABETA_DATABASE_URL", own)
    refused = {"0001": "restore the backup", "0009": f"must be {HEAD}, 0004, 0003, 0002, 0001. Received: 0009"}
    for revision, why in refused.items():
        ran = run("db", "downgrade", revision)
        assert (ran.code, ran.err.count("\n"), why in ran.err) == (1, 1, True)
    ran = run("db", "downgrade", "0002")
    assert (ran.code, "schema 0002" in ran.err) == (0, True)
    assert (run("db", "check").code, run("db", "upgrade").code) == (1, 0)
    future.add(EXPAND, serves=[HEAD])
    future.upgrade(own)
    ran = run("db", "downgrade", "0002")
    assert ran.code != 0
    assert "only the version that made it" in ran.err


@pytest.mark.parametrize(("start", "to"), [("0002", "0001"), ("0001", "base"), (HEAD, "base")])
def test_a_way_back_that_would_lose_something_is_refused_and_changes_nothing(
    own: str, kind: str, databases: Databases, tmp_path: Path, start: str, to: str
) -> None:
    database = Database(own)
    populated(database)
    if start == "0001":
        database.dispose()
        (tmp_path / "first").mkdir()
        own = databases.empty(kind, tmp_path / "first")
        migrations.upgrade(own, to="0001")
        database = Database(own)
    elif start != HEAD:
        migrations.downgrade(own, to=start)
    before = rows(database)
    with pytest.raises(RuntimeError, match=r"To go back, restore the backup|another database"):
        migrations.downgrade(own, to=to)
    assert rows(database) == before
    database.dispose()


def test_a_running_worker_goes_on_beside_a_schema_that_serves_it_and_drains_beside_one_that_does_not(
    own: str, future: Future, tmp_path: Path
) -> None:
    future.add(EXPAND, serves=[HEAD])
    with workshop(tmp_path, own) as shop:
        worker = shop.start()
        job_id = shop.endless(shop.ready_dataset())
        shop.checkpoints(job_id)
        future.upgrade(own)
        known = shop.checkpoints(job_id)[0].step
        until(lambda: shop.checkpoints(job_id)[0].step > known, "a checkpoint after the upgrade")
        future.add(CONTRACT, serves=[])
        future.upgrade(own)
        assert worker.process.wait(30) == 1
        assert "Install the version that upgraded the database" in worker.log
        assert (shop.job(job_id).state, shop.job(job_id).losses) == (JobState.QUEUED, 0)
        again = shop.start()
        assert again.process.wait(30) == 1


@pytest.mark.parametrize("kind", ["sqlite"])
def test_a_service_answers_503_from_when_the_database_serves_it_no_more(
    own: str, future: Future, start: Callable[..., Any], tmp_path: Path
) -> None:
    with start(home=tmp_path, database_url=own, watch_schema_seconds=0.05) as service:
        future.add(EXPAND, serves=[HEAD])
        future.upgrade(own)
        assert service.http.get("/readyz").status_code == 200
        future.add(CONTRACT, serves=[])
        future.upgrade(own)
        answer = until(lambda: _refused(service.http.get("/v1/jobs")), "a refusal")
        assert "Install the version that upgraded the database" in answer["detail"]
        assert service.http.get("/readyz").status_code == 503
        assert service.http.get("/healthz").status_code == 200


def _refused(answer: Any) -> dict[str, Any] | None:
    found: dict[str, Any] = answer.json()
    return found if answer.status_code == 503 else None
