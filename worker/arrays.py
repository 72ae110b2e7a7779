"""npz: arrays `x`, `y`, or `x_train`, `y_train` and perhaps `x_test`, `y_test`, as `np.savez` and Keras write them.

    zip member ──header──► dtype, shape: refused here if it is a pickle, too large, or does not fit
               ──chunks──► finite? ──► uint8 (images) or float32 [N, *shape] on disk

A member is decoded as it is read: a file that unpacks to more than its header says ends there.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from gammabeta.errors import DatasetInvalid
from gammabeta.schemas.datasets import DatasetManifest, Feature, Split, SplitFiles, Target
from worker import targets
from worker.arrayfiles import Moments, rows_at_once, write_splits
from worker.messages import IngestFile, IngestLimits

MAX_MEMBERS = 1_000
MAX_RATIO = 100
"""Unpacked to packed bytes; only what unpacks to more than `SMALL` is held to it, since sorted labels pack better."""
SMALL = 64 << 20
SPLITS: tuple[Split, ...] = ("train", "test")


@dataclass(frozen=True, kw_only=True)
class Member:
    """An array in the archive; its header has been read, its values have not."""

    archive: zipfile.ZipFile
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def chunks(self, scratch: Path) -> Iterator[NDArray[Any]]:
        """The rows, a chunk at a time."""
        with self.archive.open(f"{self.name}.npy") as file:
            _read_header(file, self.name)
            yield from self._columns_first(file, scratch) if self.fortran else self._rows_first(file)
            if file.read(1):
                raise not_npz(f"Received more bytes in '{self.name}' than its header says. Save it again.")

    def _rows_first(self, file: IO[bytes]) -> Iterator[NDArray[Any]]:
        at_once = rows_at_once(self.row_bytes)
        for start in range(0, self.shape[0], at_once):
            n = min(at_once, self.shape[0] - start)
            data = self._exactly(file, n * self.row_bytes)
            yield np.frombuffer(data, dtype=self.dtype).reshape(n, *self.shape[1:])

    def _columns_first(self, file: IO[bytes], scratch: Path) -> Iterator[NDArray[Any]]:
        """Fortran's order has no rows to stream, so the values take a way round over a mapped file."""
        unpacked = scratch / f"{self.name}.raw"
        left = self.shape[0] * self.row_bytes
        with unpacked.open("xb") as raw:
            while left:
                left -= raw.write(self._exactly(file, min(left, 1 << 20)))
        mapped = np.memmap(unpacked, dtype=self.dtype, mode="r", shape=self.shape, order="F")
        at_once = rows_at_once(self.row_bytes)
        for start in range(0, self.shape[0], at_once):
            yield np.ascontiguousarray(mapped[start : start + at_once])
        unpacked.unlink()

    def _exactly(self, file: IO[bytes], n: int) -> bytes:
        data = file.read(n)
        if len(data) != n:
            raise not_npz(f"Received fewer bytes in '{self.name}' than its header says. Save it again.")
        return data

    def whole(self, scratch: Path) -> NDArray[Any]:
        """All of it, for the target."""
        return np.concatenate(list(self.chunks(scratch)))


def read(order: IngestFile) -> DatasetManifest:
    """Ingest an npz file.

    Raises:
        DatasetInvalid: it breaks a rule.
    """
    try:
        with zipfile.ZipFile(order.upload) as archive:
            _check_archive(archive, order)
            pairs = _pairs(archive, order)
            return _read_first(order, pairs) if order.existing is None else _read_second(order, pairs, order.existing)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise not_npz(f"Received a file that cannot be unpacked: {error}. Save it with np.savez_compressed.") from error


def not_npz(received: str) -> DatasetInvalid:
    """The refusal of what is no npz file."""
    return DatasetInvalid("not_npz", f"The file must be an npz file, as np.savez writes it. {received}")


# ── what the archive says of itself ──


def _check_archive(archive: zipfile.ZipFile, order: IngestFile) -> None:
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        raise DatasetInvalid(
            "too_large",
            f"The archive must have at most {MAX_MEMBERS:,} members. Received: {len(members):,}. Save x and y only.",
        )
    unpacked, packed = sum(each.file_size for each in members), order.upload.stat().st_size
    if unpacked > SMALL and unpacked > MAX_RATIO * packed:
        raise DatasetInvalid(
            "too_large",
            f"The archive must unpack to at most {MAX_RATIO} times its size. Received: {packed:,} bytes that unpack to "
            f"{unpacked:,}. Save it with np.savez, which does not pack.",
        )


