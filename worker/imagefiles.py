"""image_zip: a zip of PNG and JPEG files, in a folder for each class.

    CLASS/file.png                          or   train/CLASS/file.png   and perhaps   test/CLASS/file.png

    end of the archive ──claims──► how large its directory is
    directory ──layout──► which files, of which class and split
    training files ──headers──► one size; gray if all of them are, else RGB
    files ──pixels──► uint8 [N, H, W] or [N, H, W, 3] on disk

Nothing is unpacked to disk, and the names in the archive never become paths. A file is read when its turn comes, so
that one of them and one chunk of pixels are in memory, however many there are.
"""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gammabeta import images
from gammabeta.errors import DatasetInvalid
from gammabeta.images import ImageRefused, Pixels
from gammabeta.schemas.datasets import DatasetManifest, Feature, Split, SplitFiles, Target
from worker import archives, targets
from worker.arrayfiles import Moments, rows_at_once, write_splits
from worker.messages import IngestFile, IngestLimits

MAX_RATIO = 100
"""Unpacked to packed bytes, of the archive as a whole. Images hardly pack."""
SMALL = 16 << 20
"""An archive that unpacks to less is not held to it."""
MEMBERS_PER_IMAGE = 2
"""macOS adds a file of its own to each."""
FOLDERS = 10_000
"""Members that are neither: folders, and what other systems leave in them."""
LISTED_BYTES = 1 << 10
"""Of the directory for each member, on average; names are most of it."""
MEMORY_PER_LISTED_BYTE = 16
"""What stands for a byte of the directory once it is read: some 900 bytes for a member with a short name."""
DEEPEST = 32
"""Folders of a file in the archive, those around everything included."""
LOCAL_HEADER = 30
"""Bytes before the name of a member."""
BEGINNING = 64 << 10
"""Of a file: bytes that hold its header, but where much metadata stands before it."""
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
SPLITS: tuple[Split, ...] = ("train", "test")
OF_THE_SYSTEM = frozenset({"__macosx", "thumbs.db", "desktop.ini"})
"""What file managers leave in archives, besides names that begin with a dot."""
WHOLE = re.compile(r"-?[0-9]{1,18}")
UNPACKABLE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, struct.error, UnicodeError)
"""What zipfile raises for an archive that is damaged, encrypted, or packed in a way that it does not know."""

Path: TypeAlias = tuple[str, ...]
"""The folders of a file in the archive, and its name."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A file of the archive and its class."""

    label: str
    member: zipfile.ZipInfo

    @property
    def name(self) -> str:
        return self.member.filename


Layout: TypeAlias = dict[Split, list[Picture]]


def read(order: IngestFile) -> DatasetManifest:
    """Ingest a zip of images.

    Raises:
        DatasetInvalid: it breaks a rule.
    """
    _check_directory(order)
    with _unpacking():
        archive = zipfile.ZipFile(order.upload)
    with archive:
        _check_archive(archive, order)
        found, pictures = _paths(archive), Pictures(archive)
        if order.existing is None:
            return _read_first(order, pictures, _first(found, order.options.test_fraction))
        return _read_second(order, pictures, _second(found), order.existing)


