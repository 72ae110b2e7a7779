"""What nobody needs goes, and nothing else, wherever it is stored."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest
from obstore.store import from_url

from gammabeta.store import datasets, jobs, ownership, publishing, workers
from gammabeta.store.blobs import FolderBlobs, open_blobs
from gammabeta.store.engine import Database
from gammabeta.store.retention import Retention
from gammabeta.store.settings import StoreSettings
from gammabeta.store.stored import ASIDE, Blobs, Kept
from gammabeta.store.tables import DEFAULT_PROJECT, DatasetRow
from tests.buckets import S3
from tests.integration.databases import Clock
from tests.integration.samples import TTL, attempt, claim, claimed, dataset, publication, submit
from worker import keeping
from worker.sweeping import Sweeper


@pytest.fixture(params=["folder", "bucket"])
def stored(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Blobs:
    address = str(tmp_path / "blobs")
    if request.param == "bucket":
        s3: S3 = request.getfixturevalue("s3")
        address = s3.address()
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
    return open_blobs(StoreSettings(home=tmp_path, blobs=address))


def put(blobs: Blobs, tmp_path: Path, text: str) -> str:
    (tmp_path / "new").write_text(text)
    return blobs.put_file(tmp_path / "new")[0]


def name_weights(db: Database, sha256: str) -> None:
    """A version of these weights."""
    held = claimed(db)
    with db.write() as session:
        assert publishing.publish_version(session, **attempt(held), publication=publication(weights_sha256=sha256))


def places(blobs: Blobs, sha256: str) -> list[str]:
    """Where the bytes of this hash lie."""
    return [
        kept.key.split("/")[0] for prefix in ("sha256", ASIDE) for kept in blobs.listed(prefix) if sha256 in kept.key
    ]


def test_blobs_that_no_row_names_go_by_way_of_a_day_aside(db: Database, stored: Blobs, tmp_path: Path) -> None:
    weights, array, answers, nobody = (
        put(stored, tmp_path, text) for text in ("weights", "array", "answers", "nobody")
    )
    name_weights(db, weights)
    dataset_id = dataset(db, "named")
    split = {"n": 1, "x": {"sha256": array}, "y": {"sha256": array}}
    submit(db, kind=jobs.PREDICT)
    held = claim(db)
    assert held is not None
    with db.write() as session:
        row = session.get_one(DatasetRow, dataset_id)
        row.manifest = {"splits": {"train": split}}
        result = {"file": "/v1/…", "rows": 1, "bytes": 7, "sha256": answers}
        assert publishing.publish_file(session, **attempt(held), result=result)
    keeping.sweep(db, stored)
    assert places(stored, nobody) == ["sha256"]  # it is young
    keeping.sweep(db, stored, seconds=-60)
    assert places(stored, nobody) == [ASIDE]
    keeping.sweep(db, stored)
    assert places(stored, nobody) == [ASIDE]
    keeping.sweep(db, stored, seconds=-60)
    assert places(stored, nobody) == []
    for sha256 in (weights, array, answers):
        assert places(stored, sha256) == ["sha256"]
        stored.verify(sha256, again=True)


def test_what_is_stored_again_while_it_is_aside_stays(db: Database, stored: Blobs, tmp_path: Path) -> None:
    sha256 = put(stored, tmp_path, "weights")
    keeping.sweep(db, stored, seconds=-60)
    assert put(stored, tmp_path, "weights") == sha256
    name_weights(db, sha256)
    keeping.sweep(db, stored, seconds=-60)
    assert places(stored, sha256) == ["sha256"]


def test_what_was_set_aside_between_its_storing_and_its_row_comes_back(
    db: Database, stored: Blobs, tmp_path: Path
) -> None:
    """The race: the sweep had listed it as old before it was stored again."""
    sha256 = put(stored, tmp_path, "weights")
    stored.set_aside(sha256)
    name_weights(db, sha256)
    keeping.sweep(db, stored)
    assert places(stored, sha256) == [ASIDE]
    keeping.sweep(db, stored, seconds=-60)
    assert places(stored, sha256) == ["sha256"]
    stored.set_aside(sha256)
    assert stored.path(sha256).read_text() == "weights"


def test_checkpoints_and_uploads_that_nobody_needs_go_from_either_store(
    db: Database, stored: Blobs, tmp_path: Path
) -> None:
    held, folder = claimed(db), tmp_path / "ckpt"
    folder.mkdir()
    (folder / "weights").write_bytes(b"1")
    with db.write() as session:
        assert keeping.store(stored, held, folder, step=1, lease_ms=TTL)(session)
    for name in (dataset(db, "read"), "ds_gone"):
        received = stored.receiving_path(name)
        received.write_bytes(name.encode())
        stored.keep_upload(received, name)
    keeping.sweep(db, stored)
    assert keeping.newest_sound(db, stored, held.job_id) is not None
    assert [kept.name for kept in stored.listed("uploads")] == ["ds_gone"]
    with db.write() as session:
        jobs.stop(session, **attempt(held), outcome=jobs.Outcome.DRAIN)
        jobs.request_cancel(session, DEFAULT_PROJECT, held.job_id)
    keeping.sweep(db, stored, seconds=-60)
    assert [*stored.names("jobs"), *stored.listed("uploads"), *stored.listed("incoming")] == []


def leave(blobs: Blobs, key: str, data: bytes) -> None:
    """What others have left in the store."""
    if isinstance(blobs, FolderBlobs):
        (blobs.root / key).parent.mkdir(parents=True, exist_ok=True)
        (blobs.root / key).write_bytes(data)
    else:
        obstore.put(from_url(blobs.location, client_options={"allow_http": True}), key, data)


def test_what_others_leave_in_a_store_keeps_nothing_from_going(db: Database, stored: Blobs, tmp_path: Path) -> None:
    orphan = put(stored, tmp_path, "nobody")
    strays = ["aside/.DS_Store", "aside/not-a-hash/.nfs01", "sha256/.DS_Store", "sha256/ab/readme.txt"]
    for key in strays:
        leave(stored, key, b"stray")
    leave(stored, "uploads/ds_bad", b"garbage")
    leave(stored, "incoming/token", b"cut off")
    keeping.sweep(db, stored, seconds=-60)
    assert places(stored, orphan) == [ASIDE]
    keeping.sweep(db, stored, seconds=-60)
    assert places(stored, orphan) == []
    assert list(stored.listed("uploads")) == []
    assert sorted(kept.key for prefix in ("aside", "sha256") for kept in stored.listed(prefix)) == strays
    if not isinstance(stored, FolderBlobs):
        assert list(stored.listed("incoming")) == []


def test_what_was_stored_again_since_it_was_listed_as_old_is_not_set_aside(db: Database, tmp_path: Path) -> None:
    class Again(FolderBlobs):
        def listed(self, prefix: str) -> Iterator[Kept]:
            for kept in list(super().listed(prefix)):
                put(self, tmp_path, "weights")
                yield kept

    blobs = Again(tmp_path / "blobs")
    sha256 = put(blobs, tmp_path, "weights")
    os.utime(blobs.path(sha256), (0, 0))
    keeping.sweep(db, blobs)
    assert places(FolderBlobs(tmp_path / "blobs"), sha256) == ["sha256"]


def test_of_several_copies_aside_a_sound_one_comes_back(stored: Blobs, tmp_path: Path) -> None:
    sha256 = put(stored, tmp_path, "weights")
    stored.set_aside(sha256)
    leave(stored, f"aside/{sha256}/0-rotten", b"rotten")
    assert stored.path(sha256).read_text() == "weights"


class Remote(FolderBlobs):
    """Keeps an upload as a bucket does, and where a bucket may take its time, the database has to be free."""

    db: Database

    def upload_keys(self, dataset_id: str) -> list[str]:
        self._be_free(dataset_id)
        return [f"uploads/{dataset_id}", f"incoming/{dataset_id}"]

    def delete(self, key: str) -> None:
        if key.startswith("incoming/"):
            self._be_free(key.rpartition("/")[2])
        super().delete(key)

    def _be_free(self, dataset_id: str) -> None:
        with self.db.write() as session:
            datasets.upload_is_read(session, dataset_id)


def test_nobody_waits_for_the_database_while_a_store_is_asked_for_an_upload(db: Database, tmp_path: Path) -> None:
    blobs, read = Remote(tmp_path / "blobs"), dataset(db, "read")
    blobs.db = db
    for key in (f"uploads/{read}", f"incoming/{read}", "uploads/ds_gone", "incoming/ds_gone"):
        (tmp_path / "blobs" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "blobs" / key).touch()
    keeping.sweep(db, blobs, seconds=-60)
    assert [*blobs.listed("uploads"), *blobs.listed("incoming")] == []


class Watched(FolderBlobs):
    """Says what was listed, and when a sweep is at its end."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.prefixes: list[str] = []
        self.tidied = threading.Event()

    def listed(self, prefix: str) -> Iterator[Kept]:
        self.prefixes.append(prefix)
        return super().listed(prefix)

    def tidy(self, *, seconds: float) -> None:
        super().tidy(seconds=seconds)
        self.tidied.set()


