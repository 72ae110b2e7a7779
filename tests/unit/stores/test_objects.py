"""Buckets: what is visible when, what their errors become, and what of them lies on this machine."""

from __future__ import annotations

import hashlib
import mmap
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest

from gammabeta.errors import ArtifactCorrupt, NotReady, NotSupported
from gammabeta.store.blobs import open_blobs
from gammabeta.store.caches import HANDED_OUT_SECONDS, Cache
from gammabeta.store.engine import BUSY_MS, IDLE_MS
from gammabeta.store.objects import SMALL_SECONDS, ObjectBlobs, open_objects
from gammabeta.store.settings import StoreSettings
from gammabeta.store.stored import key_of
from tests.buckets import refusing, silent
from tests.unit.stores.conftest import DATA, KEY, SHA256, Bucket
from tests.unit.stores.test_both import uploaded


class Stopping(ObjectBlobs):
    """Dies after so many objects were stored."""

    left = 0

    def _put(self, key: str, what: Path | bytes) -> None:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        super()._put(key, what)


def stopping(bucket: Bucket, tmp_path: Path, *, after: int) -> Stopping:
    blobs = Stopping(bucket.raw, bucket.address, Cache(tmp_path / "stopping", limit_bytes=1 << 30), small=bucket.raw)
    blobs.left = after
    return blobs


@pytest.mark.parametrize("after", range(3))
def test_a_tree_whose_storing_was_interrupted_is_not_there(
    bucket: Bucket, tmp_path: Path, checkpoint: Path, after: int
) -> None:
    whole = bucket.blobs.put_tree("jobs/job_2/f000001/ckpt-1", checkpoint)
    with pytest.raises(KeyboardInterrupt):
        stopping(bucket, tmp_path, after=after).put_tree("jobs/job_1/f000001/ckpt-1", checkpoint)
    with pytest.raises(ArtifactCorrupt, match="incomplete"):
        bucket.blobs.tree("jobs/job_1/f000001/ckpt-1", "0" * 64)
    assert "jobs/job_1/f000001/ckpt-1/manifest.json" not in bucket.stored()
    again = bucket.blobs.put_tree("jobs/job_1/f000001/ckpt-1", checkpoint)
    assert (bucket.another().tree(again.uri, again.sha256) / "training.json").read_bytes() == b"{}"
    assert again.sha256 == whole.sha256


@pytest.mark.parametrize("after", range(2))
def test_an_upload_whose_storing_was_interrupted_is_not_there_and_is_swept(
    bucket: Bucket, tmp_path: Path, after: int
) -> None:
    uploaded(bucket.blobs, "ds_2", b"kept")
    with pytest.raises(KeyboardInterrupt):
        uploaded(stopping(bucket, tmp_path, after=after), "ds_1", DATA)
    with pytest.raises(ArtifactCorrupt, match="ds_1"):
        bucket.blobs.upload_path("ds_1")
    bucket.blobs.tidy(seconds=60)
    assert sum(key.startswith("incoming/") for key in bucket.stored()) == 1 + after
    bucket.blobs.tidy(seconds=-60)
    assert sum(key.startswith("incoming/") for key in bucket.stored()) == 1
    assert bucket.another().upload_path("ds_2").read_bytes() == b"kept"


def test_bytes_of_an_upload_that_are_not_what_was_kept_are_refused(bucket: Bucket) -> None:
    uploaded(bucket.blobs, "ds_1", DATA)
    (key,) = (key for key in bucket.stored() if key.startswith("incoming/"))
    bucket.write(key, DATA[:-1])
    with pytest.raises(ArtifactCorrupt):
        bucket.another().upload_path("ds_1")
    bucket.write("uploads/ds_1", b"no pointer")
    with pytest.raises(ArtifactCorrupt, match="uploads/ds_1"):
        bucket.another().upload_path("ds_1")


def test_a_large_file_goes_up_and_comes_down_in_parts(bucket: Bucket, tmp_path: Path) -> None:
    path = tmp_path / "large"
    data = os.urandom(1 << 20) * 20
    path.write_bytes(data)
    sha256, size = bucket.blobs.put_file(path)
    assert (sha256, size) == (hashlib.sha256(data).hexdigest(), 20 << 20)
    assert "-3" in (obstore.head(bucket.raw, key_of(sha256))["e_tag"] or "")
    assert bucket.another().path(sha256).read_bytes() == data


def test_what_is_too_large_for_a_copy_is_set_aside_through_this_machine(bucket: Bucket, source: Path) -> None:
    bucket.blobs.put_file(source)
    bucket.blobs.COPIED_BYTES = 100  # type: ignore[misc]
    bucket.blobs.set_aside(SHA256)
    assert KEY not in bucket.stored()
    assert bucket.another().path(SHA256).read_bytes() == DATA