def _pairs(archive: zipfile.ZipFile, order: IngestFile) -> dict[Split, tuple[Member, Member]]:
    """x and y of each split, their headers checked."""
    names = [each.removesuffix(".npy") for each in archive.namelist() if each.endswith(".npy")]
    wanted = _wanted(set(names), second=order.existing is not None)
    if wanted is None:
        found = ", ".join(f"'{name}'" for name in names[:10]) or "none"
        needed = "x_test and y_test, or x and y" if order.existing else "x and y, or x_train and y_train"
        raise DatasetInvalid(
            "missing_array",
            f"The file must have the arrays {needed}; x_test needs y_test. Received: {found}. Save them with "
            "np.savez_compressed(file, x=…, y=…).",
        )
    if len(wanted) == 2 and order.options.test_fraction:
        raise DatasetInvalid(
            "two_test_splits",
            f"Test rows must come from one place. Received: x_test and test_fraction={order.options.test_fraction:g}. "
            "Leave out one of them.",
        )
    pairs = {split: (_member(archive, x), _member(archive, y)) for split, (x, y) in wanted.items()}
    for x, y in pairs.values():
        _check_pair(x, y, order.limits)
    return pairs


def _wanted(names: set[str], *, second: bool) -> dict[Split, tuple[str, str]] | None:
    whole, train, test = ("x", "y"), ("x_train", "y_train"), ("x_test", "y_test")
    if len(names & set(test)) == 1:
        return None
    first = next((pair for pair in ((test, whole) if second else (train, whole)) if names.issuperset(pair)), None)
    if first is None:
        return None
    if second:
        return {"test": first}
    return {"train": first, "test": test} if names.issuperset(test) else {"train": first}


def _member(archive: zipfile.ZipFile, name: str) -> Member:
    with archive.open(f"{name}.npy") as file:
        shape, fortran, dtype = _read_header(file, name)
    if dtype.hasobject:
        raise DatasetInvalid(
            "object_array",
            f"Arrays must hold numbers. Received: '{name}' of dtype object, which is a pickle and was not loaded. Give "
            "all rows the same length and convert it, as in np.asarray(x, dtype=np.float32).",
        )
    if dtype.kind not in ("biufU" if name.startswith("y") else "biuf"):
        raise DatasetInvalid(
            "unsupported_dtype",
            f"Arrays must be of bool, integer or float dtype. Received: '{name}' of dtype {dtype}. Convert it, as in "
            "np.asarray(x, dtype=np.float32).",
        )
    return Member(archive=archive, name=name, dtype=dtype, shape=shape, fortran=fortran and len(shape) > 1)


def _read_header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(file)
    except (ValueError, KeyError) as error:
        raise not_npz(f"Received '{name}', which is no npy file ({error}). Save it again.") from error
    return shape, fortran, dtype


def _check_pair(x: Member, y: Member, limits: IngestLimits) -> None:
    if len(x.shape) < 2 or math.prod(x.shape[1:]) == 0:
        raise DatasetInvalid(
            "bad_shape",
            f"'{x.name}' must have the shape [rows, …features]. Received: {list(x.shape)}. Reshape it, as in "
            "x.reshape(len(x), -1).",
        )
    if len(y.shape) != 1 and y.shape[1:] != (1,):
        raise DatasetInvalid(
            "bad_shape",
            f"'{y.name}' must have the shape [rows]. Received: {list(y.shape)}. Save class numbers instead of one-hot "
            "rows, as in y.argmax(axis=1).",
        )
    if x.shape[0] != y.shape[0]:
        raise DatasetInvalid(
            "length_mismatch",
            f"'{x.name}' and '{y.name}' must have the same number of rows. Received: {x.shape[0]:,} and "
            f"{y.shape[0]:,}. Save the rows that belong together.",
        )
    if x.shape[0] == 0:
        raise DatasetInvalid("empty_file", f"'{x.name}' must have rows. Received: none. Upload it again.")
    stored = max(math.prod(each.shape) * each.dtype.itemsize for each in (x, y))
    size = max(stored, 4 * math.prod(x.shape))
    if x.shape[0] > limits.rows or size > limits.decoded_bytes:
        raise DatasetInvalid(
            "too_large",
            f"Arrays must have at most {limits.rows:,} rows and {limits.decoded_bytes:,} bytes as float32. Received: "
            f"'{x.name}' of shape {list(x.shape)}. Upload fewer rows, or raise GAMMABETA_INGEST_ROWS and "
            "GAMMABETA_INGEST_DECODED_BYTES.",
        )


# ── values ──


def _read_first(order: IngestFile, pairs: dict[Split, tuple[Member, Member]]) -> DatasetManifest:
    x, y = pairs["train"]
    if "test" in pairs:
        _check_alike(pairs["test"][0], x.shape[1:], image=_is_image(x))
    column = _Answers(y, order.scratch)
    test = targets.test_rows(
        column.y, is_class=column.is_class, fraction=order.options.test_fraction, seed=order.options.seed
    )
    target = column.target(~test)
    moments = Moments(1)
    rows: dict[Split, NDArray[np.bool_]] = {"train": ~test, "test": test} if test.any() else {"train": ~test}
    splits = _write(order, x, column.y, rows, moments)
    if "test" in pairs:
        splits |= _write_test(order, pairs["test"], target)
    feature = Feature(
        name="x",
        kind="image" if _is_image(x) else "numeric",
        shape=x.shape[1:],
        min=float(moments.min[0]),
        max=float(moments.max[0]),
        mean=float(moments.mean[0]),
        std=float(moments.std[0]),
    )
    return DatasetManifest(kind="image" if _is_image(x) else "array", features=(feature,), target=target, splits=splits)