def swept(db: Database, blobs: Watched, worker_id: str) -> list[str]:
    """What the first sweep of a worker lists."""
    draining = threading.Event()
    sweeper = Sweeper(db, blobs, worker_id=worker_id, draining=draining, keep=Retention())
    sweeper.start()
    assert blobs.tidied.wait(10)
    draining.set()
    sweeper.stop()
    assert not sweeper.is_alive()
    return blobs.prefixes


def test_of_several_workers_one_looks_for_blobs_that_no_row_names(db: Database, tmp_path: Path, clock: Clock) -> None:
    for worker_id in ("w2", "w1"):
        with db.write() as session:
            workers.register(session, worker_id, hostname="h", pid=1, devices=["cpu"], slots={})
        clock.advance(1)
    assert swept(db, Watched(tmp_path / "blobs"), "w1") == ["uploads"]
    assert swept(db, Watched(tmp_path / "blobs"), "w2") == ["uploads", ASIDE, "sha256"]


def test_a_sweep_ends_between_two_removals_when_the_worker_drains(db: Database, stored: Blobs, tmp_path: Path) -> None:
    several = [put(stored, tmp_path, str(number)) for number in range(3)]
    asked = iter((False, True, True))
    keeping.sweep(db, stored, seconds=-60, over=lambda: next(asked))
    assert sorted(place for sha256 in several for place in places(stored, sha256)) == [ASIDE, "sha256", "sha256"]


def test_a_store_that_belongs_to_another_database_is_left_as_it_is(db: Database, stored: Blobs, tmp_path: Path) -> None:
    """A worker with another GAMMABETA_DATABASE_URL, whose rows name none of the blobs."""
    early, late = put(stored, tmp_path, "early"), put(stored, tmp_path, "late")
    leave(stored, "uploads/ds_gone", b"a file")
    with db.read() as session:
        mine = ownership.identity(session)
    assert stored.owned("database of 1") == "database of 1" != mine
    keeping.sweep(db, stored, seconds=-60)
    assert [places(stored, sha256) for sha256 in (early, late)] == [["sha256"], ["sha256"]]
    assert [kept.name for kept in stored.listed("uploads")] == ["ds_gone"]


def test_a_store_without_an_owner_becomes_that_of_the_database_that_sweeps_it_first(
    db: Database, stored: Blobs, tmp_path: Path
) -> None:
    orphan = put(stored, tmp_path, "nobody")
    keeping.sweep(db, stored, seconds=-60)
    assert places(stored, orphan) == [ASIDE]
    with db.read() as session:
        assert stored.owned("database of 1") == ownership.identity(session)