def test_a_cached_file_that_was_damaged_is_fetched_anew(bucket: Bucket, source: Path) -> None:
    bucket.blobs.put_file(source)
    bucket.blobs.path(SHA256).write_bytes(b"damaged")
    assert bucket.blobs.verify(SHA256, again=True).read_bytes() == DATA


def test_a_cached_tree_that_was_damaged_is_fetched_anew(bucket: Bucket, checkpoint: Path) -> None:
    tree = bucket.blobs.put_tree("jobs/job_1/f000001/ckpt-1", checkpoint)
    (bucket.blobs.tree(tree.uri, tree.sha256) / "training.json").write_bytes(b"damaged")
    assert (bucket.blobs.tree(tree.uri, tree.sha256) / "training.json").read_bytes() == b"{}"


def test_threads_that_want_the_same_fetch_it_once(bucket: Bucket, source: Path) -> None:
    class Counting(ObjectBlobs):
        fetched = 0

        def _fetch(self, key: str, target: Path) -> str:
            self.fetched += 1
            return super()._fetch(key, target)

    bucket.blobs.put_file(source)
    blobs = Counting(bucket.raw, bucket.address, bucket.another()._cache, small=bucket.raw)
    threads = [threading.Thread(target=blobs.path, args=(SHA256,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert blobs.fetched == 1


# ── what goes wrong ──


def blobs_at(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectBlobs:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    return open_objects("s3://weights/x", Cache(tmp_path / "cache", limit_bytes=1 << 30), retry_seconds=0.5)


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (500, "InternalError"), (429, "TooManyRequests")])
def test_a_store_that_throttles_is_asked_again_and_then_not_ready(
    bucket: Bucket, tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, status: int, code: str
) -> None:
    with refusing(status, code) as server:
        blobs = blobs_at(server.endpoint, tmp_path, monkeypatch)
        for operation, work in (
            ("get", lambda: blobs.path(SHA256)),
            ("put", lambda: blobs.put_file(source)),
            ("list", lambda: blobs.names("jobs")),
            ("delete", lambda: blobs.delete(KEY)),
        ):
            server.asked = 0
            with pytest.raises(NotReady, match=rf"must answer, and did not do: {operation}\.") as refusal:
                work()
            assert type(refusal.value) is NotReady
            assert refusal.value.retry_after == 5
            assert code in refusal.value.message
            assert server.asked > 2
        assert blobs.complaint() is None  # it may answer later


def test_a_store_that_is_away_is_not_ready(tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    with refusing(503, "SlowDown") as server:
        endpoint = server.endpoint
    blobs = blobs_at(endpoint, tmp_path, monkeypatch)
    with pytest.raises(NotReady, match="did not do: put"):
        blobs.check()
    assert blobs.complaint() is None


@pytest.mark.alone
def test_a_store_that_is_silent_holds_nobody_up_for_what_is_small(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with silent() as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        blobs = open_objects("s3://weights/x", Cache(tmp_path / "cache", limit_bytes=0), small_seconds=0.2)
        for work in (
            blobs.check,
            lambda: blobs.delete(KEY),
            lambda: blobs.delete_prefix("jobs/job_1"),
            lambda: blobs.names("jobs"),
            lambda: list(blobs.listed("sha256")),
            lambda: blobs.upload_keys("ds_1"),
            lambda: blobs.set_aside(SHA256),
            lambda: blobs.bring_back(SHA256),
        ):
            begun = time.monotonic()
            with pytest.raises(NotReady, match="must answer, and did not do"):
                work()
            assert time.monotonic() - begun < 2
        assert blobs.complaint() is None
    assert min(BUSY_MS, IDLE_MS) > 2 * SMALL_SECONDS * 1_000


@pytest.mark.parametrize(("status", "code"), [(403, "InvalidAccessKeyId"), (401, "Unauthorized")])
def test_credentials_that_are_refused_are_named_and_complained_of(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, code: str
) -> None:
    with refusing(status, code) as server:
        blobs = blobs_at(server.endpoint, tmp_path, monkeypatch)
        with pytest.raises(NotReady, match="credentials") as refusal:
            blobs.path(SHA256)
        assert not isinstance(refusal.value, ArtifactCorrupt)
        assert server.asked == 1
        assert code in (blobs.complaint() or "")


def test_a_bucket_that_is_not_there_is_no_corrupt_blob(bucket: Bucket, tmp_path: Path) -> None:
    blobs = open_objects("s3://another/x", Cache(tmp_path / "cache", limit_bytes=0), retry_seconds=1)
    for work in (lambda: blobs.path(SHA256), blobs.check, lambda: blobs.names("jobs")):
        with pytest.raises(NotReady, match="must exist") as refusal:
            work()
        assert not isinstance(refusal.value, ArtifactCorrupt)
    assert "NoSuchBucket" in (blobs.complaint() or "")


@pytest.mark.parametrize("address", ["ftp://host/x", "s3:///x", "http://host/x"])
def test_an_address_that_is_none_is_refused_at_once(tmp_path: Path, address: str) -> None:
    with pytest.raises(NotSupported, match="GAMMABETA_BLOBS: must"):
        open_blobs(StoreSettings(home=tmp_path, blobs=address))


def test_a_bucket_is_opened_with_its_cache_in_the_home_folder(bucket: Bucket, tmp_path: Path, source: Path) -> None:
    blobs = open_blobs(StoreSettings(home=tmp_path, blobs=bucket.address))
    blobs.put_file(source)
    assert blobs.location == bucket.address
    assert blobs.path(SHA256) == tmp_path / "cache" / "files" / SHA256


# ── the cache ──


def files(cache: Cache, count: int) -> Iterator[Path]:
    for number in range(count):
        with cache.temporary() as folder:
            (folder / "file").write_bytes(b"x" * 100)
            yield cache.keep(folder / "file", f"files/{number}")


def forget(path: Path, *, seconds: float) -> None:
    moment = path.stat().st_mtime - seconds
    os.utime(path, (moment, moment))


def test_the_cache_removes_what_was_used_longest_ago(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit_bytes=350)
    kept = list(files(cache, 3))
    for number, path in enumerate(kept):
        forget(path, seconds=HANDED_OUT_SECONDS * (3 - number))
    assert cache.find("files/0") == kept[0]  # used again
    with cache.temporary() as folder:
        (folder / "file").write_bytes(b"x" * 100)
        cache.keep(folder / "file", "files/new")
    assert [path.exists() for path in kept] == [True, False, True]


def test_the_cache_keeps_what_was_just_handed_out_although_it_is_full(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit_bytes=150)
    assert all(path.exists() for path in list(files(cache, 3)))


def test_what_is_mapped_outlives_its_name(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit_bytes=0)
    (path,) = files(cache, 1)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        forget(path, seconds=2 * HANDED_OUT_SECONDS)
        with cache.temporary() as folder:
            (folder / "tree").mkdir()
            cache.keep(folder / "tree", "trees/1")
        assert not path.exists()
        assert mapped[:] == b"x" * 100


def test_a_cache_counts_the_files_of_its_trees(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit_bytes=150)
    with cache.temporary() as folder:
        (folder / "file").write_bytes(b"x" * 100)
        tree = cache.keep(folder, "trees/1")
    forget(tree, seconds=2 * HANDED_OUT_SECONDS)
    list(files(cache, 1))
    assert not tree.exists()


def test_what_was_never_completed_is_tidied_away(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit_bytes=0)
    old, new = cache.incoming() / "ds_1.part", cache.incoming() / "ds_2.part"
    for path in (old, new):
        path.write_bytes(b"a,b")
    forget(old, seconds=1_000)
    cache.tidy(seconds=500)
    assert [old.exists(), new.exists()] == [False, True]


def test_a_check_of_a_blob_reads_the_bucket_and_not_the_cache(bucket: Bucket, source: Path) -> None:
    bucket.blobs.put_file(source)
    bucket.blobs.check_hash(SHA256)
    bucket.write(KEY, DATA[:-1])
    assert bucket.blobs.verify(SHA256, again=True).read_bytes() == DATA
    assert bucket.blobs.bytes_of(SHA256) == len(DATA) - 1
    with pytest.raises(ArtifactCorrupt, match="must have this hash"):
        bucket.blobs.check_hash(SHA256)


def test_bytes_that_something_on_the_way_has_cut_are_fetched_again(
    bucket: Bucket, tmp_path: Path, source: Path
) -> None:
    class Cut(ObjectBlobs):
        """The first read of each object ends too early, and nobody says so."""

        def _fetch(self, key: str, target: Path) -> str:
            whole = super()._fetch(key, target)
            if key in seen:
                return whole
            seen.add(key)
            os.truncate(target, target.stat().st_size // 2)
            return hashlib.sha256(target.read_bytes()).hexdigest()

    seen: set[str] = set()
    bucket.blobs.put_file(source)
    tree = bucket.blobs.put_tree("jobs/job_1/f000001/ckpt-1", _folder(tmp_path))
    blobs = Cut(bucket.raw, bucket.address, Cache(tmp_path / "cut", limit_bytes=1 << 30), small=bucket.raw)
    assert blobs.path(SHA256).read_bytes() == DATA
    assert (blobs.tree(tree.uri, tree.sha256) / "weights").read_bytes() == b"weights"
    assert KEY in seen


def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "weights").write_bytes(b"weights")
    return folder
