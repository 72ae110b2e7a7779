"""Zips of images: folders as classes, one shape for all, and archives that lie."""

from __future__ import annotations

import io
import stat
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gammabeta import images
from gammabeta.errors import DatasetInvalid
from tests.pictures import black_square, encoded, noise, zipped
from tests.unit.ingestion.conftest import LIMITS, Ingest, Ingested
from worker import archives
from worker.imagefiles import (
    BEGINNING,
    DEEPEST,
    FOLDERS,
    LISTED_BYTES,
    MEMBERS_PER_IMAGE,
    MEMORY_PER_LISTED_BYTE,
)

Files = dict[str, bytes]


def pictures(*names: str, shape: tuple[int, ...] = (4, 5)) -> Files:
    return {name: encoded(noise(seed, *shape)) for seed, name in enumerate(names)}


TWO = pictures("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png")
SPLIT = pictures("train/cat/1.png", "train/cat/2.png", "train/dog/1.png", "test/dog/9.png")


@pytest.fixture
def ingest(ingest_file: Ingest) -> Callable[..., Ingested]:
    def read(files: Files | bytes, **options: Any) -> Ingested:
        data = files if isinstance(files, bytes) else zipped(files)
        return ingest_file(data, format="image_zip", **options)

    return read


@pytest.fixture
def refused(ingest: Callable[..., Ingested]) -> Callable[..., tuple[str, str]]:
    def refuse(files: Files | bytes, **options: Any) -> tuple[str, str]:
        with pytest.raises(DatasetInvalid) as caught:
            ingest(files, **options)
        return caught.value.reason, caught.value.message

    return refuse


def sizes(read: Ingested) -> dict[str, int]:
    return {split: files.n for split, files in read.manifest.splits.items()}


# ── read ──


def test_folders_are_classes_and_files_are_rows(ingest: Callable[..., Ingested]) -> None:
    read = ingest(TWO)
    (feature,) = read.manifest.features
    assert (read.manifest.kind, feature.kind, feature.name, feature.shape) == ("image", "image", "x", (4, 5))
    assert [(each.label, each.count) for each in read.manifest.target.classes or ()] == [("cat", 2), ("dog", 2)]
    np.testing.assert_array_equal(read.x(), [noise(seed, 4, 5) for seed in range(4)])
    assert (read.x().dtype, read.y().tolist()) == (np.uint8, [0, 0, 1, 1])
    assert feature.mean == pytest.approx(read.x().mean())
    assert feature.std == pytest.approx(read.x().std())
    assert (feature.min, feature.max) == (read.x().min(), read.x().max())


def test_folders_of_splits_are_splits(ingest: Callable[..., Ingested]) -> None:
    read = ingest(SPLIT)
    assert sizes(read) == {"train": 3, "test": 1}
    assert (read.y().tolist(), read.y("test").tolist()) == ([0, 0, 1], [1])
    np.testing.assert_array_equal(read.x("test"), noise(3, 4, 5)[None])


def test_classes_may_be_called_train_and_test(ingest: Callable[..., Ingested]) -> None:
    read = ingest(pictures("train/1.png", "test/1.png"))
    assert (read.manifest.target.labels, sizes(read)) == (("test", "train"), {"train": 2})


def test_labels_that_are_whole_numbers_stand_by_size(ingest: Callable[..., Ingested]) -> None:
    read = ingest(pictures("10/a.png", "9/a.png", "-1/a.png"))
    assert read.manifest.target.labels == ("-1", "9", "10")
    assert ingest(pictures("10/a.png", "9/a.png", "x/a.png")).manifest.target.labels == ("10", "9", "x")


def test_the_order_of_the_archive_does_not_show(ingest: Callable[..., Ingested]) -> None:
    backwards = dict(reversed(SPLIT.items()))
    assert ingest(backwards).manifest == ingest(SPLIT).manifest


def test_chunks_do_not_show(ingest: Callable[..., Ingested], monkeypatch: pytest.MonkeyPatch) -> None:
    files = pictures(*(f"{seed % 3}/{seed}.png" for seed in range(20)))
    whole = ingest(files, test_fraction=0.3)
    monkeypatch.setattr("worker.arrayfiles.CHUNK_BYTES", 50)
    chunked = ingest(files, test_fraction=0.3)
    assert chunked.manifest.splits == whole.manifest.splits
    assert chunked.manifest.features[0].std == pytest.approx(whole.manifest.features[0].std)


