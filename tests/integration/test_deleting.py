"""What can be deleted, what keeps it, and who wins where something is deleted and used at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from gammabeta.errors import (
    DatasetNotFound,
    GammabetaError,
    JobNotFound,
    ModelNotFound,
    VersionNotFound,
    WrongState,
)
from gammabeta.schemas.batchnorm import BatchNormState
from gammabeta.schemas.jobs import JobState
from gammabeta.store import checkpoints, datasets, deleting, events, jobs, models, publishing
from gammabeta.store.engine import Database
from gammabeta.store.events import MetricRow
from gammabeta.store.jobs import Outcome
from gammabeta.store.tables import (
    DEFAULT_PROJECT,
    CheckpointRow,
    EventRow,
    JobRow,
    LayerRow,
    PointRow,
    StateRow,
    Table,
    VersionRow,
)
from tests.integration.samples import TTL, attempt, claim, claimed, layer, new_job, publication, submit
from tests.integration.test_datasets import ready
from tests.integration.test_models import publish, revision, set_alias

OTHER = BatchNormState((layer(seed=5),))


def delete_version(db: Database, version: str, model: str = "digits") -> None:
    with db.write() as session:
        deleting.delete_version(session, DEFAULT_PROJECT, model, version)


def delete_model(db: Database, model: str = "digits") -> None:
    with db.write() as session:
        deleting.delete_model(session, DEFAULT_PROJECT, model)


def delete_job(db: Database, job_id: str) -> None:
    with db.write() as session:
        deleting.delete_job(session, DEFAULT_PROJECT, job_id)


def numbers(db: Database, model: str = "digits") -> tuple[str, ...]:
    with db.read() as session:
        return models.version_numbers(session, models.get_model(session, DEFAULT_PROJECT, model))


def count(db: Database, *kinds: type[Table]) -> list[int]:
    with db.read() as session:
        return [session.scalars(select(func.count()).select_from(kind)).one() for kind in kinds]


def job_of(db: Database, version: str, model: str = "digits") -> JobRow:
    with db.read() as session:
        row = models.get_version(session, DEFAULT_PROJECT, model, version)
        return session.get_one(JobRow, row.job_id)


def predicting(db: Database, version: str, **changes: Any) -> str:
    request = {"model": "digits", "version": version}
    return submit(db, kind=jobs.PREDICT, request=request, uses_version=version, **changes)


def failed(db: Database, **changes: Any) -> str:
    held = claimed(db, **changes)
    with db.write() as session:
        jobs.stop(session, **attempt(held), outcome=Outcome.FAILURE, reason="training_error", message="no")
    return held.job_id


# ── versions ──


def test_a_version_that_nothing_names_goes_and_its_number_is_never_used_again(db: Database) -> None:
    publish(db)
    publish(db)
    before = revision(db)
    delete_version(db, "2")
    assert (numbers(db), revision(db)) == (("1",), before + 1)
    assert publish(db) == "3"
    with pytest.raises(VersionNotFound, match="no version '2'"):
        delete_version(db, "2")


def test_the_job_of_a_deleted_version_says_so_and_points_at_nothing(db: Database) -> None:
    publish(db)
    job = job_of(db, "1")
    delete_version(db, "1")
    with db.read() as session:
        after = jobs.get(session, DEFAULT_PROJECT, job.id)
    assert (after.state, after.version, after.model) == (JobState.SUCCEEDED, None, "digits")
    assert after.result == {"metrics": {"test": {"accuracy": 0.97}}, "deleted_version": "1"}


def test_a_state_goes_with_the_last_version_that_has_it(db: Database) -> None:
    publish(db)
    publish(db)
    publish(db, state=OTHER)
    delete_version(db, "1")
    assert count(db, StateRow, LayerRow) == [2, 2]
    delete_version(db, "2")
    assert count(db, StateRow, LayerRow) == [1, 1]
    delete_model(db)
    assert count(db, StateRow, LayerRow) == [0, 0]


def test_a_version_with_an_alias_stays_until_that_has_moved(db: Database) -> None:
    publish(db)
    publish(db)
    for alias in ("production", "canary"):
        set_alias(db, alias, "1")
    with pytest.raises(WrongState, match=r"Version 1 of 'digits' has the aliases canary, production"):
        delete_version(db, "1")
    for alias in ("production", "canary"):
        set_alias(db, alias, "2")
    delete_version(db, "1")
    with pytest.raises(WrongState, match="alias"):
        delete_version(db, "2")


def _queued(db: Database, job_id: str) -> None:
    """It is."""


def _running(db: Database, job_id: str) -> None:
    assert claim(db) is not None


def _paused(db: Database, job_id: str) -> None:
    held = claim(db)
    assert held is not None
    with db.write() as session:
        jobs.request_pause(session, DEFAULT_PROJECT, job_id)
        assert jobs.stop(session, **attempt(held), outcome=Outcome.PAUSE) == JobState.PAUSED


@pytest.mark.parametrize("bring", [_queued, _running, _paused])
def test_a_version_stays_while_a_job_that_has_not_ended_predicts_by_it(
    db: Database, bring: Callable[[Database, str], None]
) -> None:
    publish(db)
    publish(db)
    job_id = predicting(db, "1")
    bring(db, job_id)
    with pytest.raises(WrongState, match=rf"Version 1 of 'digits' is used by {job_id} \({bring.__name__[1:]}\)"):
        delete_version(db, "1")
    delete_version(db, "2")
    with pytest.raises(WrongState, match=job_id):
        delete_model(db)


def test_a_version_goes_when_the_jobs_that_predicted_by_it_have_ended(db: Database) -> None:
    publish(db)
    job_id = predicting(db, "1")
    with db.write() as session:
        jobs.request_cancel(session, DEFAULT_PROJECT, job_id)
    delete_version(db, "1")
    with pytest.raises(WrongState, match="Version 1 of 'digits' was deleted"), db.write() as session:
        jobs.retry(session, DEFAULT_PROJECT, job_id)


def test_a_parent_stays_for_as_long_as_its_child(db: Database) -> None:
    publish(db)
    publish(db, parent="1")
    with pytest.raises(WrongState, match="parent of version 2"):
        delete_version(db, "1")
    delete_version(db, "2")
    delete_version(db, "1")


def test_a_job_cannot_be_submitted_for_a_version_that_is_not_there(db: Database) -> None:
    publish(db)
    with pytest.raises(VersionNotFound, match="'2'"):
        predicting(db, "2")


# ── models ──


def test_a_deleted_model_is_not_there_and_its_numbers_are_never_used_again(db: Database) -> None:
    publish(db)
    publish(db)
    publish(db, "other")
    delete_model(db)
    with db.read() as session:
        assert [row.name for row in models.find_models(session, DEFAULT_PROJECT)] == ["other"]
        assert models.all_versions(session, DEFAULT_PROJECT) == [("other", "1")]
        with pytest.raises(ModelNotFound):
            models.get_version(session, DEFAULT_PROJECT, "digits")
    with pytest.raises(ModelNotFound):
        delete_model(db)
    assert publish(db) == "3"
    assert numbers(db) == ("3",)


def test_a_model_goes_with_its_last_version(db: Database) -> None:
    publish(db)
    delete_version(db, "1")
    with pytest.raises(ModelNotFound):
        numbers(db)
    with pytest.raises(ModelNotFound):
        set_alias(db, "production", "1")


def test_a_model_with_an_alias_or_a_job_that_has_not_ended_stays(db: Database) -> None:
    publish(db)
    set_alias(db, "production", "1")
    with pytest.raises(WrongState, match="The model 'digits' has the alias production"):
        delete_model(db)
    with db.write() as session:
        models.delete_alias(session, DEFAULT_PROJECT, "digits", "production")
    submitted = [submit(db) for _ in range(4)]
    with pytest.raises(WrongState, match=rf"{submitted[2]} \(queued\) and others") as refused:
        delete_model(db)
    assert submitted[3] not in refused.value.message
    with db.write() as session:
        for job_id in submitted:
            jobs.request_cancel(session, DEFAULT_PROJECT, job_id)
    delete_model(db)


# ── jobs ──


def test_an_ended_job_goes_with_its_events_series_and_checkpoints(db: Database) -> None:
    held = claimed(db)
    with db.write() as session:
        place = {"step": 1, "uri": f"jobs/{held.job_id}/f000001/ckpt-1", "sha256": "aa" * 32, "bytes": 9}
        assert checkpoints.add_checkpoint(session, **attempt(held), ttl_ms=TTL, **place)
        assert events.add_metrics(session, **attempt(held), rows=[MetricRow(step=1, epoch=1, values={"loss": 1.0})])
        jobs.stop(session, **attempt(held), outcome=Outcome.FAILURE)
    delete_job(db, held.job_id)
    assert count(db, JobRow, EventRow, PointRow, CheckpointRow) == [0, 0, 0, 0]
    with pytest.raises(JobNotFound):
        delete_job(db, held.job_id)


@pytest.mark.parametrize("bring", [_queued, _running, _paused])
def test_a_job_that_has_not_ended_is_not_deleted(db: Database, bring: Callable[[Database, str], None]) -> None:
    job_id = submit(db)
    bring(db, job_id)
    with pytest.raises(WrongState, match=f"This one is {bring.__name__[1:]}"):
        delete_job(db, job_id)


def test_a_job_stays_for_as_long_as_its_version(db: Database) -> None:
    publish(db)
    job = job_of(db, "1")
    with pytest.raises(WrongState, match="Delete version 1 of 'digits' first"):
        delete_job(db, job.id)
    delete_version(db, "1")
    delete_job(db, job.id)
    assert count(db, JobRow) == [0]


def test_another_project_deletes_nothing_of_this_one(db: Database) -> None:
    publish(db)
    job_id = failed(db)
    for act, wanted in (
        (lambda s: deleting.delete_version(s, "other", "digits", "1"), ModelNotFound),
        (lambda s: deleting.delete_model(s, "other", "digits"), ModelNotFound),
        (lambda s: deleting.delete_job(s, "other", job_id), JobNotFound),
    ):
        with pytest.raises(wanted), db.write() as session:
            act(session)


def test_a_job_whose_data_set_was_deleted_is_not_retried(db: Database) -> None:
    dataset_id = ready(db, "gone")
    job_id = failed(db, dataset_id=dataset_id)
    with db.write() as session:
        datasets.delete(session, DEFAULT_PROJECT, "gone")
    with pytest.raises(WrongState, match=f"{dataset_id} was deleted"), db.write() as session:
        jobs.retry(session, DEFAULT_PROJECT, job_id)


# ── at once ──

Act = Callable[[Session], Any]


def waits_for_another(db: Database) -> bool:
    """Whether a transaction stands still for a lock of another one."""
    with db.read() as session:
        query = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        return bool(session.scalar(text(query)))


def in_turn(db: Database, first: Act, second: Act) -> GammabetaError | None:
    """The second begins when the first has done all but commit, and has to wait for that. How the second ended."""
    begun = threading.Event()

    def run() -> GammabetaError | None:
        begun.set()
        try:
            with db.write() as session:
                second(session)
        except GammabetaError as error:
            return error
        return None

    with ThreadPoolExecutor(1) as threads:
        with db.write() as session:
            first(session)
            session.flush()
            other: Future[GammabetaError | None] = threads.submit(run)
            begun.wait(10)
            while db.dialect == "postgresql" and not waits_for_another(db):
                assert not other.done(), "it did not wait"
        return other.result(10)


def deleting_version(session: Session) -> None:
    deleting.delete_version(session, DEFAULT_PROJECT, "digits", "1")


def moving_alias(session: Session) -> None:
    models.set_alias(session, DEFAULT_PROJECT, "digits", "production", "1")


def submitting_prediction(session: Session) -> None:
    request = {"model": "digits", "version": "1"}
    jobs.submit(session, new_job(kind=jobs.PREDICT, request=request, uses_version="1"))


@pytest.mark.parametrize("use", [moving_alias, submitting_prediction])
def test_whoever_comes_to_need_a_version_while_it_is_deleted_finds_none(db: Database, use: Act) -> None:
    publish(db)
    publish(db)
    assert isinstance(in_turn(db, deleting_version, use), VersionNotFound)
    assert numbers(db) == ("2",)


@pytest.mark.parametrize("use", [moving_alias, submitting_prediction])
def test_a_version_is_not_deleted_while_somebody_comes_to_need_it(db: Database, use: Act) -> None:
    publish(db)
    publish(db)
    assert isinstance(in_turn(db, use, deleting_version), WrongState)
    assert numbers(db) == ("2", "1")


def test_a_prediction_is_retried_or_its_version_deleted(db: Database) -> None:
    publish(db)
    publish(db)
    held = predicting(db, "1")
    with db.write() as session:
        jobs.request_cancel(session, DEFAULT_PROJECT, held)

    def retrying(session: Session) -> None:
        jobs.retry(session, DEFAULT_PROJECT, held)

    assert isinstance(in_turn(db, retrying, deleting_version), WrongState)
    with db.write() as session:
        jobs.request_cancel(session, DEFAULT_PROJECT, held)
    assert isinstance(in_turn(db, deleting_version, retrying), WrongState)
    assert numbers(db) == ("2",)


@pytest.mark.parametrize("retry_first", [True, False])
def test_a_job_is_retried_or_deleted(db: Database, retry_first: bool) -> None:
    job_id = failed(db)

    def retrying(session: Session) -> None:
        jobs.retry(session, DEFAULT_PROJECT, job_id)

    def removing(session: Session) -> None:
        deleting.delete_job(session, DEFAULT_PROJECT, job_id)

    order = (retrying, removing) if retry_first else (removing, retrying)
    assert isinstance(in_turn(db, *order), WrongState if retry_first else JobNotFound)


@pytest.mark.parametrize("job_first", [True, False])
@pytest.mark.parametrize("again", [True, False], ids=["retried", "submitted"])
def test_a_data_set_is_deleted_or_used(db: Database, again: bool, job_first: bool) -> None:
    dataset_id = ready(db, "used")
    ended = failed(db, dataset_id=dataset_id)

    def using(session: Session) -> None:
        if again:
            jobs.retry(session, DEFAULT_PROJECT, ended)
        else:
            jobs.submit(session, new_job(dataset_id=dataset_id))

    def removing(session: Session) -> None:
        datasets.delete(session, DEFAULT_PROJECT, dataset_id)

    order = (using, removing) if job_first else (removing, using)
    error = in_turn(db, *order)
    assert isinstance(error, WrongState if job_first or again else DatasetNotFound)


def test_a_version_that_is_published_while_its_model_is_deleted_has_a_new_number(db: Database) -> None:
    publish(db)
    held = claimed(db, model="other")  # of which the model knows nothing

    def publishing_one(session: Session) -> None:
        assert publishing.publish_version(session, **attempt(held), publication=publication()) == "2"

    def removing(session: Session) -> None:
        deleting.delete_model(session, DEFAULT_PROJECT, "digits")

    assert in_turn(db, removing, publishing_one) is None
    assert numbers(db) == ("2",)


@pytest.mark.parametrize("publish_first", [True, False])
def test_a_state_stays_for_who_publishes_it_while_its_last_version_is_deleted(
    db: Database, publish_first: bool
) -> None:
    publish(db)
    publish(db, state=OTHER)
    held = claimed(db, model="another")

    def publishing_one(session: Session) -> None:
        made = publication(model="another")
        assert publishing.publish_version(session, **attempt(held), publication=made) == "1"

    order = (publishing_one, deleting_version) if publish_first else (deleting_version, publishing_one)
    assert in_turn(db, *order) is None
    with db.read() as session:
        row = models.get_version(session, DEFAULT_PROJECT, "another", "1")
        assert models.batchnorm_state(session, row).digest == publication().state.digest


def test_many_who_delete_publish_move_and_submit_at_once_leave_nothing_that_points_nowhere(db: Database) -> None:
    for index in range(6):
        publish(db, state=BatchNormState((layer(seed=index % 2),)))
    held = [claimed(db) for _ in range(4)]

    def publishing_one(index: int) -> Act:
        made = publication(state=BatchNormState((layer(seed=index % 2),)))
        return lambda session: publishing.publish_version(session, **attempt(held[index]), publication=made)

    def removing(number: int) -> Act:
        return lambda session: deleting.delete_version(session, DEFAULT_PROJECT, "digits", str(number))

    def moving(number: int) -> Act:
        return lambda session: models.set_alias(session, DEFAULT_PROJECT, "digits", "production", str(number))

    acts = [*map(publishing_one, range(4)), *map(removing, range(1, 7)), *map(moving, range(1, 7))]

    def one(act: Act) -> str:
        try:
            with db.write() as session:
                act(session)
        except (WrongState, VersionNotFound) as error:
            return type(error).__name__
        return "done"

    with ThreadPoolExecutor(8) as threads:
        ended = list(threads.map(one, acts))
    assert ended[:4] == ["done"] * 4
    with db.read() as session:
        left = {row.number for row in session.scalars(select(VersionRow))}
    assert left >= {7, 8, 9, 10}
