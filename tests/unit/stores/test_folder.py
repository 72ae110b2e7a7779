"""Bytes that are stored are all there, and are what they were."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest

from gammabeta.errors import ArtifactCorrupt, NotSupported
from gammabeta.files import Files
from gammabeta.store.blobs import FolderBlobs, open_blobs
from gammabeta.store.settings import StoreSettings
from tests.unit.stores.conftest import DATA, SHA256


@pytest.fixture
def blobs(tmp_path: Path) -> FolderBlobs:
    return FolderBlobs(tmp_path / "blobs")


def leftovers(blobs: FolderBlobs) -> list[Path]:
    return list((blobs.root / "tmp").iterdir())


def test_a_file_is_stored_under_its_hash(blobs: FolderBlobs, source: Path) -> None:
    assert blobs.put_file(source) == (SHA256, len(DATA))
    path = blobs.path(SHA256)
    assert path == blobs.root / "sha256" / SHA256[:2] / SHA256
    assert path.read_bytes() == DATA
    assert source.read_bytes() == DATA
    assert leftovers(blobs) == []


def test_the_same_content_is_stored_once(blobs: FolderBlobs, source: Path) -> None:
    assert blobs.put_file(source) == blobs.put_file(source)
    assert [path.name for path in (blobs.root / "sha256").rglob("*") if path.is_file()] == [SHA256]


def test_storing_the_content_again_heals_a_damaged_blob(blobs: FolderBlobs, source: Path) -> None:
    blobs.put_file(source)
    blobs.path(SHA256).write_bytes(b"damaged")
    blobs.put_file(source)
    assert blobs.verify(SHA256, again=True).read_bytes() == DATA


def test_a_missing_blob_is_corrupt(blobs: FolderBlobs) -> None:
    with pytest.raises(ArtifactCorrupt, match=SHA256):
        blobs.path(SHA256)


@pytest.mark.parametrize("damage", [DATA[:-1], b"", DATA[:100] + b"\xff" + DATA[101:]], ids=["cut", "empty", "flipped"])
def test_a_damaged_blob_is_detected_by_a_process_that_has_not_checked_it(
    blobs: FolderBlobs, source: Path, damage: bytes
) -> None:
    blobs.put_file(source)
    blobs.path(SHA256).write_bytes(damage)
    with pytest.raises(ArtifactCorrupt, match=SHA256):
        FolderBlobs(blobs.root).verify(SHA256)


def test_a_blob_is_hashed_once_unless_asked(blobs: FolderBlobs, source: Path) -> None:
    blobs.put_file(source)
    blobs.path(SHA256).write_bytes(b"damaged later")
    blobs.verify(SHA256)
    with pytest.raises(ArtifactCorrupt):
        blobs.verify(SHA256, again=True)
    with pytest.raises(ArtifactCorrupt):
        blobs.verify(SHA256)


def test_a_tree_comes_back_whole(blobs: FolderBlobs, checkpoint: Path) -> None:
    tree = blobs.put_tree("jobs/job_1/f000001/ckpt-100", checkpoint)
    folder = blobs.tree(tree.uri, tree.sha256)
    assert folder == blobs.root / "jobs/job_1/f000001/ckpt-100"
    assert (folder / "weights.safetensors").read_bytes() == b"weights"
    assert tree.bytes == sum(path.stat().st_size for path in folder.iterdir())
    assert leftovers(blobs) == []


@pytest.mark.parametrize("name", ["weights.safetensors", "training.json", "manifest.json"])
@pytest.mark.parametrize("damage", [b"wrong", None], ids=["changed", "missing"])
def test_a_damaged_tree_is_detected(blobs: FolderBlobs, checkpoint: Path, name: str, damage: bytes | None) -> None:
    tree = blobs.put_tree("jobs/job_1/f000001/ckpt-100", checkpoint)
    path = blobs.root / tree.uri / name
    path.unlink() if damage is None else path.write_bytes(damage)
    with pytest.raises(ArtifactCorrupt, match="ckpt-100"):
        blobs.tree(tree.uri, tree.sha256)


def test_a_tree_that_is_stored_again_stands_beside_the_one_that_a_row_may_name(
    blobs: FolderBlobs, checkpoint: Path
) -> None:
    first = blobs.put_tree("jobs/job_1/f000001/ckpt-100", checkpoint)
    (checkpoint / "training.json").write_bytes(b'{"step": 100}')
    second = blobs.put_tree("jobs/job_1/f000001/ckpt-100", checkpoint)
    third = blobs.put_tree("jobs/job_1/f000001/ckpt-100", checkpoint)
    assert len({first.uri, second.uri, third.uri}) == 3
    assert (blobs.tree(first.uri, first.sha256) / "training.json").read_bytes() == b"{}"
    for each in (second, third):
        assert (blobs.tree(each.uri, each.sha256) / "training.json").read_bytes() == b'{"step": 100}'


def test_uploads_and_prefixes_are_removed(blobs: FolderBlobs, checkpoint: Path) -> None:
    upload = blobs.upload_path("ds_1")
    upload.write_bytes(b"a,b")
    blobs.delete("uploads/ds_1")
    blobs.delete("uploads/ds_1")
    blobs.put_tree("jobs/job_1/f000001/ckpt-1", checkpoint)
    blobs.delete_prefix("jobs/job_1")
    blobs.delete_prefix("jobs/job_1")
    assert not upload.exists()
    assert not (blobs.root / "jobs/job_1").exists()


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "jobs/../../x", "", ".", "sha256/../.."])
def test_a_key_never_leads_out_of_the_folder(blobs: FolderBlobs, key: str) -> None:
    with pytest.raises(ValueError, match="inside the folder"):
        blobs.delete_prefix(key)


def test_a_full_disk_is_no_space_and_leaves_nothing(blobs: FolderBlobs, source: Path) -> None:
    """The limit on the size of a file stands in for the disk."""
    program = (
        "import resource, signal, sys; from pathlib import Path; from gammabeta.store.blobs import FolderBlobs; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); "
        "FolderBlobs(Path(sys.argv[1])).put_file(Path(sys.argv[2]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, blobs.root, source], capture_output=True, text=True, check=False
    )
    assert "NoSpace: The disk of the blobs is full" in done.stderr
    assert leftovers(blobs) == []
    assert not (blobs.root / "sha256").exists()


class Noted(Files):
    """Writes down what reaches the disk, and in which order."""

    def __init__(self) -> None:
        self.order: list[str] = []

    def sync(self, file: BinaryIO) -> None:
        self.order.append(f"sync {Path(file.name).name}")
        super().sync(file)

    def sync_folder(self, folder: Path) -> None:
        self.order.append(f"sync {folder.name}/")
        super().sync_folder(folder)

    def rename(self, source: Path, target: Path) -> None:
        self.order.append(f"rename {target.name}")
        super().rename(source, target)


def test_what_is_stored_is_synced_before_it_is_named_and_the_names_after(tmp_path: Path, source: Path) -> None:
    noted = Noted()
    blobs = FolderBlobs(tmp_path / "home" / "blobs", files=noted)
    blobs.put_file(source)
    made = [f"sync {tmp_path.name}/", "sync home/", "sync blobs/"]
    assert noted.order[:4] == [*made, "sync file"]
    noted.order.clear()
    blobs.put_file(source)
    assert noted.order == ["sync file", f"rename {SHA256}", f"sync {SHA256[:2]}/", "sync sha256/", "sync blobs/"]


def test_the_name_of_an_upload_and_of_its_folder_is_synced(tmp_path: Path) -> None:
    noted = Noted()
    blobs = FolderBlobs(tmp_path / "blobs", files=noted)
    received = blobs.upload_path("ds_1").with_suffix(".part")
    received.write_bytes(b"a,b")
    blobs.keep_upload(received, "ds_1")
    assert noted.order == [f"sync {tmp_path.name}/", "sync blobs/", "rename ds_1", "sync uploads/", "sync blobs/"]


def test_a_folder_is_opened(tmp_path: Path) -> None:
    assert open_blobs(StoreSettings(home=tmp_path)).location == str(tmp_path / "blobs")
    for address in (str(tmp_path), f"file://{tmp_path}"):
        assert open_blobs(StoreSettings(blobs=address)).location == str(tmp_path)


def test_a_bucket_without_the_extra_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gammabeta.store.blobs.find_spec", {"obstore": None}.get)
    with pytest.raises(NotSupported, match=r"pip install 'gammabeta\[objects\]'"):
        open_blobs(StoreSettings(blobs="s3://bucket/prefix"))


def test_a_folder_needs_no_library_for_buckets(tmp_path: Path) -> None:
    program = (
        "import sys; from gammabeta.store.blobs import open_blobs; from gammabeta.store.settings import StoreSettings; "
        "open_blobs(StoreSettings()).check(); print('obstore' in sys.modules)"
    )
    home = {**os.environ, "GAMMABETA_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=home)
    assert done.stdout.strip() == "False"


def test_the_check_tells_whether_blobs_can_be_stored(blobs: FolderBlobs) -> None:
    blobs.check()
    (blobs.root / "tmp").rmdir()
    (blobs.root / "tmp").write_bytes(b"")
    with pytest.raises(OSError) as refusal:  # noqa: PT011
        blobs.check()
    assert refusal.value.errno == errno.ENOTDIR


class Removed(Files):
    """Somebody removes a folder that is empty, so many times, before another is made in it."""

    def __init__(self, times: int) -> None:
        self._left = times

    def make_folder(self, folder: Path) -> None:
        if folder.name == "f000002" and self._left:
            self._left -= 1
            folder.parent.rmdir()
        super().make_folder(folder)


def test_a_folder_that_was_removed_before_anything_lay_in_it_is_made_again(tmp_path: Path, checkpoint: Path) -> None:
    blobs = FolderBlobs(tmp_path / "blobs", files=Removed(times=2))
    tree = blobs.put_tree("jobs/job_1/f000002/ckpt-1", checkpoint)
    assert blobs.tree(tree.uri, tree.sha256).is_dir()


def test_folders_that_cannot_be_made_are_given_up(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Removed(times=100).make_folders(tmp_path / "job_1" / "f000002")