class Pictures:
    """Reads the files of an archive."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def shape(self, pictures: Iterable[Picture]) -> tuple[int, ...]:
        """Of all of them, by their headers: [H, W] where each is gray, else [H, W, 3]."""
        first: tuple[Picture, images.Header] | None = None
        gray = True
        for picture in pictures:
            with _of(picture):
                header = self._header(picture)
            gray = gray and header.gray
            if first is None:
                first = picture, header
            elif (header.height, header.width) != (first[1].height, first[1].width):
                _refuse_sizes(*first, picture, header)
        if first is None:
            raise ValueError("pictures must be at least one. Received: none.")
        height, width = first[1].height, first[1].width
        return (height, width) if gray else (height, width, 3)

    def chunks(self, pictures: list[Picture], shape: tuple[int, ...]) -> Iterator[Pixels]:
        """Their pixels, a chunk [n, *shape] at a time."""
        at_once = rows_at_once(int(np.prod(shape)))
        for start in range(0, len(pictures), at_once):
            yield np.stack([self._pixels(each, shape) for each in pictures[start : start + at_once]])

    def _pixels(self, picture: Picture, shape: tuple[int, ...]) -> Pixels:
        with _of(picture):
            return images.pixels(self._bytes(picture), shape)

    def _header(self, picture: Picture) -> images.Header:
        beginning = self._bytes(picture, BEGINNING)
        try:
            return images.header(beginning)
        except ImageRefused as refused:
            if refused.reason != "broken_image" or len(beginning) < BEGINNING:
                raise
            return images.header(self._bytes(picture))

    def _bytes(self, picture: Picture, most: int | None = None) -> bytes:
        with _unpacking(), self._archive.open(picture.member) as file:
            # Without a number, zipfile would unpack to the end, whatever size the directory says.
            return file.read(picture.member.file_size + 1 if most is None else most)


@contextmanager
def _unpacking() -> Iterator[None]:
    try:
        yield
    except UNPACKABLE as error:
        raise DatasetInvalid(
            "not_zip",
            f"The file must be a zip archive. Received a file that cannot be unpacked: {error}. Zip it again, with no "
            "password.",
        ) from error


@contextmanager
def _of(picture: Picture) -> Iterator[None]:
    """Name the file in what is wrong with it."""
    try:
        yield
    except ImageRefused as refused:
        raise DatasetInvalid(
            refused.reason,
            f"Each image {refused.must}. Received: {refused.received}, in {_quoted(picture.name)}. {refused.remedy}",
        ) from refused


def _quoted(name: str) -> str:
    return repr(name if len(name) <= 200 else f"{name[:200]}…")


def _refuse_sizes(first: Picture, was: images.Header, other: Picture, found: images.Header) -> NoReturn:
    raise DatasetInvalid(
        "bad_shape",
        f"All images must have one size (height x width). Received: {was.height} x {was.width} in "
        f"{_quoted(first.name)}, and {found.height} x {found.width} in {_quoted(other.name)}. Resize or crop them.",
    )


# ── what the archive says of itself ──


def _check_directory(order: IngestFile) -> None:
    """Before it is read, which is done by `zipfile` in one go."""
    members = MEMBERS_PER_IMAGE * order.limits.rows + FOLDERS
    size = min(members * LISTED_BYTES, order.limits.memory_bytes // MEMORY_PER_LISTED_BYTE)
    members = min(members, size // archives.ENTRY)
    for claimed in archives.claims(order.upload):
        if not claimed.fits(members=members, bytes=size):
            raise DatasetInvalid(
                "too_large",
                f"The archive must list at most {members:,} files, in a directory of at most {size:,} bytes. Received: "
                f"{claimed.members:,} in {claimed.bytes:,} bytes. Upload fewer images, or raise "
                "GAMMABETA_INGEST_ROWS and GAMMABETA_INGEST_MEMORY_BYTES.",
            )


def _check_archive(archive: zipfile.ZipFile, order: IngestFile) -> None:
    members, packed = archive.infolist(), order.upload.stat().st_size
    unpacked = sum(each.file_size for each in members)
    if unpacked > SMALL and unpacked > MAX_RATIO * packed:
        raise DatasetInvalid(
            "too_large",
            f"The archive must unpack to at most {MAX_RATIO} times its size. Received: {packed:,} bytes that unpack to "
            f"{unpacked:,}. Save the images as PNG or JPEG, which are packed already.",
        )
    for each in members:
        if each.file_size > images.MAX_BYTES:
            raise DatasetInvalid(
                "too_large",
                f"Each file must have at most {images.MAX_BYTES:,} bytes. Received: {each.file_size:,}, in "
                f"{_quoted(each.filename)}. Resize it, or leave it out.",
            )
        if each.compress_type not in METHODS:
            raise DatasetInvalid(
                "not_zip",
                f"Files must be stored or deflated. Received: {_quoted(each.filename)}, packed by method "
                f"{each.compress_type}. Zip it again with zip -r.",
            )
        if each.header_offset < 0 or each.header_offset + LOCAL_HEADER + each.compress_size > packed:
            raise DatasetInvalid(
                "not_zip",
                f"Each file must lie within the archive, which has {packed:,} bytes. Received: "
                f"{_quoted(each.filename)}, of {each.compress_size:,} bytes from byte {each.header_offset:,} on. Zip "
                "it again.",
            )
    _refuse_overlap(members)


def _refuse_overlap(members: list[zipfile.ZipInfo]) -> None:
    """Members that share bytes make a small archive of much."""
    end, before = 0, ""
    for each in sorted(members, key=lambda member: member.header_offset):
        if each.header_offset < end:
            raise DatasetInvalid(
                "not_zip",
                f"Each file must have bytes of its own in the archive. Received: {_quoted(each.filename)}, which "
                f"begins within {_quoted(before)}. Zip it again.",
            )
        end, before = each.header_offset + LOCAL_HEADER + each.compress_size, each.filename


def _paths(archive: zipfile.ZipFile) -> dict[Path, zipfile.ZipInfo]:
    """The files by their paths, without what the system has left and without the folders that hold all of them."""
    found: dict[Path, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        path = tuple(part for part in member.filename.replace("\\", "/").split("/") if part not in ("", "."))
        if member.is_dir() or not path or _is_of_the_system(path):
            continue
        if len(path) > DEEPEST + 1:
            raise _bad_layout(f"Received: {_quoted(member.filename)}, in {len(path) - 1:,} folders. Zip their folder.")
        if path in found:
            raise DatasetInvalid(
                "bad_layout",
                f"Each file must be in the archive once. Received: {_quoted(member.filename)} twice. Zip it again.",
            )
        found[path] = member
    if not found:
        raise DatasetInvalid("empty_file", "The archive must have images. Received: none. Zip their folder again.")
    return _unwrapped(found)


def _is_of_the_system(path: Path) -> bool:
    return any(part.lower() in OF_THE_SYSTEM or (part[0] == "." and part != "..") for part in path)


def _unwrapped(found: dict[Path, zipfile.ZipInfo]) -> dict[Path, zipfile.ZipInfo]:
    """`digits/train/…` as `train/…`: to zip a folder, and not what is in it, is no mistake."""
    while len({path[0] for path in found}) == 1 and all(len(path) > 2 and path[0] not in SPLITS for path in found):
        found = {path[1:]: member for path, member in found.items()}
    return found


def _layout(found: dict[Path, zipfile.ZipInfo], whole: Split) -> Layout:
    """In the order of the paths, whichever the archive has. All of it is `whole` where no folders name splits."""
    layout: Layout = {}
    has_splits = any(len(path) == 3 and path[0] in SPLITS for path in found)
    for path in sorted(found):
        match path:
            case ("train" | "test" as split, label, _) if has_splits:
                layout.setdefault(split, []).append(Picture(label=label, member=found[path]))
            case (label, _) if not has_splits:
                layout.setdefault(whole, []).append(Picture(label=label, member=found[path]))
            case _:
                raise _bad_layout(f"Received: {_quoted(found[path].filename)}. Move it, or leave it out.")
    return layout


def _bad_layout(received: str) -> DatasetInvalid:
    return DatasetInvalid(
        "bad_layout",
        "Images must lie in the archive as CLASS/file.png, or as train/CLASS/file.png and test/CLASS/file.png. "
        f"{received}",
    )


def _first(found: dict[Path, zipfile.ZipInfo], test_fraction: float | None) -> Layout:
    layout = _layout(found, "train")
    if "train" not in layout:
        raise _bad_layout("Received: a folder test, and none called train. Add it, or send the file with split=test.")
    if "test" in layout and test_fraction:
        raise DatasetInvalid(
            "two_test_splits",
            f"Test rows must come from one place. Received: a folder test and test_fraction={test_fraction:g}. Leave "
            "out one of them.",
        )
    return layout


def _second(found: dict[Path, zipfile.ZipInfo]) -> list[Picture]:
    layout = _layout(found, "test")
    if "test" not in layout:
        raise _bad_layout("Received: a folder train, and none called test. Rename it if these are the test images.")
    return layout["test"]


# ── classes and pixels ──


def _read_first(order: IngestFile, pictures: Pictures, layout: Layout) -> DatasetManifest:
    train = layout["train"]
    _check_count(order.limits, sum(map(len, layout.values())))
    labels = _labels(train)
    y = _codes(train, labels)
    chosen = targets.test_rows(y, is_class=True, fraction=order.options.test_fraction, seed=order.options.seed)
    target = targets.classes_of("y", labels, y, ~chosen)
    shape = pictures.shape(train)
    _check_size(order.limits, sum(map(len, layout.values())), shape)
    moments = Moments(1)
    rows: dict[Split, NDArray[np.bool_]] = {"train": ~chosen, "test": chosen} if chosen.any() else {"train": ~chosen}
    splits = write_splits(order.scratch, pictures.chunks(train, shape), y, rows, dtype="|u1", shape=shape, into=moments)
    if "test" in layout:
        splits |= _write_test(order, pictures, layout["test"], shape, target)
    feature = Feature(
        name="x",
        kind="image",
        shape=shape,
        min=float(moments.min[0]),
        max=float(moments.max[0]),
        mean=float(moments.mean[0]),
        std=float(moments.std[0]),
    )
    return DatasetManifest(kind="image", features=(feature,), target=target, splits=splits)


def _read_second(
    order: IngestFile, pictures: Pictures, test: list[Picture], existing: DatasetManifest
) -> DatasetManifest:
    """The test split in a file of its own: shape and classes are those of the first file."""
    shape = existing.row_shape
    _check_count(order.limits, len(test))
    _check_size(order.limits, len(test), shape)
    splits = {**existing.splits, **_write_test(order, pictures, test, shape, existing.target)}
    return existing.model_copy(update={"splits": splits})


def _write_test(
    order: IngestFile, pictures: Pictures, test: list[Picture], shape: tuple[int, ...], target: Target
) -> dict[Split, SplitFiles]:
    known = set(target.labels)
    for each in test:
        if each.label not in known:
            raise targets.unknown_class("y", each.label, f"in {_quoted(each.name)}", target.labels)
    y = _codes(test, list(target.labels))
    rows: dict[Split, NDArray[np.bool_]] = {"test": np.ones(len(test), dtype=np.bool_)}
    return write_splits(order.scratch, pictures.chunks(test, shape), y, rows, dtype="|u1", shape=shape)


def _labels(pictures: list[Picture]) -> list[str]:
    """The names of the folders: whole numbers by size, texts by alphabet."""
    distinct = {each.label for each in pictures}
    if all(map(WHOLE.fullmatch, distinct)):
        return sorted(distinct, key=lambda label: (int(label), label))
    return sorted(distinct)


def _codes(pictures: list[Picture], labels: list[str]) -> NDArray[np.int64]:
    code_of = {label: code for code, label in enumerate(labels)}
    return np.fromiter((code_of[each.label] for each in pictures), dtype=np.int64, count=len(pictures))


def _check_count(limits: IngestLimits, n: int) -> None:
    """Before any of them is read."""
    if n > limits.rows:
        raise DatasetInvalid(
            "too_large",
            f"Images must be at most {limits.rows:,}. Received: {n:,}. Upload fewer, or raise GAMMABETA_INGEST_ROWS.",
        )


def _check_size(limits: IngestLimits, n: int, shape: tuple[int, ...]) -> None:
    """By the rule of arrays: as float32, which training makes of them."""
    if 4 * n * int(np.prod(shape)) > limits.decoded_bytes:
        raise DatasetInvalid(
            "too_large",
            f"Images must come to at most {limits.decoded_bytes:,} bytes as float32. Received: {n:,} of shape "
            f"{list(shape)}. Upload fewer or smaller ones, or raise GAMMABETA_INGEST_DECODED_BYTES.",
        )
