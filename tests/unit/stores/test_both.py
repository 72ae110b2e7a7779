"""What is promised of stored bytes, wherever they lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from gammabeta.errors import ArtifactCorrupt
from gammabeta.store.stored import Blobs
from tests.unit.stores.conftest import DATA, KEY, SHA256, Bucket, Folder

Store = Folder | Bucket
PREFIX = "jobs/job_1/f000001/ckpt-100"


def uploaded(blobs: Blobs, dataset_id: str, data: bytes) -> None:
    received = blobs.receiving_path(dataset_id)
    received.write_bytes(data)
    blobs.stage_upload(received)
    blobs.keep_upload(received, dataset_id)
    assert not received.exists()


def test_a_file_comes_back_under_its_hash(store: Store, source: Path) -> None:
    assert store.blobs.put_file(source) == (SHA256, len(DATA))
    assert store.stored() == [KEY]
    for blobs in (store.blobs, store.another()):
        assert blobs.path(SHA256).read_bytes() == DATA
        assert blobs.verify(SHA256, again=True).read_bytes() == DATA
    assert source.exists()


def test_the_same_content_is_stored_once(store: Store, source: Path) -> None:
    assert store.blobs.put_file(source) == store.blobs.put_file(source)
    assert store.stored() == [KEY]


def test_storing_the_content_again_heals_a_damaged_blob(store: Store, source: Path) -> None:
    store.blobs.put_file(source)
    store.write(KEY, b"damaged")
    store.blobs.put_file(source)
    assert store.another().verify(SHA256).read_bytes() == DATA


def test_a_missing_blob_is_corrupt(store: Store) -> None:
    with pytest.raises(ArtifactCorrupt, match="missing"):
        store.blobs.path(SHA256)


@pytest.mark.parametrize("damage", [b"", DATA[:-1], DATA[:-1] + b"\0", DATA + b"\0"])
def test_a_damaged_blob_is_detected_by_who_reads_it_first(store: Store, source: Path, damage: bytes) -> None:
    store.blobs.put_file(source)
    store.write(KEY, damage)
    with pytest.raises(ArtifactCorrupt, match=SHA256):
        store.another().verify(SHA256)


def test_a_tree_comes_back_whole(store: Store, checkpoint: Path) -> None:
    tree = store.blobs.put_tree(PREFIX, checkpoint)
    assert tree.uri == PREFIX
    for blobs in (store.blobs, store.another(), store.blobs):
        folder = blobs.tree(tree.uri, tree.sha256)
        names = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert tree.bytes == sum(map(len, names.values()))
        assert names.pop("manifest.json")
        assert names == {"weights.safetensors": b"weights", "training.json": b"{}"}


@pytest.mark.parametrize("name", ["weights.safetensors", "training.json", "manifest.json"])
@pytest.mark.parametrize("damage", [b"damaged", b"", None])
def test_a_damaged_tree_is_detected(store: Store, checkpoint: Path, name: str, damage: bytes | None) -> None:
    tree = store.blobs.put_tree(PREFIX, checkpoint)
    if damage is None:
        store.remove(f"{PREFIX}/{name}")
    else:
        store.write(f"{PREFIX}/{name}", damage)
    with pytest.raises(ArtifactCorrupt, match="incomplete"):
        store.another().tree(tree.uri, tree.sha256)


def test_a_tree_that_is_stored_again_stands_beside_the_one_that_a_row_may_name(store: Store, checkpoint: Path) -> None:
    first = store.blobs.put_tree(PREFIX, checkpoint)
    (checkpoint / "training.json").write_bytes(b'{"step": 100}')
    second, third = (store.blobs.put_tree(PREFIX, checkpoint) for _ in range(2))
    assert len({first.uri, second.uri, third.uri}) == 3
    read = [(store.another().tree(each.uri, each.sha256) / "training.json").read_bytes() for each in (first, second)]
    assert read == [b"{}", b'{"step": 100}']


def test_an_upload_is_read_as_it_was_kept_and_a_second_one_takes_its_place(store: Store) -> None:
    for data in (b"a,b\n1,2\n", DATA):
        uploaded(store.blobs, "ds_1", data)
        for blobs in (store.blobs, store.another()):
            assert blobs.upload_path("ds_1").read_bytes() == data
    assert [kept.name for kept in store.blobs.listed("uploads")] == ["ds_1"]


def test_a_discarded_upload_leaves_nothing(store: Store) -> None:
    received = store.blobs.receiving_path("ds_1")
    received.write_bytes(DATA)
    store.blobs.stage_upload(received)
    store.blobs.discard_upload(received)
    store.blobs.discard_upload(received)
    assert not received.exists()
    assert store.stored() == []


def test_discarding_a_kept_upload_changes_nothing(store: Store) -> None:
    received = store.blobs.receiving_path("ds_1")
    received.write_bytes(DATA)
    store.blobs.keep_upload(received, "ds_1")
    store.blobs.discard_upload(received)
    assert store.another().upload_path("ds_1").read_bytes() == DATA


def test_what_is_removed_is_gone_and_may_be_removed_again(store: Store, source: Path, checkpoint: Path) -> None:
    uploaded(store.blobs, "ds_1", DATA)
    store.blobs.put_tree(PREFIX, checkpoint)
    store.blobs.put_tree("jobs/job_10/f000001/ckpt-1", checkpoint)
    store.blobs.put_file(source)
    for _ in range(2):
        store.blobs.delete_upload("ds_1")
        store.blobs.delete_prefix("jobs/job_1")
        store.blobs.drop_empty("jobs/job_1")
        store.blobs.delete(KEY)
    assert {key.rpartition("/")[0] for key in store.stored()} == {"jobs/job_10/f000001/ckpt-1"}


def test_names_are_those_directly_beneath_and_listed_is_all(store: Store, checkpoint: Path) -> None:
    assert store.blobs.names("jobs") == list(store.blobs.listed("jobs")) == []
    for prefix in (PREFIX, "jobs/job_1/f000002/ckpt-1", "jobs/job_2/f000001/ckpt-1"):
        store.blobs.put_tree(prefix, checkpoint)
    assert store.blobs.names("jobs") == ["job_1", "job_2"]
    assert store.blobs.names("jobs/job_1") == ["f000001", "f000002"]
    listed = list(store.blobs.listed("jobs/job_1"))
    assert sorted(kept.key for kept in listed) == [key for key in store.stored() if key.startswith("jobs/job_1/")]
    assert all(-60 < kept.age < 60 for kept in listed)


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "jobs/../../x", "", ".", "sha256/../.."])
def test_a_key_never_leads_out(store: Store, key: str) -> None:
    with pytest.raises(ValueError, match="inside the folder"):
        store.blobs.delete_prefix(key)


def test_a_blob_that_was_set_aside_comes_back_to_who_misses_it(store: Store, source: Path) -> None:
    store.blobs.put_file(source)
    store.blobs.set_aside(SHA256)
    store.blobs.set_aside(SHA256)
    (aside,) = store.stored()
    assert aside.startswith(f"aside/{SHA256}/")
    reader = store.another()
    assert reader.path(SHA256).read_bytes() == DATA
    assert KEY in store.stored()
    assert reader.bring_back(SHA256)


def test_a_blob_that_was_nowhere_does_not_come_back(store: Store) -> None:
    store.blobs.set_aside(SHA256)
    assert not store.blobs.bring_back(SHA256)
    assert store.stored() == []


def test_the_check_passes_and_there_is_no_complaint(store: Store) -> None:
    store.blobs.check()
    assert store.blobs.complaint() is None


def test_a_blob_says_its_bytes_and_one_that_is_missing_that_it_is(store: Store, source: Path) -> None:
    blobs = store.blobs
    sha256, size = blobs.put_file(source)
    blobs.set_aside(sha256)
    assert blobs.bytes_of(sha256) == size
    blobs.check_hash(sha256)
    for ask in (blobs.bytes_of, blobs.check_hash):
        with pytest.raises(ArtifactCorrupt, match="is missing"):
            ask("ab" * 32)
