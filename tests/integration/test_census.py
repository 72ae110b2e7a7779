"""What the queue has come to, as it is counted for metrics, on both databases."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from gammabeta.schemas.jobs import JobState, Lane
from gammabeta.store import census, jobs
from gammabeta.store.census import Census
from gammabeta.store.engine import Database
from gammabeta.store.jobs import Outcome
from tests.integration.databases import Clock
from tests.integration.samples import attempt, claim, submit

QUEUED, RUNNING = JobState.QUEUED, JobState.RUNNING


def taken(db: Database) -> Census:
    with db.read() as session:
        return census.take(session)


def test_an_empty_queue_is_told_as_such(db: Database) -> None:
    found = taken(db)
    assert found.jobs == {(state, lane): 0 for state in (QUEUED, RUNNING) for lane in Lane}
    assert found.oldest_seconds == {Lane.TRAIN: 0, Lane.LIGHT: 0}


def test_jobs_are_counted_by_state_and_lane(db: Database, clock: Clock) -> None:
    for lane, devices in ((Lane.TRAIN, 1), (Lane.TRAIN, 1), (Lane.TRAIN, 1), (Lane.LIGHT, 0)):
        submit(db, lane=lane, devices=devices)
    assert claim(db) is not None
    clock.advance(90_500)
    found = taken(db)
    assert found.jobs == {
        (QUEUED, Lane.TRAIN): 2,
        (RUNNING, Lane.TRAIN): 1,
        (QUEUED, Lane.LIGHT): 1,
        (RUNNING, Lane.LIGHT): 0,
    }
    assert found.oldest_seconds == {Lane.TRAIN: 90.5, Lane.LIGHT: 90.5}


def test_a_job_that_came_back_waits_since_it_may_run_again(db: Database, clock: Clock) -> None:
    submit(db)
    held = claim(db)
    assert held is not None
    clock.advance(3_600_000)
    with db.write() as session:
        jobs.stop(session, **attempt(held), outcome=Outcome.LOSS, reason="process_lost", backoff_ms=2_000)
    assert taken(db).oldest_seconds[Lane.TRAIN] == 0
    clock.advance(5_000)
    assert 0 < taken(db).oldest_seconds[Lane.TRAIN] <= 5


@pytest.mark.parametrize("kind", ["sqlite"])
def test_jobs_that_ended_are_not_looked_at(db: Database) -> None:
    with db.read() as session:
        plan = [str(row) for row in session.execute(text(f"EXPLAIN QUERY PLAN {_sql()}"))]
    scans = [step for step in plan if "jobs" in step]
    assert len(scans) == 2
    assert all("USING" in step and ("job_ready" in step or "job_lease" in step) for step in scans), plan


def _sql() -> str:
    return str(census._COUNT)