def _read_second(
    order: IngestFile, pairs: dict[Split, tuple[Member, Member]], existing: DatasetManifest
) -> DatasetManifest:
    """The test split in a file of its own: shape and classes are those of the first file."""
    if existing.kind == "table":
        raise DatasetInvalid(
            "wrong_format",
            "The second file must be of the format of the first. Received: an npz file for a table. Upload a csv file "
            "with the same columns.",
        )
    _check_alike(pairs["test"][0], existing.features[0].shape, image=existing.kind == "image")
    splits = {**existing.splits, **_write_test(order, pairs["test"], existing.target)}
    return existing.model_copy(update={"splits": splits})


def _is_image(x: Member) -> bool:
    return x.dtype == np.uint8 and len(x.shape) in (3, 4)


def _check_alike(x: Member, shape: tuple[int, ...], *, image: bool) -> None:
    if x.shape[1:] != shape or _is_image(x) != image:
        kind = "uint8" if image else "a number type other than uint8 images"
        raise DatasetInvalid(
            "bad_shape",
            f"The rows of '{x.name}' must have the shape {list(shape)} and {kind}, like the training rows. Received: "
            f"{list(x.shape[1:])} of {x.dtype}. Convert them.",
        )


def _write_test(order: IngestFile, pair: tuple[Member, Member], target: Target) -> dict[Split, SplitFiles]:
    x, y = pair
    column = _Answers(y, order.scratch)
    column.recode(target)
    return _write(order, x, column.y, {"test": np.ones(x.shape[0], dtype=np.bool_)}, None)


def _write(
    order: IngestFile,
    x: Member,
    y: NDArray[Any],
    rows: dict[Split, NDArray[np.bool_]],
    moments: Moments | None,
) -> dict[Split, SplitFiles]:
    """The arrays of each split on disk; `moments` takes in the training rows."""
    dtype = "|u1" if _is_image(x) else "<f4"
    values = x.chunks(order.scratch) if _is_image(x) else _finite_chunks(x, order.scratch)
    return write_splits(order.scratch, values, y, rows, dtype=dtype, shape=x.shape[1:], into=moments)


def _finite_chunks(x: Member, scratch: Path) -> Iterator[NDArray[np.float32]]:
    start = 0
    for chunk in x.chunks(scratch):
        yield finite(x.name, start, chunk)
        start += len(chunk)


def finite(name: str, start: int, chunk: NDArray[Any]) -> NDArray[np.float32]:
    """The values as float32.

    Raises:
        DatasetInvalid: one is NaN, infinite, or beyond float32.
    """
    with np.errstate(over="ignore"):
        values = chunk.astype(np.float32)
    wrong = ~np.isfinite(values)
    if wrong.any():
        place = tuple(int(each) for each in np.argwhere(wrong)[0])
        index = ", ".join(str(each) for each in (start + place[0], *place[1:]))
        raise DatasetInvalid(
            "non_finite",
            f"Numbers must be finite and fit into 32 bits. Received: {chunk[place]} in {name}[{index}]. Correct it, or "
            "leave the row out.",
        )
    return values


class _Answers:
    """The array of what is predicted: integers, bools and strings are classes, floats are numbers."""

    def __init__(self, member: Member, scratch: Path) -> None:
        self._name = member.name
        self.is_class = member.dtype.kind != "f"
        self.labels: list[str] = []
        values = member.whole(scratch).reshape(member.shape[0])
        self.y: NDArray[Any] = self._codes(values) if self.is_class else finite(member.name, 0, values)

    def _codes(self, values: NDArray[Any]) -> NDArray[np.int64]:
        distinct, codes = np.unique(values, return_inverse=True)
        if len(distinct) > targets.MAX_CLASSES:
            raise targets.too_many_classes(self._name, len(distinct))
        try:
            self.labels = [str(each) for each in distinct.tolist()]
        except ValueError as error:  # code points beyond Unicode
            raise DatasetInvalid(
                "bad_text", f"The labels in '{self._name}' must be valid Unicode. Received: {error}. Save them again."
            ) from error
        return cast("NDArray[np.int64]", codes.astype(np.int64))

    def target(self, trained: NDArray[np.bool_]) -> Target:
        if self.is_class:
            return targets.classes_of("y", self.labels, self.y, trained)
        return targets.numbers_of("y", self.y, trained)

    def recode(self, target: Target) -> None:
        """Give the codes of the training rows to the test rows."""
        if self.is_class != (target.kind == "class"):
            raise DatasetInvalid(
                "wrong_target",
                f"'{self._name}' must be of the kind of the training rows, a {target.kind}. Received: a "
                f"{'class' if self.is_class else 'number'}. Convert its dtype.",
            )
        known = {label: place for place, label in enumerate(target.labels)}
        for code, label in enumerate(self.labels):
            if label not in known:
                row = int(np.argmax(self.y == code))
                raise targets.unknown_class("y", label, f"in {self._name}[{row}]", target.labels)
        if self.is_class:
            self.y = np.array([known[label] for label in self.labels], dtype=np.int64)[self.y]