def test_test_rows_are_drawn_from_each_class(ingest: Callable[..., Ingested]) -> None:
    files = pictures(*(f"{seed % 2}/{seed}.png" for seed in range(20)))
    read = ingest(files, test_fraction=0.2, seed=3)
    assert sizes(read) == {"train": 16, "test": 4}
    assert np.bincount(read.y("test")).tolist() == [2, 2]


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("prefix", ["", "digits/", "data/digits/", "./"])
def test_a_folder_around_everything_is_taken_off(ingest: Callable[..., Ingested], prefix: str, how: int) -> None:
    for files in (TWO, SPLIT):
        wrapped = zipped({prefix + name: data for name, data in files.items()}, how=how)
        assert ingest(wrapped).manifest == ingest(files).manifest


def test_what_file_managers_leave_is_passed_over(ingest: Callable[..., Ingested]) -> None:
    left = ["__MACOSX/cat/._1.png", ".DS_Store", "cat/.DS_Store", "cat/Thumbs.db", "dog/desktop.ini", ".git/HEAD"]
    read = ingest(TWO | dict.fromkeys(left, b"no image") | {"empty/": b"", "cat/": b""})
    assert read.manifest == ingest(TWO).manifest


def test_folders_by_backslash_are_folders(ingest: Callable[..., Ingested]) -> None:
    files = {name.replace("/", "\\"): data for name, data in TWO.items()}
    assert ingest(files).manifest == ingest(TWO).manifest


def test_bytes_tell_the_format_whatever_the_name(ingest: Callable[..., Ingested]) -> None:
    photo = encoded(noise(0, 4, 5), "JPEG")
    read = ingest({"a/1.jpg": photo, "b/1.png": photo, "b/2": encoded(noise(1, 4, 5))})
    np.testing.assert_array_equal(read.x()[0], read.x()[1])


def test_images_are_gray_if_all_are_and_else_rgb(ingest: Callable[..., Ingested]) -> None:
    colour = encoded(noise(7, 4, 5, 3))
    mixed = ingest({"a/1.png": encoded(noise(0, 4, 5)), "b/1.png": colour})
    assert mixed.manifest.features[0].shape == (4, 5, 3)
    np.testing.assert_array_equal(mixed.x()[0], np.repeat(noise(0, 4, 5)[..., None], 3, axis=-1))
    np.testing.assert_array_equal(mixed.x()[1], noise(7, 4, 5, 3))


def test_the_training_images_decide_the_shape_of_all(
    ingest: Callable[..., Ingested], refused: Callable[..., tuple[str, str]]
) -> None:
    colours = pictures("train/a/1.png", "train/b/1.png", shape=(4, 5, 3))
    read = ingest(colours | {"test/a/1.png": encoded(noise(9, 4, 5))})
    np.testing.assert_array_equal(read.x("test")[0], np.repeat(noise(9, 4, 5)[..., None], 3, axis=-1))
    reason, message = refused(SPLIT | {"test/cat/1.png": encoded(noise(9, 4, 5, 3))})
    assert reason == "bad_shape"
    assert "gray" in message
    assert "'test/cat/1.png'" in message


def test_a_photo_is_upright(ingest: Callable[..., Ingested]) -> None:
    exif = Image.Exif()
    exif[images.ORIENTATION] = 6
    lying = encoded(noise(0, 5, 4), "JPEG", exif=exif)
    read = ingest({"a/1.jpg": lying, "b/1.png": encoded(noise(1, 4, 5))})
    np.testing.assert_array_equal(read.x()[0], images.pixels(lying, (4, 5)))


def test_a_second_file_has_the_test_split(
    ingest: Callable[..., Ingested], refused: Callable[..., tuple[str, str]]
) -> None:
    first = ingest(pictures("a/1.png", "b/1.png", "c/1.png")).manifest
    for second in (pictures("c/x.png", "b/x.png"), pictures("test/c/x.png", "test/b/x.png", "train/a/1.png")):
        read = ingest(second, existing=first, split="test")
        assert (sizes(read), read.y("test").tolist()) == ({"train": 3, "test": 2}, [1, 2])
    for second, code, received in (
        (pictures("d/x.png"), "unknown_class", "'d' in 'd/x.png'"),
        (pictures("a/x.png", shape=(5, 4)), "bad_shape", "5 x 4"),
        (pictures("train/a/x.png"), "bad_layout", "none called test"),
    ):
        reason, message = refused(second, existing=first, split="test")
        assert reason == code
        assert received in message


