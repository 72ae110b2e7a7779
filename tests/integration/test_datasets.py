"""Data sets: names, a second file, and what keeps them from changing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gammabeta.errors import DatasetNotFound, NameTaken, WrongState
from gammabeta.schemas.jobs import Lane
from gammabeta.store import datasets, jobs, listing, publishing
from gammabeta.store.engine import Database
from gammabeta.store.jobs import Claim, Outcome
from gammabeta.store.tables import DEFAULT_PROJECT, DatasetRow
from tests.integration.samples import attempt, claim, dataset, ingestion, manifest, submit


def ready(db: Database, name: str = "digits", *splits: str) -> str:
    """A data set that was ingested."""
    dataset_id = dataset(db, name)
    ingest(db, dataset_id, *splits)
    return dataset_id


def ingest(db: Database, dataset_id: str, *splits: str) -> None:
    held = ingestion(db, dataset_id)
    with db.write() as session:
        assert publishing.publish_dataset(session, **attempt(held), dataset_id=dataset_id, manifest=manifest(*splits))


def read(db: Database, id_or_name: str) -> DatasetRow:
    with db.read() as session:
        return datasets.get(session, DEFAULT_PROJECT, id_or_name)


def begin_second(db: Database, dataset_id: str) -> None:
    with db.write() as session:
        row = datasets.get(session, DEFAULT_PROJECT, dataset_id)
        datasets.begin_second_split(session, row, bytes=50, sha256="11" * 32, options={"split": "test"})


def delete(db: Database, id_or_name: str) -> None:
    with db.write() as session:
        datasets.delete(session, DEFAULT_PROJECT, id_or_name)


def test_a_new_dataset_is_validating_and_shows_nothing_of_its_content(db: Database) -> None:
    shown = datasets.to_schema(read(db, dataset(db)))
    assert (shown.state, shown.name, shown.bytes, shown.splits, shown.target) == ("validating", "digits", 100, {}, None)


def test_a_ready_dataset_shows_its_splits_and_features(db: Database) -> None:
    row = read(db, ready(db, "digits", "train", "test"))
    shown = datasets.to_schema(row)
    assert (shown.state, shown.splits, [each.name for each in shown.features]) == (
        "ready",
        {"train": 10, "test": 10},
        ["age", "size"],
    )
    assert datasets.manifest(row) == manifest("train", "test")


def test_a_name_is_taken_once(db: Database) -> None:
    dataset(db, "digits")
    with pytest.raises(NameTaken, match="digits"):
        dataset(db, "digits")
    assert dataset(db, "others")


def test_a_dataset_is_found_by_id_and_by_name_and_the_id_wins(db: Database) -> None:
    first = dataset(db, "digits")
    second = dataset(db, first)
    assert read(db, "digits").id == first
    assert read(db, first).id == first
    assert read(db, second).name == first


@pytest.mark.parametrize("name", ["none", "\0", "' OR 1=1 --"])
def test_a_dataset_that_is_not_there_is_not_found(db: Database, name: str) -> None:
    with pytest.raises(DatasetNotFound):
        read(db, name)


def test_datasets_are_listed_newest_first_in_pages(db: Database) -> None:
    ids = [dataset(db, f"d{number}") for number in range(4)][::-1]

    def found(**filters: object) -> list[str]:
        with db.read() as session:
            return [row.id for row in datasets.find(session, DEFAULT_PROJECT, **filters)]  # type: ignore[arg-type]

    assert found() == ids
    assert found(limit=2) == ids[:2]
    assert found(limit=2, after=ids[1]) == ids[2:]
    assert found(ascending=True) == ids[::-1]
    assert found(states=["ready"]) == []


def test_a_second_file_makes_a_dataset_validating_until_it_is_read(db: Database) -> None:
    dataset_id = ready(db)
    begin_second(db, dataset_id)
    row = read(db, dataset_id)
    assert (row.state, row.bytes, row.options["second"]["split"]) == ("validating", 150, "test")
    assert datasets.manifest(row) == manifest("train")
    ingest(db, dataset_id, "train", "test")
    assert read(db, dataset_id).state == "ready"


def _refuse(db: Database, held: Claim) -> None:
    with db.write() as session:
        jobs.stop(session, **attempt(held), outcome=Outcome.FAILURE, reason="wrong_columns", message="…")


def _lose(db: Database, held: Claim) -> None:
    with db.write() as session:
        jobs.stop(session, **attempt(held), outcome=Outcome.LOSS)
        jobs.request_cancel(session, DEFAULT_PROJECT, held.job_id)


def _cancel(db: Database, held: Claim) -> None:
    with db.write() as session:
        jobs.request_cancel(session, DEFAULT_PROJECT, held.job_id)
        jobs.stop(session, **attempt(held), outcome=Outcome.CANCEL)


@pytest.mark.parametrize("end", [_refuse, _lose, _cancel])
def test_a_second_file_that_comes_to_nothing_leaves_the_dataset_as_it_was(
    db: Database, end: Callable[[Database, Claim], None]
) -> None:
    before = read(db, ready(db))
    begin_second(db, before.id)
    held = ingestion(db, before.id)
    end(db, held)
    after = read(db, before.id)
    assert (after.state, after.error_code, after.bytes, after.sha256) == ("ready", None, before.bytes, before.sha256)
    assert (after.manifest, after.options) == (before.manifest, before.options)
    begin_second(db, before.id)
    ingest(db, before.id, "train", "test")
    assert read(db, before.id).bytes == before.bytes + 50


def test_the_job_says_why_a_second_file_was_refused(db: Database) -> None:
    dataset_id = ready(db)
    begin_second(db, dataset_id)
    _refuse(db, ingestion(db, dataset_id))
    with db.read() as session:
        (newest, _) = listing.find(session, DEFAULT_PROJECT, kind=jobs.INGEST)
    assert (newest.state, newest.reason, newest.dataset_id) == ("failed", "wrong_columns", dataset_id)


def test_a_dataset_never_changes_once_a_job_has_used_it(db: Database) -> None:
    dataset_id = ready(db)
    submit(db, dataset_id=dataset_id)
    with pytest.raises(WrongState, match="never changes"):
        begin_second(db, dataset_id)


def test_a_dataset_that_is_not_ready_or_has_a_test_split_takes_no_second_file(db: Database) -> None:
    with pytest.raises(WrongState, match="validating"):
        begin_second(db, dataset(db))
    with pytest.raises(WrongState, match="test"):
        begin_second(db, ready(db, "both", "train", "test"))


def test_a_dataset_is_not_deleted_while_a_job_uses_it(db: Database) -> None:
    dataset_id = ready(db)
    job_id = submit(db, dataset_id=dataset_id)
    with pytest.raises(WrongState, match="job"):
        delete(db, "digits")
    with db.write() as session:
        jobs.request_cancel(session, DEFAULT_PROJECT, job_id)
    delete(db, "digits")
    with pytest.raises(DatasetNotFound):
        read(db, dataset_id)
    assert dataset(db, "digits") != dataset_id


def test_an_upload_is_kept_until_no_job_is_going_to_read_it(db: Database) -> None:
    dataset_id = dataset(db)
    held = ingestion(db, dataset_id)
    with db.write() as session:
        assert not datasets.upload_is_read(session, dataset_id)
        publishing.publish_dataset(session, **attempt(held), dataset_id=dataset_id, manifest=manifest())
        assert datasets.upload_is_read(session, dataset_id)


def test_a_dataset_is_not_deleted_while_it_is_being_read(db: Database) -> None:
    dataset_id = dataset(db)
    submit(db, kind=jobs.INGEST, lane=Lane.LIGHT, devices=0, model=None, dataset_id=dataset_id)
    with pytest.raises(WrongState):
        delete(db, dataset_id)
    assert claim(db, lane=Lane.LIGHT) is not None
