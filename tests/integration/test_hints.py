"""Hints: a worker on PostgreSQL is told that there is a job, and finds it without being told as well."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

import psycopg
import pytest

from gammabeta.schemas.jobs import JobState, Lane
from gammabeta.store import hints, jobs
from gammabeta.store.engine import Database
from gammabeta.store.jobs import Outcome
from gammabeta.store.tables import DEFAULT_PROJECT
from tests.integration.auditor import audit
from tests.integration.samples import attempt, claim, claimed, new_job, submit
from tests.integration.workshop import until, workshop

pytestmark = pytest.mark.parametrize("kind", ["postgresql"])
BOTH = {Lane.TRAIN, Lane.LIGHT}


@pytest.fixture
def real(url: str) -> Iterator[Database]:
    """The database under its own clock."""
    database = Database(url)
    yield database
    with database.read() as session:
        broken = audit(session)
    database.dispose()
    assert broken == []


@pytest.fixture
def heard(real: Database) -> Iterator[SimpleQueue[Lane]]:
    """What a listener that has just connected is told from then on."""
    queue: SimpleQueue[Lane] = SimpleQueue()
    listener = hints.Listener(real, queue.put)
    listener.start()
    assert {queue.get(timeout=10), queue.get(timeout=10)} == BOTH
    yield queue
    listener.stop()
    listener.join(10)


def silent(real: Database, heard: SimpleQueue[Lane]) -> bool:
    """Whether there was no hint of a training. One that is sent now, of the other lane, comes behind any before it."""
    submit(real, kind="export", lane=Lane.LIGHT, devices=0)
    return heard.get(timeout=10) is Lane.LIGHT


def test_a_submitted_job_is_told_of_by_its_lane(real: Database, heard: SimpleQueue[Lane]) -> None:
    submit(real)
    assert heard.get(timeout=10) is Lane.TRAIN
    submit(real, kind="export", lane=Lane.LIGHT, devices=0)
    assert heard.get(timeout=10) is Lane.LIGHT


def test_a_job_that_was_not_committed_is_not_told_of(real: Database, heard: SimpleQueue[Lane]) -> None:
    with suppress(ZeroDivisionError), real.write() as session:
        jobs.submit(session, new_job())
        raise ZeroDivisionError
    assert silent(real, heard)


def test_a_job_that_was_lost_is_told_of_when_it_can_be_claimed(real: Database, heard: SimpleQueue[Lane]) -> None:
    lost = claimed(real)
    heard.get(timeout=10)
    began = time.monotonic()
    with real.write() as session:
        assert jobs.stop(session, **attempt(lost), outcome=Outcome.LOSS, backoff_ms=1_000) == JobState.QUEUED
    assert heard.get(timeout=10) is Lane.TRAIN
    assert 0.7 < time.monotonic() - began < 5
    assert claim(real) is not None


def test_what_is_drained_resumed_and_retried_is_told_of(real: Database, heard: SimpleQueue[Lane]) -> None:
    drained = claimed(real)
    heard.get(timeout=10)
    with real.write() as session:
        jobs.stop(session, **attempt(drained), outcome=Outcome.DRAIN)
    assert heard.get(timeout=10) is Lane.TRAIN
    again = claim(real)
    assert again is not None
    with real.write() as session:
        jobs.request_pause(session, DEFAULT_PROJECT, again.job_id)
        assert jobs.stop(session, **attempt(again), outcome=Outcome.PAUSE) == JobState.PAUSED
    assert silent(real, heard)
    with real.write() as session:
        jobs.resume(session, DEFAULT_PROJECT, again.job_id)
    assert heard.get(timeout=10) is Lane.TRAIN
    with real.write() as session:
        jobs.request_cancel(session, DEFAULT_PROJECT, again.job_id)
    assert silent(real, heard)
    with real.write() as session:
        jobs.retry(session, DEFAULT_PROJECT, again.job_id)
    assert heard.get(timeout=10) is Lane.TRAIN


def test_hints_come_again_after_their_connection_was_lost(real: Database, url: str, heard: SimpleQueue[Lane]) -> None:
    assert cut_listeners(url) == 1
    assert {heard.get(timeout=10), heard.get(timeout=10)} == BOTH
    submit(real)
    assert heard.get(timeout=10) is Lane.TRAIN


def test_words_of_another_version_are_passed_over(real: Database, url: str, heard: SimpleQueue[Lane]) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for payload in ("", "train", "train -1", "train ²", "cooking 0", "train 0 and more"):
            connection.execute("SELECT pg_notify(%s, %s)", [hints.CHANNEL, payload])
    assert silent(real, heard)


def test_a_worker_takes_a_job_at_once_that_it_is_told_of(url: str, tmp_path: Path) -> None:
    with workshop(tmp_path, url) as shop:
        shop.start(POLL_SECONDS="3600")
        until(lambda: listeners(url), "a worker that listens")
        dataset_id = shop.ready_dataset()
        assert shop.ended(shop.train(dataset_id, epochs=1)).state == JobState.SUCCEEDED


def test_a_worker_that_is_told_nothing_looks_by_itself(url: str, tmp_path: Path) -> None:
    with workshop(tmp_path, url) as shop:
        shop.start(POLL_SECONDS="0.2")
        until(lambda: listeners(url), "a worker that listens")
        dataset_id = shop.ready_dataset()
        cut_listeners(url)
        assert shop.ended(shop.train(dataset_id, epochs=1)).state == JobState.SUCCEEDED


LISTENING = f"query LIKE 'LISTEN {hints.CHANNEL}%' AND datname = current_database() AND pid <> pg_backend_pid()"


def listeners(url: str) -> list[int]:
    with psycopg.connect(url) as connection:
        return [pid for (pid,) in connection.execute(f"SELECT pid FROM pg_stat_activity WHERE {LISTENING}")]  # noqa: S608


def cut_listeners(url: str) -> int:
    with psycopg.connect(url) as connection:
        found = connection.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {LISTENING}")  # noqa: S608
        return sum(done for (done,) in found)
