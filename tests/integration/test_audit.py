"""`gammabeta db check`: each way in which what is stored can be damaged is found and named, and nothing else is."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import text

from gammabeta.schemas.datasets import DatasetManifest
from gammabeta.store import audit, checkpoints, jobs, publishing
from gammabeta.store.blobs import FolderBlobs
from gammabeta.store.engine import Database
from gammabeta.store.stored import MANIFEST, Tree
from tests.integration.samples import TTL, attempt, claimed, dataset, ingestion, manifest, publication, submit
from tests.integration.workshop import damage
from tests.unit.cli.conftest import Run, run

__all__ = ["run"]


@dataclass(frozen=True, kw_only=True)
class Filled:
    """A database and blobs with one of everything."""

    db: Database
    blobs: FolderBlobs
    jobs: dict[str, str]
    """`done`, `queued`, `running`, which has a checkpoint, and `reading`, an ingestion."""
    weights: str
    array: str
    tree: Tree

    def sql(self, statement: str) -> None:
        """In which `{done}` is the id of that job."""
        with self.db.write() as session:
            session.execute(text(statement.format(**{name: f"'{each}'" for name, each in self.jobs.items()})))

    def found(self, *, deep: bool = False) -> list[str]:
        return [str(each) for each in audit.report(self.db, self.blobs, deep=deep).findings]


@pytest.fixture
def filled(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Filled]:
    monkeypatch.setenv("GAMMABETA_HOME", str(tmp_path))
    monkeypatch.setenv("GAMMABETA_DATABASE_URL", url)
    db, blobs = Database(url), FolderBlobs(tmp_path / "blobs")
    weights, array = _blob(blobs, tmp_path, b"weights"), _blob(blobs, tmp_path, b"array")
    _ready(db, array)
    done = claimed(db)
    with db.write() as session:
        assert publishing.publish_version(
            session, **attempt(done), publication=publication(weights_sha256=weights, weights_bytes=7)
        )
    running = claimed(db)
    tree = _checkpoint(db, blobs, running, tmp_path)
    coming = dataset(db, "coming")
    received = blobs.receiving_path(coming)
    received.write_bytes(b"a,b")
    blobs.keep_upload(received, coming)
    named = {
        "done": done.job_id,
        "running": running.job_id,
        "queued": submit(db),
        "reading": ingestion(db, coming).job_id,
    }
    yield Filled(db=db, blobs=blobs, jobs=named, weights=weights, array=array, tree=tree)
    db.dispose()


def _blob(blobs: FolderBlobs, folder: Path, data: bytes) -> str:
    (folder / "bytes").write_bytes(data)
    return blobs.put_file(folder / "bytes")[0]


def _ready(db: Database, array: str) -> None:
    read = dataset(db)
    held = ingestion(db, read)
    plain = manifest().model_dump(mode="json")
    for split in plain["splits"].values():
        for each in ("x", "y"):
            split[each] |= {"sha256": array, "bytes": 5}
    with db.write() as session:
        found = DatasetManifest.model_validate(plain)
        assert publishing.publish_dataset(session, **attempt(held), dataset_id=read, manifest=found)


def _checkpoint(db: Database, blobs: FolderBlobs, held: jobs.Claim, folder: Path) -> Tree:
    (folder / "made").mkdir()
    (folder / "made/weights").write_bytes(b"half")
    tree = blobs.put_tree(f"jobs/{held.job_id}/f{held.fence:06d}/ckpt-10", folder / "made")
    with db.write() as session:
        place = {"uri": tree.uri, "sha256": tree.sha256, "bytes": tree.bytes}
        assert checkpoints.add_checkpoint(session, **attempt(held), ttl_ms=TTL, step=10, **place)
    return tree


def test_nothing_is_found_where_all_is_well(filled: Filled, run: Run) -> None:
    assert filled.found(deep=True) == []
    for options in ([], ["--deep"]):
        ran = run("db", "check", *options)
        assert ran.code == 0
        assert "5 jobs" in ran.err
        assert "All is as it must be" in ran.err


DAMAGED_ROWS = {
    "UPDATE job_events SET fence = 9 WHERE job_id = {done} AND type = 'claimed'": "I1: events have the fences",
    "DELETE FROM versions": "I3: succeeded with 0 versions",
    "UPDATE models SET last_version = 0": "I3: version 1 of digits, whose last is 0",
    "INSERT INTO job_events (job_id, fence, type, data, created_ms) VALUES ({done}, 1, 'started', '{{}}', 0)": (
        "I4: started after succeeded"
    ),
    "UPDATE job_events SET type = 'started' WHERE type = 'succeeded'": "I4: the last event says None",
    "UPDATE versions SET fence = 3": "I5: version 1 of fence 3",
    "UPDATE checkpoints SET fence = 4": "I5: a checkpoint of fence 4",
    "UPDATE job_events SET type = 'cancel_requested' WHERE job_id = {done} AND type = 'claimed'": (
        "I6: succeeded after a cancel"
    ),
    "DELETE FROM job_events WHERE job_id = {queued}": "I7: state queued, events []",
    "UPDATE jobs SET run_after_ms = run_after_ms + 86400000 WHERE id = {queued}": "and no claim will find it",
    "UPDATE datasets SET state = 'validating'": "I7: the data set",
    "UPDATE batchnorm_layers SET gamma = beta": "I8: The stored batch-norm state must have the digest",
    "DELETE FROM batchnorm_layers": "must have the batch-norm layers of version 1",
    "UPDATE checkpoints SET uri = 'jobs/another/f000001/ckpt-10'": "I9: the attempt 1 of",
    "UPDATE jobs SET fence = 7 WHERE id = {queued}": "I10: claims [], fence 7",
    "UPDATE job_events SET data = '{{}}' WHERE type = 'succeeded'": "I10: claims [1], ends []",
}


@pytest.mark.parametrize(("statement", "words"), DAMAGED_ROWS.items(), ids=DAMAGED_ROWS.values())
def test_a_damaged_row_is_named(filled: Filled, run: Run, statement: str, words: str) -> None:
    filled.sql(statement)
    ran = run("db", "check", "--json")
    assert ran.code == 4
    assert words in " ".join(f"{each['invariant']}: {each['what']}" for each in json.loads(ran.out)["findings"])
    assert words in ran.err


@pytest.mark.parametrize("kind", ["sqlite"])
def test_a_running_job_without_a_worker_is_named_if_ever_the_database_let_it_in(filled: Filled) -> None:
    with filled.db.connection() as connection:
        connection.exec_driver_sql("PRAGMA ignore_check_constraints = ON")
        connection.exec_driver_sql("UPDATE jobs SET worker_id = NULL WHERE state = 'running'")
        connection.exec_driver_sql("PRAGMA ignore_check_constraints = OFF")
    assert [each for each in filled.found() if each.startswith("I2: running with worker None")]


def gone(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    os.truncate(path, 3)


@pytest.mark.parametrize(
    ("harm", "deep", "words"),
    [
        (gone, False, "must be stored and is missing"),
        (cut, False, "must have 7 bytes. Received: 3."),
        (damage, True, "must have this hash"),
    ],
)
def test_a_damaged_blob_is_named_with_what_it_is(
    filled: Filled, run: Run, harm: Callable[[Path], None], deep: bool, words: str
) -> None:
    harm(filled.blobs.path(filled.weights))
    ran = run("db", "check", *["--deep"] * deep)
    assert (ran.code, words in ran.err, "the weights of version 1 of 'digits'" in ran.err) == (4, True, True)


def test_only_a_deep_look_finds_bytes_that_changed(filled: Filled) -> None:
    damage(filled.blobs.path(filled.array))
    damage(filled.blobs.root / filled.tree.uri / "weights")
    assert filled.found() == []
    found = " ".join(filled.found(deep=True))
    assert "an array of the data set 'digits'" in found
    assert "is incomplete or does not match its checksum" in found


def test_a_checkpoint_without_its_manifest_and_an_upload_that_is_gone_are_named(filled: Filled) -> None:
    gone(filled.blobs.root / filled.tree.uri / MANIFEST)
    for upload in (filled.blobs.root / "uploads").iterdir():
        upload.unlink()
    found = " ".join(filled.found())
    assert f"{filled.tree.uri} is incomplete" in found
    assert "must be there to be read. Upload it again" in found


def test_a_blob_that_was_set_aside_is_there(filled: Filled) -> None:
    filled.blobs.set_aside(filled.weights)
    assert filled.found() == []


def test_what_goes_while_it_is_looked_for_is_no_loss(filled: Filled) -> None:
    class Going(FolderBlobs):
        """Whose checkpoint is dropped, its row first, at the moment in which it is looked at."""

        def names(self, prefix: str) -> list[str]:
            if prefix == filled.tree.uri:
                filled.sql("DELETE FROM checkpoints")
            return [each for each in super().names(prefix) if each != MANIFEST]

    assert [
        str(each) for each in audit.report(filled.db, Going(filled.blobs.root)).findings if "ckpt" in str(each)
    ] == []


def test_the_json_says_what_was_looked_at_and_which_schema_is_needed(filled: Filled, run: Run) -> None:
    ran = run("db", "check", "--json")
    told = json.loads(ran.out)
    assert ran.code == 0
    assert told["schema"]["standing"] == "current"
    assert told["schema"]["found"] == told["schema"]["needed"] is not None
    assert {key: told[key] for key in ("jobs", "versions", "blobs", "checkpoints", "deep", "findings")} == {
        "jobs": 5,
        "versions": 1,
        "blobs": 2,
        "checkpoints": 1,
        "deep": False,
        "findings": [],
    }


def test_a_database_without_a_schema_is_told_which_it_needs(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bare.db").touch()
    monkeypatch.setenv("GAMMABETA_DATABASE_URL", f"sqlite:///{tmp_path / 'bare.db'}")
    ran = run("db", "check", "--json")
    assert (ran.code, json.loads(ran.out)["schema"]["standing"]) == (1, "older")
    assert "this version needs the schema" in ran.err
    assert "Received: none" in ran.err


def test_a_database_that_is_not_there_is_not_made_by_who_asks(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAMMABETA_HOME", str(tmp_path / "home"))
    ran = run("db", "check", "--json")
    assert (ran.code, json.loads(ran.out)["schema"]["found"]) == (1, None)
    assert f"{tmp_path / 'home/gammabeta.db'} is no file" in ran.err
    assert not (tmp_path / "home").exists()


def test_a_database_that_does_not_answer_ends_the_check_with_3(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAMMABETA_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    assert run("db", "check").code == 3