# ── refused ──


def deep_png() -> bytes:
    return encoded(Image.fromarray(np.zeros((4, 5), np.uint16)))


def encrypted() -> bytes:
    data = bytearray(zipped(TWO))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        at = archive.start_dir
    data[6] |= 1
    data[at + 8] |= 1
    return bytes(data)


def linked() -> bytes:
    """A symbolic link, as zip -y packs it."""
    buffer = io.BytesIO(zipped(TWO))
    with zipfile.ZipFile(buffer, "a") as archive:
        link = zipfile.ZipInfo("cat/passwd.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    return buffer.getvalue()


def twice() -> bytes:
    buffer = io.BytesIO(zipped(TWO))
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("cat/1.png", TWO["cat/2.png"])
    return buffer.getvalue()


def flipped() -> bytes:
    """A bit of an image is another one, and its checksum is not."""
    data = bytearray(zipped(TWO, how=zipfile.ZIP_STORED))
    data[100] ^= 1
    return bytes(data)


@pytest.mark.parametrize(
    ("files", "code", "received"),
    [
        (b"no zip", "not_zip", "not a zip"),
        (zipped(TWO)[:-30], "not_zip", "not a zip"),
        (encrypted(), "not_zip", "encrypted"),
        (flipped(), "not_zip", "CRC"),
        (zipped(TWO, how=zipfile.ZIP_BZIP2), "not_zip", "method 12"),
        (zipped(TWO, how=zipfile.ZIP_LZMA), "not_zip", "method 14"),
        ({}, "empty_file", "none"),
        ({"cat/": b"", "__MACOSX/x": b""}, "empty_file", "none"),
        (pictures("1.png", "2.png"), "bad_layout", "'1.png'"),
        (TWO | pictures("3.png"), "bad_layout", "'3.png'"),
        (TWO | pictures("cat/more/3.png"), "bad_layout", "'cat/more/3.png'"),
        (SPLIT | pictures("val/cat/3.png"), "bad_layout", "'val/cat/3.png'"),
        (TWO | pictures("../../cat/3.png"), "bad_layout", "'../../cat/3.png'"),
        (pictures("test/cat/1.png", "test/dog/1.png"), "bad_layout", "none called train"),
        (pictures("cat/1.png", "cat/2.png"), "one_class_only", "'cat'"),
        (pictures(*(f"{seed}/1.png" for seed in range(1_001))), "too_many_classes", "1,001"),
        (pictures("a" * 300 + "/1.png", "b/1.png"), "text_too_long", "300"),
        (SPLIT | pictures("test/cow/1.png"), "unknown_class", "'cow' in 'test/cow/1.png'"),
        (TWO | pictures("dog/3.png", shape=(5, 4)), "bad_shape", "5 x 4 in 'dog/3.png'"),
        (SPLIT | pictures("test/dog/3.png", shape=(5, 4)), "bad_shape", "5 x 4, in 'test/dog/3.png'"),
        (TWO | {"dog/notes.txt": b"bad dog"}, "not_an_image", "'dog/notes.txt'"),
        (TWO | {"dog/more.zip": zipped(TWO)}, "not_an_image", "'dog/more.zip'"),
        (TWO | {"dog/3.gif": encoded(noise(0, 4, 5), "GIF")}, "not_an_image", "'dog/3.gif'"),
        (TWO | {"dog/3.png": b""}, "not_an_image", "no bytes, in 'dog/3.png'"),
        (TWO | {"dog/3.png": TWO["dog/1.png"][:-30]}, "broken_image", "'dog/3.png'"),
        (TWO | {"dog/3.png": deep_png()}, "unsupported_image", "16 bits a channel, in 'dog/3.png'"),
        (linked(), "not_an_image", "'cat/passwd.png'"),
        (twice(), "bad_layout", "'cat/1.png' twice"),
    ],
)
def test_what_is_no_folder_of_images_is_refused_by_the_name_of_the_file(
    refused: Callable[..., tuple[str, str]], files: Files | bytes, code: str, received: str
) -> None:
    reason, message = refused(files)
    assert reason == code
    assert received in message
    assert len(message) < 1_000


def test_test_rows_come_from_one_place(refused: Callable[..., tuple[str, str]]) -> None:
    assert refused(SPLIT, test_fraction=0.5)[0] == "two_test_splits"


def test_limits_are_those_of_arrays(refused: Callable[..., tuple[str, str]]) -> None:
    few = LIMITS.model_copy(update={"rows": 3})
    small = LIMITS.model_copy(update={"decoded_bytes": 4 * 4 * 4 * 5 - 1})
    assert [refused(TWO, limits=limits)[0] for limits in (few, small)] == ["too_large", "too_large"]


def test_images_are_counted_before_one_is_read(refused: Callable[..., tuple[str, str]]) -> None:
    few = LIMITS.model_copy(update={"rows": 3})
    reason, message = refused(TWO | {"cat/1.png": b"no image"}, limits=few)
    assert reason == "too_large"
    assert "Received: 4" in message


def test_headers_are_read_from_the_beginning_of_files(
    ingest: Callable[..., Ingested], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that archives of large files are not unpacked twice; but those with much metadata before the pixels are."""
    read: list[int] = []
    header = images.header
    monkeypatch.setattr("worker.imagefiles.images.header", lambda data: (read.append(len(data)), header(data))[1])
    large = {f"{label}/1.png": encoded(noise(seed, 400, 400)) for seed, label in enumerate("ab")}
    assert ingest(large).manifest.features[0].shape == (400, 400)
    assert read == [BEGINNING, BEGINNING]
    read.clear()
    profile = {"icc_profile": np.random.default_rng(0).bytes(2 * BEGINNING)}
    described = {name: encoded(noise(seed, 4, 5), **profile) for seed, name in enumerate(("a/1.png", "b/1.png"))}
    assert ingest(described).manifest.features[0].shape == (4, 5)
    assert read == [BEGINNING, len(described["a/1.png"]), BEGINNING, len(described["b/1.png"])]


# ── archives that lie ──


def overlapping() -> bytes:
    """Members that are the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("cat/0.png", TWO["cat/1.png"])
        first = archive.getinfo("cat/0.png")
        for number in range(1, 900):
            again = zipfile.ZipInfo(f"{'cat' if number % 2 else 'dog'}/{number}.png")
            for name in ("compress_type", "CRC", "compress_size", "file_size", "header_offset"):
                setattr(again, name, getattr(first, name))
            archive.filelist.append(again)
    return buffer.getvalue()


def beyond_the_end(field: str, value: int) -> bytes:
    """The directory says that the first file lies where there is nothing; numbers beyond 32 bits stand in its zip64
    fields."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in TWO.items():
            archive.writestr(name, data)
        setattr(archive.getinfo("cat/1.png"), field, value)
    return buffer.getvalue()


@pytest.mark.parametrize("field", ["header_offset", "compress_size"])
@pytest.mark.parametrize("value", [1_000_000, 2**40, 2**62, 2**64 - 1])
def test_files_that_lie_beyond_the_archive_are_refused(
    refused: Callable[..., tuple[str, str]], field: str, value: int
) -> None:
    reason, message = refused(beyond_the_end(field, value))
    assert reason == "not_zip"
    assert "must lie within the archive" in message
    assert "'cat/1.png'" in message


def larger_than_declared() -> bytes:
    """The directory says that a file of 64 MiB has a hundred bytes."""
    data = bytearray(zipped({"cat/1.png": bytes(64 << 20), "dog/1.png": TWO["dog/1.png"]}))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        at = archive.start_dir
    data[at + 24 : at + 28] = struct.pack("<I", 100)
    return bytes(data)


FEW = LIMITS.model_copy(update={"rows": 3})


def members_at_most(rows: int) -> int:
    return MEMBERS_PER_IMAGE * rows + FOLDERS


def listing(
    entries: bytes, *, members: int, size: int | None = None, wide: bool = False, comment: bytes = b""
) -> bytes:
    """A directory of these bytes, and what is said of it; `wide`: in the records for large archives."""
    size = len(entries) if size is None else size
    if not wide:
        end = archives.END.pack(b"PK\5\6", 0, 0, members, members, size, 0, len(comment))
        return entries + end + comment
    record = archives.ZIP64.pack(b"PK\6\6", 44, 45, 45, 0, 0, members, members, size, 0)
    locator = archives.LOCATOR.pack(b"PK\6\7", 0, len(entries), 1)
    full = archives.END.pack(b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, len(comment))
    return entries + record + locator + full + comment


NO_ENTRIES = b"\xff" * (members_at_most(3) * LISTED_BYTES + 1)
"""More bytes than the directory of three images may have. Whoever read them would find that they are none."""


@pytest.mark.parametrize("comment", [b"", b"made by hand"])
@pytest.mark.parametrize(
    ("data", "received"),
    [
        ({"entries": b"", "members": members_at_most(3) + 1}, "10,007 in 0 bytes"),
        ({"entries": b"", "members": 40_000_000, "wide": True}, "40,000,000 in 0 bytes"),
        ({"entries": b"", "members": 2**64 - 1, "wide": True}, "18,446,744,073,709,551,615 in 0 bytes"),
        ({"entries": NO_ENTRIES, "members": 2}, "2 in 10,246,145 bytes"),
        ({"entries": NO_ENTRIES, "members": 2, "wide": True}, "2 in 10,246,145 bytes"),
        ({"entries": b"", "members": 2, "size": 2**64 - 1, "wide": True}, "2 in 18,446,744,073,709,551,615 bytes"),
    ],
)
def test_a_directory_too_large_is_refused_before_it_is_read(
    refused: Callable[..., tuple[str, str]], data: dict[str, Any], received: str, comment: bytes
) -> None:
    reason, message = refused(listing(**data, comment=comment), limits=FEW)
    assert (reason, f"Received: {received}." in message) == ("too_large", True)
    assert "at most 10,006 files, in a directory of at most 10,246,144 bytes" in message


def test_a_directory_is_a_part_of_the_memory_that_there_is(refused: Callable[..., tuple[str, str]]) -> None:
    """However many rows there may be: by so much memory, and not by what it says, it is refused here."""
    many = LIMITS.model_copy(update={"rows": 100_000_000, "memory_bytes": MEMORY_PER_LISTED_BYTE * 4_600})
    for entries, members, code in ((b"\xff" * 4_600, 100, "not_zip"), (b"\xff" * 4_601, 100, "too_large")):
        assert refused(listing(entries, members=members), limits=many)[0] == code
    assert refused(listing(b"", members=101), limits=many)[0] == "too_large"
    assert refused(listing(b"", members=100), limits=many)[0] == "empty_file"


def test_of_two_records_for_large_archives_neither_may_claim_too_much(refused: Callable[..., tuple[str, str]]) -> None:
    """One lies right before its locator, as some readers look for it, and one where that says."""
    lying = archives.ZIP64.pack(b"PK\6\6", 44, 45, 45, 0, 0, 40_000_000, 40_000_000, 0, 0)
    honest = archives.ZIP64.pack(b"PK\6\6", 44, 45, 45, 0, 0, 2, 2, 0, 0)
    locator = archives.LOCATOR.pack(b"PK\6\7", 0, 0, 1)
    end = archives.END.pack(b"PK\5\6", 0, 0, 2, 2, 0, 0, 0)
    for records in (lying + honest, honest + lying):
        assert refused(records + locator + end, limits=FEW)[0] == "too_large"
    assert refused(honest + honest + locator + end, limits=FEW)[0] == "empty_file"


def test_a_record_elsewhere_does_not_hide_what_the_end_record_says(tmp_path: Path) -> None:
    """Its locator stands in the comment of the last member, where zipfile finds no record before it and goes by the end
    record."""
    small = archives.ZIP64.pack(b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, archives.ENTRY, 0)
    with zipfile.ZipFile(tmp_path / "file.zip", "w") as archive:
        archive.writestr("first", small, zipfile.ZIP_STORED)
        for index in range(1_000):
            archive.writestr(str(index), b"")
        place = archive.infolist()[0].header_offset + len(archive.infolist()[0].FileHeader())
        archive.infolist()[-1].comment = archives.LOCATOR.pack(b"PK\6\7", 0, place, 1)
    with zipfile.ZipFile(tmp_path / "file.zip") as archive:
        assert len(archive.namelist()) == 1_001
    assert max(each.members for each in archives.claims(tmp_path / "file.zip")) == 1_001


@pytest.mark.parametrize("comment", [b"", b"photos" * 10_000])
@pytest.mark.parametrize("wide", [False, True])
def test_what_a_directory_claims_is_what_zipfile_goes_by(tmp_path: Path, wide: bool, comment: bytes) -> None:
    plain = zipped(TWO)
    with zipfile.ZipFile(io.BytesIO(plain)) as archive:
        start = archive.start_dir
    size = len(plain) - start - archives.END.size
    path = tmp_path / "file.zip"
    path.write_bytes(plain[:start] + listing(plain[start : start + size], members=4, wide=wide, comment=comment))
    with zipfile.ZipFile(path) as archive:
        assert (archive.namelist(), archive.start_dir, archive.comment) == (list(TWO), start, comment)
    assert archives.claims(path) == [archives.Directory(members=4, bytes=size)]


def test_an_archive_of_more_members_than_its_record_can_count_is_read(ingest: Callable[..., Ingested]) -> None:
    """As file managers have written them: the number modulo 65,536."""
    data = bytearray(zipped(TWO))
    data[-14:-10] = struct.pack("<2H", 1, 1)
    assert ingest(bytes(data)).manifest == ingest(TWO).manifest


def test_folders_in_folders_end_somewhere(
    refused: Callable[..., tuple[str, str]], ingest: Callable[..., Ingested]
) -> None:
    deep = {"a/" * (DEEPEST - 1) + name: data for name, data in TWO.items()}
    assert ingest(deep).manifest == ingest(TWO).manifest
    for around in (DEEPEST, 30_000):
        reason, message = refused({"a/" * around + name: data for name, data in TWO.items()})
        assert (reason, f"in {around + 1:,} folders" in message) == ("bad_layout", True)
        assert len(message) < 1_000


def many() -> bytes:
    """No bomb: 48 MB of pixels, twelve chunks of them."""
    same = [encoded(noise(seed, 400, 400)) for seed in range(2)]
    return zipped({f"{n % 2}/{n}.png": same[n % 2] for n in range(300)}, how=zipfile.ZIP_STORED)


ARCHIVES: dict[str, tuple[Callable[[], bytes], str, int]] = {
    "zeros": (lambda: zipped({"cat/1.png": bytes(60 << 20), "dog/1.png": bytes(60 << 20)}), "too_large", 64),
    "too many bytes": (lambda: zipped({"cat/1.png": bytes(images.MAX_BYTES + 1)}), "too_large", 64),
    "more than declared": (larger_than_declared, "not_zip", 64),
    "overlapping members": (overlapping, "not_zip", 64),
    "30,000 x 30,000 pixels": (
        lambda: zipped(dict.fromkeys(("a/1.png", "b/1.png"), black_square(30_000, rows=1_000))),
        "too_large",
        64,
    ),
    "a zip in a zip": (lambda: zipped({f"{n}/x.png": zipped({"x": bytes(1 << 20)}) for n in "ab"}), "not_an_image", 64),
    "many images": (many, "done", 128),
}
"""How it is made, how it ends, and by how many MiB the process may grow."""

CHILD = """
import resource, sys
from pathlib import Path
from tests.unit.ingestion.conftest import LIMITS
from worker.ingestion import answer
from worker.messages import IngestFile, IngestOptions

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for place in sorted(Path(sys.argv[1]).iterdir()):
    options = IngestOptions(format="image_zip")
    file = {"upload": place / "file.zip", "scratch": place / "scratch", "limits": LIMITS, "options": options}
    answered = answer(IngestFile(job_id="job_1", fence=1, **file))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(getattr(answered, "code", "done"), grown // 1024)
"""


def test_memory_is_bounded_whatever_an_archive_holds_or_says(tmp_path: Path) -> None:
    """In a process of its own, of which the kernel tells the peak so far."""
    for number, (make, _, _) in enumerate(ARCHIVES.values()):
        (tmp_path / str(number) / "scratch").mkdir(parents=True)
        (tmp_path / str(number) / "file.zip").write_bytes(make())
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", CHILD, tmp_path], capture_output=True, text=True, check=True
    )
    for line, (name, (_, code, most)) in zip(run.stdout.splitlines(), ARCHIVES.items(), strict=True):
        answered, grown = line.split()
        assert (name, answered) == (name, code)
        assert int(grown) < most, f"{name}: {grown} MiB"
