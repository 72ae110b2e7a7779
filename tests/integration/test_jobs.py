"""What may happen to a job, and what may not."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select

from gammabeta.errors import DatasetNotFound, InvalidRequest, JobNotFound, WrongState
from gammabeta.schemas.jobs import JobState, JobStatus, Lane
from gammabeta.store import checkpoints, datasets, events, jobs, listing, models, publishing
from gammabeta.store.engine import Database
from gammabeta.store.events import MetricRow
from gammabeta.store.jobs import Claim, Outcome
from gammabeta.store.tables import DEFAULT_PROJECT, EventRow, JobRow, PointRow, VersionRow
from tests.integration.databases import Clock
from tests.integration.samples import (
    TTL,
    attempt,
    claim,
    claimed,
    dataset,
    ingestion,
    manifest,
    publication,
    submit,
)


def read(db: Database, job_id: str) -> JobRow:
    with db.read() as session:
        return jobs.get(session, DEFAULT_PROJECT, job_id)


def stop(db: Database, held: Claim, outcome: Outcome, **details: Any) -> JobState | None:
    with db.write() as session:
        return jobs.stop(session, **attempt(held), outcome=outcome, **details)


def publish(db: Database, held: Claim, **changes: Any) -> str | None:
    with db.write() as session:
        return publishing.publish_version(session, **attempt(held), publication=publication(**changes))


def reap(db: Database) -> list[tuple[str, JobState]]:
    with db.write() as session:
        return jobs.reap(session)


def heartbeat(db: Database, held: Claim, **progress: Any) -> jobs.Flags | None:
    with db.write() as session:
        return jobs.heartbeat(session, **attempt(held), ttl_ms=TTL, progress=progress or None)


def cancel(db: Database, job_id: str) -> JobRow:
    with db.write() as session:
        return jobs.request_cancel(session, DEFAULT_PROJECT, job_id)


def pause(db: Database, job_id: str) -> JobRow:
    with db.write() as session:
        return jobs.request_pause(session, DEFAULT_PROJECT, job_id)


def types(db: Database, job_id: str) -> list[str]:
    with db.read() as session:
        return [event.type for event in events.events_of(session, job_id)]


def taken_over(db: Database, clock: Clock) -> tuple[Claim, Claim]:
    """A holder that was reaped and does not know it, and its successor."""
    zombie = claimed(db)
    clock.advance(TTL + 1)
    assert reap(db) == [(zombie.job_id, JobState.QUEUED)]
    clock.advance(3_000)
    successor = claim(db, worker="w2")
    assert successor is not None
    return zombie, successor


def test_a_submitted_job_is_queued_with_its_metadata_and_request(db: Database) -> None:
    row = read(db, submit(db, metadata={"team": "a"}, request={"model": "digits", "training": {"epochs": 3}}))
    shown = listing.to_schema(row, queue_position=1)
    assert (shown.status, shown.attempt, shown.metadata, shown.queue_position) == ("queued", 0, {"team": "a"}, 1)
    assert shown.request["training"] == {"epochs": 3}


def test_a_job_cannot_be_submitted_on_a_dataset_that_is_not_there(db: Database) -> None:
    with pytest.raises(DatasetNotFound, match="ds_none"):
        submit(db, dataset_id="ds_none")


def test_a_job_cannot_be_submitted_on_a_dataset_that_is_not_ready(db: Database) -> None:
    with pytest.raises(WrongState, match="validating"):
        submit(db, dataset_id=dataset(db))


def test_a_job_that_is_not_there_is_not_found(db: Database) -> None:
    with pytest.raises(JobNotFound, match="job_none"):
        read(db, "job_none\0")


def test_a_heartbeat_renews_the_lease_and_notes_progress(db: Database, clock: Clock) -> None:
    held = claimed(db)
    clock.advance(TTL - 1)
    assert heartbeat(db, held, step=5, steps=10) == jobs.Flags(cancel_requested=False, pause_requested=False)
    clock.advance(TTL - 1)
    assert reap(db) == []
    assert heartbeat(db, held) is not None
    assert read(db, held.job_id).progress == {"step": 5, "steps": 10}


def test_a_late_heartbeat_of_the_holder_is_allowed_until_it_is_reaped(db: Database, clock: Clock) -> None:
    held = claimed(db)
    clock.advance(2 * TTL)
    assert heartbeat(db, held) is not None
    assert reap(db) == []


def test_publishing_makes_one_version_and_ends_the_job(db: Database) -> None:
    held = claimed(db)
    assert publish(db, held) == "1"
    shown = listing.to_schema(read(db, held.job_id))
    assert (shown.status, shown.version, shown.error) == ("succeeded", "1", None)
    assert types(db, held.job_id) == ["submitted", "claimed", "succeeded"]
    assert publish(db, held) is None


def test_a_reaped_holder_cannot_write_anything(db: Database, clock: Clock) -> None:
    zombie, successor = taken_over(db, clock)
    held = attempt(zombie)
    with db.write() as session:
        assert jobs.heartbeat(session, **held, ttl_ms=TTL) is None
        assert not checkpoints.add_checkpoint(session, **held, ttl_ms=TTL, step=5, uri="x", sha256="y", bytes=1)
        assert not events.add_metrics(session, **held, rows=[MetricRow(step=1, epoch=1, values={"loss": 1.0})])
        assert not events.add_event(session, **held, type="epoch", data={})
        assert not events.add_warning(session, **held, code="cold", message="…")
        assert jobs.stop(session, **held, outcome=Outcome.FAILURE) is None
        assert publishing.publish_version(session, **held, publication=publication()) is None
    with db.read() as session:
        assert checkpoints.checkpoints_of(session, zombie.job_id) == []
        assert session.scalar(select(func.count()).select_from(PointRow)) == 0
        assert session.scalar(select(func.count()).select_from(VersionRow)) == 0
    row = read(db, successor.job_id)
    assert (row.state, row.fence, row.worker_id, row.losses) == (JobState.RUNNING, 2, "w2", 1)


def test_a_reaped_holder_that_was_not_replaced_cannot_publish_either(db: Database, clock: Clock) -> None:
    zombie = claimed(db)
    clock.advance(TTL + 1)
    reap(db)
    assert publish(db, zombie) is None
    assert heartbeat(db, zombie) is None


def test_the_successor_publishes_once(db: Database, clock: Clock) -> None:
    zombie, successor = taken_over(db, clock)
    assert publish(db, successor) == "1"
    assert publish(db, successor) is None
    assert publish(db, zombie) is None
    with db.read() as session:
        assert models.get_version(session, DEFAULT_PROJECT, "digits").fence == 2


def test_a_job_with_a_requested_cancel_is_never_published(db: Database) -> None:
    held = claimed(db)
    assert listing.status_of(cancel(db, held.job_id)) == "cancelling"
    assert publish(db, held) is None
    flags = heartbeat(db, held)
    assert flags is not None
    assert flags.cancel_requested
    assert stop(db, held, Outcome.CANCEL) == JobState.CANCELLED
    with db.read() as session:
        assert session.scalar(select(func.count()).select_from(VersionRow)) == 0


@pytest.mark.parametrize("outcome", list(Outcome))
def test_whatever_ends_a_cancelled_attempt_the_job_is_cancelled(db: Database, outcome: Outcome) -> None:
    held = claimed(db)
    cancel(db, held.job_id)
    assert stop(db, held, outcome, reason="anything") == JobState.CANCELLED


def test_a_queued_job_is_cancelled_at_once(db: Database) -> None:
    job_id = submit(db)
    assert cancel(db, job_id).state == JobState.CANCELLED
    assert claim(db) is None
    assert types(db, job_id) == ["submitted", "cancelled"]


def test_a_cancel_is_noted_once(db: Database) -> None:
    held = claimed(db)
    cancel(db, held.job_id)
    cancel(db, held.job_id)
    assert types(db, held.job_id).count("cancel_requested") == 1


def test_an_ended_job_cannot_be_cancelled_and_the_error_names_its_state(db: Database) -> None:
    held = claimed(db)
    publish(db, held)
    with pytest.raises(WrongState, match="succeeded"):
        cancel(db, held.job_id)


def test_a_cancelled_holder_that_dies_leaves_a_cancelled_job(db: Database, clock: Clock) -> None:
    held = claimed(db)
    cancel(db, held.job_id)
    clock.advance(TTL + 1)
    assert reap(db) == [(held.job_id, JobState.CANCELLED)]


def test_a_failure_ends_the_job_with_its_reason(db: Database) -> None:
    held = claimed(db, max_failures=5)
    assert stop(db, held, Outcome.FAILURE, reason="oom_cuda", message="out of\0memory \ud800") == JobState.FAILED
    error = listing.to_schema(read(db, held.job_id)).error
    assert error is not None
    assert (error.code, error.message) == ("oom_cuda", "out of\ufffdmemory \ufffd")


def test_a_retryable_failure_is_tried_again_up_to_the_limit(db: Database) -> None:
    held = claimed(db, max_failures=2)
    assert stop(db, held, Outcome.RETRYABLE_FAILURE, reason="no_space") == JobState.QUEUED
    assert listing.status_of(read(db, held.job_id)) == "retrying"
    again = claim(db)
    assert again is not None
    assert again.failures == 1
    assert stop(db, again, Outcome.RETRYABLE_FAILURE, reason="no_space") == JobState.FAILED


def test_losses_at_the_limit_are_poison(db: Database) -> None:
    job_id = submit(db)
    states = []
    for _ in range(3):
        held = claim(db)
        assert held is not None
        states.append(stop(db, held, Outcome.LOSS, reason="signal_11", message="The trainer was killed by signal 11."))
    assert states == [JobState.QUEUED, JobState.QUEUED, JobState.FAILED]
    row = read(db, job_id)
    assert (row.reason, row.message, row.losses) == ("poison", "The trainer was killed by signal 11.", 3)


def test_leases_that_expire_up_to_the_limit_end_the_job(db: Database, clock: Clock) -> None:
    job_id = submit(db)
    for _ in range(3):
        clock.advance(10_000)
        assert claim(db) is not None
        clock.advance(TTL + 1)
        reaped = reap(db)
    assert reaped == [(job_id, JobState.FAILED)]
    error = listing.to_schema(read(db, job_id)).error
    assert error is not None
    assert error.code == "lease_expired"


def _pause(db: Database, clock: Clock, job_id: str) -> int:
    return read(db, job_id).run_after_ms - clock.ms


def test_the_pause_after_a_loss_doubles_up_to_five_minutes_however_it_was_noticed(db: Database, clock: Clock) -> None:
    job_id = submit(db, max_losses=20)
    for losses, seconds in enumerate((2, 4, 8, 16, 32, 64, 128, 256, 300, 300)):
        held = claim(db)
        assert held is not None
        if losses % 2:
            clock.advance(TTL + 1)
            reap(db)
        else:
            stop(db, held, Outcome.LOSS, backoff_ms=2_000)
        assert 800 * seconds <= _pause(db, clock, job_id) <= 1_200 * seconds
        clock.advance(_pause(db, clock, job_id) - 1)
        assert claim(db) is None
        clock.advance(1)


def test_what_is_charged_to_no_counter_waits_for_nothing(db: Database, clock: Clock) -> None:
    held = claimed(db)
    stop(db, held, Outcome.DRAIN, backoff_ms=2_000)
    assert _pause(db, clock, held.job_id) == 0


def test_by_default_what_may_pass_is_tried_three_times_and_what_comes_again_once(db: Database) -> None:
    submit(db)
    states = []
    while held := claim(db):
        states.append(stop(db, held, Outcome.RETRYABLE_FAILURE))
    assert states == [JobState.QUEUED, JobState.QUEUED, JobState.FAILED]
    assert stop(db, claimed(db), Outcome.FAILURE) == JobState.FAILED


def test_two_reapers_reap_a_job_once(db: Database, clock: Clock) -> None:
    for _ in range(20):
        claimed(db)
    clock.advance(TTL + 1)
    with ThreadPoolExecutor(4) as threads:
        reaped = [each for batch in threads.map(lambda _: reap(db), range(4)) for each in batch]
    assert len(reaped) == len(set(reaped)) == 20


def test_a_paused_job_is_charged_nothing_and_resumes_with_a_higher_fence(db: Database) -> None:
    held = claimed(db)
    pause(db, held.job_id)
    flags = heartbeat(db, held)
    assert flags is not None
    assert flags.pause_requested
    assert stop(db, held, Outcome.PAUSE) == JobState.PAUSED
    assert claim(db) is None
    with db.write() as session:
        row = jobs.resume(session, DEFAULT_PROJECT, held.job_id)
    assert (row.state, row.fence, row.failures, row.losses) == (JobState.QUEUED, 1, 0, 0)
    again = claim(db)
    assert again is not None
    assert again.fence == 2
    flags = heartbeat(db, again)
    assert flags is not None
    assert not flags.pause_requested


def test_a_retry_clears_the_counters_and_never_the_fence(db: Database) -> None:
    held = claimed(db)
    stop(db, held, Outcome.FAILURE, reason="diverged", message="…")
    with db.write() as session:
        row = jobs.retry(session, DEFAULT_PROJECT, held.job_id)
    assert (row.state, row.fence, row.failures, row.reason, row.finished_ms) == (JobState.QUEUED, 1, 0, None, None)
    again = claim(db)
    assert again is not None
    assert publish(db, again) == "1"


def test_operators_are_refused_in_the_wrong_state(db: Database) -> None:
    job_id = submit(db)
    for act in (jobs.request_pause, jobs.resume, jobs.retry):
        with pytest.raises(WrongState, match="queued"), db.write() as session:
            act(session, DEFAULT_PROJECT, job_id)


def test_concurrent_publications_get_distinct_numbers(db: Database) -> None:
    held = [claimed(db) for _ in range(12)]
    with ThreadPoolExecutor(4) as threads:
        versions = list(threads.map(lambda each: publish(db, each), held))
    assert sorted(int(version) for version in versions if version) == list(range(1, 13))


def test_events_are_read_behind_a_cursor_for_one_and_for_many_jobs(db: Database) -> None:
    first, second = claimed(db), claimed(db)
    with db.read() as session:
        seen = {job: [row.id for row in events.events_of(session, job)] for job in (first.job_id, second.job_id)}
        assert [row.type for row in events.events_of(session, first.job_id, after=seen[first.job_id][0])] == ["claimed"]
        new = events.events_after(session, {first.job_id: seen[first.job_id][0], second.job_id: 0})
        assert [(row.job_id, row.type) for row in new] == [
            (first.job_id, "claimed"),
            (second.job_id, "submitted"),
            (second.job_id, "claimed"),
        ]
        assert events.events_of(session, first.job_id, after=2**70) == []
        assert events.events_after(session, {}) == []


def test_a_warning_is_shown_once_though_two_attempts_gave_it(db: Database) -> None:
    job_id = submit(db)
    for _ in range(2):
        held = claim(db)
        assert held is not None
        with db.write() as session:
            assert events.add_warning(session, **attempt(held), code="cold", message="Not warmed up.")
        stop(db, held, Outcome.DRAIN)
    assert read(db, job_id).warnings == [{"code": "cold", "message": "Not warmed up."}]


def points(db: Database, held: Claim, steps: range, value: float) -> None:
    rows = [MetricRow(step=step, epoch=1, values={"loss": value, "accuracy": None}) for step in steps]
    with db.write() as session:
        assert events.add_metrics(session, **attempt(held), rows=rows)


def test_metrics_of_an_attempt_end_where_the_next_one_went_on(db: Database) -> None:
    first = claimed(db)
    points(db, first, range(10, 60, 10), 1.0)
    stop(db, first, Outcome.LOSS)
    second = claim(db)
    assert second is not None
    with db.write() as session:
        events.add_event(session, **attempt(second), type="resumed", data={"step": 20})
    points(db, second, range(35, 55, 10), 2.0)
    with db.read() as session:
        (loss,) = events.metrics_of(session, first.job_id, ["loss"]).series
    assert (loss.step, loss.value) == ([10, 20, 35, 45], [1.0, 1.0, 2.0, 2.0])


def test_metrics_of_an_attempt_that_went_back_to_the_beginning_are_the_only_ones(db: Database) -> None:
    first = claimed(db)
    points(db, first, range(1, 60, 10), 1.0)
    stop(db, first, Outcome.DRAIN)
    second = claim(db)
    assert second is not None
    with db.write() as session:
        events.add_event(session, **attempt(second), type="resumed", data={"step": 0})
    with db.read() as session:
        assert events.metrics_of(session, first.job_id).series == ()
    points(db, second, range(35, 55, 10), 2.0)
    with db.read() as session:
        (loss,) = events.metrics_of(session, first.job_id, ["loss"]).series
    assert (loss.step, loss.value) == ([35, 45], [2.0, 2.0])


def test_metrics_of_an_attempt_that_began_anew_replace_the_older_ones(db: Database) -> None:
    first = claimed(db)
    points(db, first, range(10, 60, 10), 1.0)
    stop(db, first, Outcome.LOSS)
    second = claim(db)
    assert second is not None
    points(db, second, range(10, 30, 10), 2.0)
    with db.read() as session:
        series = events.metrics_of(session, first.job_id).series
    assert {one.name: one.value for one in series} == {"loss": [2.0, 2.0], "accuracy": [None, None]}
    assert series[0].step == [10, 20]


def test_a_value_that_is_not_finite_is_stored_as_null(db: Database) -> None:
    held = claimed(db)
    points(db, held, range(1, 2), float("nan"))
    with db.read() as session:
        assert events.metrics_of(session, held.job_id, ["loss"]).series[0].value == [None]


def test_checkpoints_are_listed_newest_first_and_renew_the_lease(db: Database, clock: Clock) -> None:
    held = claimed(db)

    def save(current: Claim, step: int) -> bool:
        uri = f"jobs/{current.job_id}/f{current.fence:06d}/ckpt-{step}"
        details: dict[str, Any] = {"ttl_ms": TTL, "step": step, "uri": uri, "sha256": "aa", "bytes": 9}
        with db.write() as session:
            return checkpoints.add_checkpoint(session, **attempt(current), **details)

    clock.advance(TTL)
    assert save(held, 100)
    assert save(held, 200)
    assert save(held, 200)
    clock.advance(TTL)
    assert reap(db) == []
    stop(db, held, Outcome.LOSS)
    again = claim(db)
    assert again is not None
    assert save(again, 150)
    with db.read() as session:
        found = checkpoints.checkpoints_of(session, held.job_id)
    assert [(row.fence, row.step) for row in found] == [(2, 150), (1, 200), (1, 100)]


def test_only_the_holder_forgets_older_checkpoints_and_it_keeps_the_newest(db: Database, clock: Clock) -> None:
    zombie, held = taken_over(db, clock)
    for step in (10, 20, 30):
        with db.write() as session:
            place: dict[str, Any] = {"step": step, "uri": f"ckpt-{step}", "sha256": "aa", "bytes": 9}
            assert checkpoints.add_checkpoint(session, **attempt(held), ttl_ms=TTL, **place)
    with db.write() as session:
        assert checkpoints.forget_older(session, **attempt(zombie), kept=1) == []
        assert checkpoints.forget_older(session, **attempt(held), kept=2) == ["ckpt-10"]
        assert [row.step for row in checkpoints.checkpoints_of(session, held.job_id)] == [30, 20]
        checkpoints.forget(session, held.job_id, fence=zombie.fence)
        assert [row.step for row in checkpoints.checkpoints_of(session, held.job_id)] == [30, 20]
        checkpoints.forget(session, held.job_id, fence=held.fence)
        assert checkpoints.checkpoints_of(session, held.job_id) == []


def test_jobs_are_found_by_what_is_shown_of_them(db: Database) -> None:
    running = claimed(db, model="a")
    cancelling = claimed(db, model="b")
    cancel(db, cancelling.job_id)
    retrying = claimed(db, metadata={"team": "x"})
    stop(db, retrying, Outcome.DRAIN)
    queued = submit(db, kind="other", metadata={"team": "y"})

    def found(**filters: Any) -> list[str]:
        with db.read() as session:
            return [row.id for row in listing.find(session, DEFAULT_PROJECT, **filters)]

    everything = [queued, retrying.job_id, cancelling.job_id, running.job_id]
    assert found() == everything
    assert found(ascending=True) == everything[::-1]
    statuses: list[JobStatus] = ["queued", "retrying", "cancelling", "running"]
    assert [found(statuses=[status]) for status in statuses] == [[each] for each in everything]
    assert found(statuses=["queued", "running"]) == [queued, running.job_id]
    assert found(kind="other") == [queued]
    assert found(model="b") == [cancelling.job_id]
    assert found(metadata={"team": "x"}) == [retrying.job_id]
    assert found(metadata={"team": "z", "it's": "\0"}) == []
    assert found(limit=2, after=everything[0]) == everything[1:3]
    assert found(ascending=True, after=everything[2]) == everything[1::-1]
    with pytest.raises(InvalidRequest, match="quotes"):
        found(metadata={'a"b': "x"})


def test_jobs_of_another_project_are_not_seen(db: Database) -> None:
    job_id = submit(db)
    with db.read() as session:
        assert listing.find(session, "other") == []
        with pytest.raises(JobNotFound):
            jobs.get(session, "other", job_id)


def test_an_ingestion_makes_its_dataset_ready(db: Database) -> None:
    dataset_id = dataset(db)
    held = ingestion(db, dataset_id)
    with db.write() as session:
        assert publishing.publish_dataset(session, **attempt(held), dataset_id=dataset_id, manifest=manifest())
        assert not publishing.publish_dataset(session, **attempt(held), dataset_id=dataset_id, manifest=manifest())
        assert datasets.get(session, DEFAULT_PROJECT, dataset_id).state == "ready"
    assert read(db, held.job_id).state == JobState.SUCCEEDED


def _refused(db: Database, clock: Clock, held: Claim) -> None:
    stop(db, held, Outcome.FAILURE, reason="ragged_rows", message="line 7\0")


def _failed(db: Database, clock: Clock, held: Claim) -> None:
    stop(db, held, Outcome.FAILURE, reason="oom_host", message="…")


def _lost(db: Database, clock: Clock, held: Claim) -> None:
    stop(db, held, Outcome.LOSS, reason="signal_9", message="…")


def _reaped(db: Database, clock: Clock, held: Claim) -> None:
    clock.advance(TTL + 1)
    assert reap(db) == [(held.job_id, JobState.FAILED)]


def _cancelled(db: Database, clock: Clock, held: Claim) -> None:
    cancel(db, held.job_id)
    stop(db, held, Outcome.CANCEL)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (_refused, "ragged_rows"),
        (_failed, "oom_host"),
        (_lost, "poison"),
        (_reaped, "lease_expired"),
        (_cancelled, "cancelled"),
    ],
)
def test_a_dataset_fails_with_its_ingestion(db: Database, clock: Clock, end: Any, code: str) -> None:
    dataset_id = dataset(db)
    submit(db, kind=jobs.INGEST, lane=Lane.LIGHT, devices=0, model=None, dataset_id=dataset_id, max_losses=1)
    held = claim(db, lane=Lane.LIGHT)
    assert held is not None
    end(db, clock, held)
    with db.read() as session:
        shown = datasets.to_schema(datasets.get(session, DEFAULT_PROJECT, dataset_id))
    assert shown.state == "failed"
    assert shown.error is not None
    assert shown.error.code == code


def test_a_dataset_fails_when_its_queued_ingestion_is_cancelled(db: Database) -> None:
    dataset_id = dataset(db)
    cancel(db, submit(db, kind=jobs.INGEST, lane=Lane.LIGHT, devices=0, model=None, dataset_id=dataset_id))
    with db.read() as session:
        assert datasets.get(session, DEFAULT_PROJECT, dataset_id).state == "failed"


def test_a_dataset_waits_while_its_ingestion_is_tried_again(db: Database) -> None:
    dataset_id = dataset(db)
    held = ingestion(db, dataset_id)
    assert stop(db, held, Outcome.LOSS) == JobState.QUEUED
    with db.read() as session:
        assert datasets.get(session, DEFAULT_PROJECT, dataset_id).state == "validating"


def test_the_events_of_an_attempt_name_its_outcome(db: Database) -> None:
    job_id = submit(db, max_failures=2)
    for outcome in (Outcome.LOSS, Outcome.DRAIN, Outcome.RETRYABLE_FAILURE):
        held = claim(db)
        assert held is not None
        stop(db, held, outcome)
    with db.read() as session:
        rows = session.scalars(select(EventRow).where(EventRow.job_id == job_id, EventRow.type == "requeued"))
        assert [row.data["outcome"] for row in rows] == ["loss", "drain", "failure"]
