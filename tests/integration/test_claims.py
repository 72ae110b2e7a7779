"""Who gets which job, and when."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args

import pytest
from sqlalchemy import event, text

from gammabeta.schemas.jobs import JobRequest, JobState, Lane
from gammabeta.store import jobs, listing
from gammabeta.store.engine import Database
from gammabeta.store.jobs import Outcome
from gammabeta.store.tables import DEFAULT_PROJECT
from tests.integration.databases import Clock
from tests.integration.samples import attempt, claim, claimed, new_job, submit

CLAIM: dict[str, Any] = {"worker_id": "a", "lane": Lane.TRAIN, "free": 1, "ttl_ms": 1_000, "device": "cpu"}


def test_nothing_is_claimed_from_an_empty_queue(db: Database) -> None:
    assert claim(db) is None


def test_claims_go_by_priority_then_by_age(db: Database, clock: Clock) -> None:
    order = {}
    for name, priority in {"old": 0, "older": 0, "urgent": 5, "patient": -5}.items():
        order[submit(db, priority=priority)] = name
        clock.advance(1)
    taken = [claim(db) for _ in order]
    assert [order[each.job_id] for each in taken if each] == ["urgent", "old", "older", "patient"]


def test_jobs_of_the_same_millisecond_go_in_the_order_of_submission(db: Database) -> None:
    submitted = [submit(db) for _ in range(5)]
    assert [each.job_id for _ in submitted if (each := claim(db))] == submitted


def test_a_claim_takes_only_its_lane(db: Database) -> None:
    submit(db, lane=Lane.TRAIN)
    assert claim(db, lane=Lane.LIGHT) is None


def test_a_claim_takes_no_more_devices_than_are_free(db: Database) -> None:
    submit(db, devices=2, priority=9)
    small = submit(db, devices=1)
    taken = claim(db, free=1)
    assert taken is not None
    assert taken.job_id == small
    assert claim(db, free=1) is None
    assert claim(db, free=2) is not None


def test_a_claim_says_what_the_holder_needs(db: Database) -> None:
    job_id = submit(db, request={"training": {"epochs": 3}}, model="digits")
    taken = claim(db)
    assert taken is not None
    assert (taken.job_id, taken.fence, taken.kind, taken.model) == (job_id, 1, "train", "digits")
    assert taken.request == {"training": {"epochs": 3}}
    with db.read() as session:
        row = jobs.get(session, DEFAULT_PROJECT, job_id)
    assert (row.state, row.worker_id, row.device, row.started_ms) == (JobState.RUNNING, "w1", "cpu", row.created_ms)


def test_each_claim_raises_the_fence(db: Database) -> None:
    submit(db, max_losses=9)
    for fence in (1, 2, 3):
        taken = claim(db)
        assert taken is not None
        assert taken.fence == fence
        with db.write() as session:
            jobs.stop(session, **attempt(taken), outcome=Outcome.LOSS)


def test_a_job_waits_for_its_backoff(db: Database, clock: Clock) -> None:
    taken = claimed(db)
    with db.write() as session:
        jobs.stop(session, **attempt(taken), outcome=Outcome.LOSS, backoff_ms=2_000)
    clock.advance(1_599)
    assert claim(db) is None
    clock.advance(801)
    assert claim(db) is not None


def test_a_drained_job_keeps_its_place(db: Database, clock: Clock) -> None:
    first = claimed(db)
    clock.advance(10)
    submit(db)
    with db.write() as session:
        assert jobs.stop(session, **attempt(first), outcome=Outcome.DRAIN) == JobState.QUEUED
    again = claim(db)
    assert again is not None
    assert again.job_id == first.job_id
    assert (again.failures, again.losses) == (0, 0)


def test_queue_positions_count_from_one_within_the_lane(db: Database, clock: Clock) -> None:
    submit(db, lane=Lane.LIGHT)
    ids = [submit(db, priority=priority) for priority in (0, 0, 3)]
    with db.read() as session:
        rows = [jobs.get(session, DEFAULT_PROJECT, each) for each in ids]
        assert [listing.queue_position(session, row) for row in rows] == [2, 3, 1]
    claim(db)
    with db.read() as session:
        rows = [jobs.get(session, DEFAULT_PROJECT, each) for each in ids]
        assert [listing.queue_position(session, row) for row in rows] == [1, 2, None]


def test_concurrent_claims_never_take_a_job_twice(db: Database) -> None:
    with db.write() as session:
        submitted = {jobs.submit(session, new_job()).id for _ in range(200)}

    def drain(worker: str) -> list[str]:
        taken = []
        while one := claim(db, worker=worker):
            assert one.fence == 1
            taken.append(one.job_id)
        return taken

    with ThreadPoolExecutor(4) as threads:
        taken = [each for batch in threads.map(drain, "abcd") for each in batch]
    assert Counter(taken) == dict.fromkeys(submitted, 1)


def test_a_worker_knows_every_kind_that_can_be_asked_for() -> None:
    asked = get_args(get_args(JobRequest)[0])
    kinds = {get_args(each)[0].model_fields["kind"].default for each in asked}
    assert set(jobs.KINDS) == kinds | {jobs.INGEST}


def test_a_job_of_a_kind_that_this_version_does_not_know_waits_for_a_worker_that_does(db: Database) -> None:
    newer = submit(db, kind="distill")
    known = submit(db)
    taken = claim(db)
    assert taken is not None
    assert taken.job_id == known
    assert claim(db) is None
    with db.read() as session:
        assert jobs.get(session, DEFAULT_PROJECT, newer).state == JobState.QUEUED


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_a_claim_passes_over_a_row_that_another_claim_has_locked(db: Database) -> None:
    first, second = submit(db), submit(db)
    with db.write() as session:
        held = jobs.claim(session, **CLAIM)
        other = claim(db, worker="b")
        assert held is not None
        assert other is not None
        assert (held.job_id, other.job_id) == (first, second)


def test_claiming_and_reaping_read_the_partial_indexes(db: Database) -> None:
    """A planner that cannot see the state in the statement would read the whole table."""
    submit(db)
    for act, index in ((lambda s: jobs.claim(s, **CLAIM), "job_ready"), (jobs.reap, "job_lease")):
        seen: list[tuple[str, Any]] = []
        with db.write() as session:
            connection = session.connection()
            if db.dialect == "postgresql":
                connection.execute(text("SET LOCAL enable_seqscan = off"))  # one row is not worth an index
            event.listen(connection, "before_cursor_execute", lambda *call, seen=seen: seen.append((call[2], call[3])))
            act(session)
            explain = "EXPLAIN QUERY PLAN" if db.dialect == "sqlite" else "EXPLAIN"
            plan = connection.exec_driver_sql(f"{explain} {seen[0][0]}", seen[0][1]).all()
        assert index in str(plan)
