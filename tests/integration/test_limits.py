"""How many jobs may wait and run, counted exactly, whoever submits and claims at the same time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from gammabeta.errors import GammabetaError, QueueFull, QuotaExceeded
from gammabeta.schemas.jobs import JobState, Lane
from gammabeta.store import jobs
from gammabeta.store.engine import Database
from gammabeta.store.jobs import Claim, Outcome
from gammabeta.store.limits import QueueLimits, RunningLimits
from gammabeta.store.tables import DEFAULT_PROJECT
from tests.integration.samples import TTL, attempt, claimed, new_job, submit
from tests.integration.workshop import workshop


def submitted(db: Database, limits: QueueLimits, owner: str = "anonymous") -> str:
    """The id of the job, or the code of the refusal."""
    try:
        with db.write() as session:
            return jobs.submit(session, new_job(owner_id=owner), limits=limits).id
    except GammabetaError as error:
        return error.code


def taken(db: Database, limits: RunningLimits, lane: Lane = Lane.TRAIN) -> Claim | None:
    with db.write() as session:
        return jobs.claim(session, worker_id="w1", lane=lane, free=1, ttl_ms=TTL, device="cpu", limits=limits)


def at_once(threads: int, work: Callable[[], object]) -> list[object]:
    start = Barrier(threads)

    def one(_: int) -> object:
        start.wait(10)
        return work()

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, range(threads)))


def test_a_job_over_the_quota_of_its_key_is_refused_and_another_key_is_not(db: Database) -> None:
    limits = QueueLimits(of_owner=2)
    assert [submitted(db, limits) for _ in range(3)][2] == "quota_exceeded"
    assert submitted(db, limits, "other").startswith("job_")


def test_a_full_queue_takes_no_job_of_anybody_until_one_is_claimed(db: Database) -> None:
    limits = QueueLimits(jobs=2)
    for owner in ("one", "other"):
        assert submitted(db, limits, owner).startswith("job_")
    assert submitted(db, limits, "third") == "queue_full"
    assert taken(db, RunningLimits()) is not None
    assert submitted(db, limits, "third").startswith("job_")


def test_a_refusal_says_what_to_do_and_when(db: Database) -> None:
    submit(db)
    with pytest.raises(QueueFull, match=r"At most 1 jobs? may be queued.*Wait") as refusal, db.write() as session:
        jobs.submit(session, new_job(), limits=QueueLimits(jobs=1))
    assert refusal.value.retry_after > 0
    with pytest.raises(QuotaExceeded, match="cancel one"), db.write() as session:
        jobs.submit(session, new_job(), limits=QueueLimits(jobs=1, of_owner=1))


def test_jobs_that_are_submitted_at_once_never_go_over_the_limit(db: Database) -> None:
    limits = QueueLimits(jobs=5)
    answers = at_once(8, lambda: [submitted(db, limits) for _ in range(4)])
    codes = [each for some in answers for each in some]  # type: ignore[attr-defined]
    assert len([each for each in codes if each.startswith("job_")]) == 5
    assert codes.count("queue_full") == 27


def test_a_job_that_comes_back_to_a_full_queue_is_not_refused(db: Database) -> None:
    held = claimed(db)
    submit(db)
    with db.write() as session:
        jobs.stop(session, **attempt(held), outcome=Outcome.DRAIN)
    assert submitted(db, QueueLimits(jobs=1)) == "queue_full"
    assert taken(db, RunningLimits()) is not None


def test_a_model_with_as_many_trainings_as_may_run_is_passed_over_for_the_next(db: Database) -> None:
    limits = RunningLimits(of_model=1)
    for model in ("digits", "digits", "faces", None):
        submit(db, model=model)
    first, second, third = (taken(db, limits) for _ in range(3))
    assert [each and each.model for each in (first, second, third)] == ["digits", "faces", None]
    assert taken(db, limits) is None
    assert first is not None
    with db.write() as session:
        jobs.stop(session, **attempt(first), outcome=Outcome.FAILURE)
    after = taken(db, limits)
    assert after is not None
    assert after.model == "digits"


def test_jobs_without_a_model_are_not_held_back_by_it(db: Database) -> None:
    for _ in range(2):
        submit(db, model=None)
    assert all(taken(db, RunningLimits(of_model=1)) for _ in range(2))


def test_a_key_with_as_many_trainings_as_may_run_is_passed_over_for_another(db: Database) -> None:
    limits = RunningLimits(of_owner=2)
    mine = [submit(db, model=f"m{number}") for number in range(3)]
    other = submit(db, owner_id="other")
    found = [taken(db, limits) for _ in range(4)]
    assert [each and each.job_id for each in found] == [*mine[:2], other, None]


def test_short_work_is_neither_counted_nor_held_back(db: Database) -> None:
    limits = RunningLimits(of_owner=1)
    submit(db)
    for _ in range(2):
        submit(db, lane=Lane.LIGHT, model=None)
    found = [taken(db, limits, lane) for lane in (Lane.LIGHT, Lane.TRAIN, Lane.LIGHT)]
    assert all(found)


def test_claims_at_once_never_run_more_than_the_limit(db: Database) -> None:
    limits = RunningLimits(of_model=2, of_owner=3)
    with db.write() as session:
        for number in range(20):
            jobs.submit(session, new_job(model=f"m{number % 2}"))
    rounds = 0
    while True:
        found = [each for each in at_once(6, lambda: taken(db, limits)) if isinstance(each, Claim)]
        if not found:
            break
        rounds += 1
        models = [each.model for each in found]
        assert len(found) == min(3, 20 - 3 * (rounds - 1))
        assert max(models.count(model) for model in models) <= 2
        with db.write() as session:
            for each in found:
                jobs.stop(session, **attempt(each), outcome=Outcome.FAILURE)
    assert rounds == 7


def test_a_cancelled_job_leaves_room_in_the_queue(db: Database) -> None:
    limits = QueueLimits(of_owner=1)
    job_id = submitted(db, limits)
    assert submitted(db, limits) == "quota_exceeded"
    with db.write() as session:
        jobs.request_cancel(session, DEFAULT_PROJECT, job_id)
    assert submitted(db, limits).startswith("job_")


@pytest.mark.parametrize("kind", ["sqlite"])
def test_a_worker_keeps_to_the_limits_of_its_settings(url: str, tmp_path: Path) -> None:
    with workshop(tmp_path, url) as shop:
        shop.start(CPU_RANKS="2", MAX_RUNNING_PER_MODEL="1")
        dataset_id = shop.ready_dataset()
        first, second = shop.endless(dataset_id), shop.endless(dataset_id)
        other = shop.train(dataset_id, model="other", epochs=100_000)
        shop.in_state(other, JobState.RUNNING)
        assert (shop.job(first).state, shop.job(second).state) == (JobState.RUNNING, JobState.QUEUED)
        shop.cancel(first)
        shop.in_state(second, JobState.RUNNING)
