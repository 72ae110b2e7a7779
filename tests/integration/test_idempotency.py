"""The same request again gets the same answer, and makes nothing new."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gammabeta.errors import IdempotencyConflict
from gammabeta.store import idempotency, jobs, listing
from gammabeta.store.engine import Database
from gammabeta.store.tables import DEFAULT_PROJECT
from tests.integration.samples import new_job


def post(db: Database, *, key: str = "k", owner: str = "anonymous", request_hash: str = "h") -> dict[str, Any]:
    """What a route does."""
    with db.write() as session:
        stored = idempotency.find(session, DEFAULT_PROJECT, owner, key, request_hash)
        if stored is not None:
            assert stored.status == 202
            return stored.body
        body = {"id": jobs.submit(session, new_job()).id}
        idempotency.remember(session, DEFAULT_PROJECT, owner, key, status=202, body=body)
        return body


def count(db: Database) -> int:
    with db.read() as session:
        return len(listing.find(session, DEFAULT_PROJECT, limit=100))


def test_the_same_request_gets_the_first_answer_again(db: Database) -> None:
    assert post(db) == post(db)
    assert count(db) == 1


def test_another_request_under_the_key_is_refused(db: Database) -> None:
    post(db)
    with pytest.raises(IdempotencyConflict, match="Idempotency-Key"):
        post(db, request_hash="other")
    assert count(db) == 1


def test_keys_belong_to_their_owner(db: Database) -> None:
    assert post(db, owner="a") != post(db, owner="b")
    assert post(db, key="1") != post(db, key="2")


def test_the_answer_to_a_submission_is_none_to_an_upload(db: Database) -> None:
    post(db)
    with db.read() as session:
        asked = {
            prefix: idempotency.is_answered(session, DEFAULT_PROJECT, "anonymous", "k", prefix=prefix)
            for prefix in ("job", "ds")
        }
        assert not idempotency.is_answered(session, DEFAULT_PROJECT, "anonymous", "other", prefix="job")
    assert asked == {"job": True, "ds": False}


def test_a_request_that_failed_leaves_its_key_free(db: Database) -> None:
    with pytest.raises(RuntimeError), db.write() as session:  # noqa: PT012
        assert idempotency.find(session, DEFAULT_PROJECT, "anonymous", "k", "h") is None
        raise RuntimeError
    post(db, request_hash="other")
    assert count(db) == 1


def test_the_same_request_sent_many_times_at_once_makes_one_job(db: Database) -> None:
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda _: post(db), range(24)))
    assert len({answer["id"] for answer in answers}) == 1
    assert count(db) == 1
