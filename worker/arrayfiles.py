"""Arrays on disk, written a chunk at a time: a `.npy` file that can be mapped, its hash, and moments of what went by.

chunk [n, *shape] ──► ArrayWriter ──► file, sha256          constant memory, whatever N is
                 └──► Moments     ──► min, max, mean, std
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gammabeta.schemas.datasets import ArrayFile, Split, SplitFiles

CHUNK_BYTES = 4 << 20
"""How much of an array is in memory at a time."""
MEDIAN_BYTES = 256 << 20
"""How much of a table is in memory while its medians are taken."""


def rows_at_once(row_bytes: int) -> int:
    """How many rows make a chunk."""
    return max(1, CHUNK_BYTES // max(1, row_bytes))


class ArrayWriter:
    """Writes an array of known shape from chunks along its first axis, hashing as it goes."""

    def __init__(self, path: Path, *, dtype: str, shape: tuple[int, ...]) -> None:
        self._dtype, self._shape = np.dtype(dtype), shape
        self._rows = self._bytes = 0
        self._hash = hashlib.sha256()
        self._file = path.open("xb")
        self._put(_header(self._dtype, shape))

    def __enter__(self) -> ArrayWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def write(self, chunk: NDArray[Any]) -> None:
        """Append rows: [n, *shape[1:]]."""
        self._put(np.ascontiguousarray(chunk, dtype=self._dtype).tobytes())
        self._rows += len(chunk)

    def finish(self) -> ArrayFile:
        """Close the file and describe it. It is in scratch, so that it is not synced: see `worker.folders`.

        Raises:
            ValueError: fewer or more rows were written than the header says.
        """
        if self._rows != self._shape[0]:
            raise ValueError(f"the array must get {self._shape[0]} rows. Received: {self._rows}.")
        self._file.close()
        return ArrayFile(sha256=self._hash.hexdigest(), bytes=self._bytes, dtype=self._dtype.name, shape=self._shape)

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self._bytes += len(data)


def write_whole(path: Path, array: NDArray[Any], *, dtype: str) -> ArrayFile:
    """An array that is in memory, as a file."""
    with ArrayWriter(path, dtype=dtype, shape=array.shape) as writer:
        writer.write(array)
        return writer.finish()


def write_splits(
    scratch: Path,
    chunks: Iterable[NDArray[Any]],
    y: NDArray[Any],
    rows: dict[Split, NDArray[np.bool_]],
    *,
    dtype: str,
    shape: tuple[int, ...],
    into: Moments | None = None,
) -> dict[Split, SplitFiles]:
    """The arrays of each split as files. `chunks`: [n, *shape], one after the other; `y` and each of `rows`: [N];
    `into` takes in the values of the training rows."""
    splits: dict[Split, SplitFiles] = {}
    with ExitStack() as files:
        writers = {
            split: files.enter_context(
                ArrayWriter(scratch / f"{split}-x.npy", dtype=dtype, shape=(int(mine.sum()), *shape))
            )
            for split, mine in rows.items()
        }
        start = 0
        for chunk in chunks:
            for split, mine in rows.items():
                chosen = chunk[mine[start : start + len(chunk)]]
                writers[split].write(chosen)
                if split == "train" and into is not None:
                    into.add(chosen.reshape(-1, 1))
            start += len(chunk)
        for split, mine in rows.items():
            y_file = write_whole(scratch / f"{split}-y.npy", y[mine], dtype=y.dtype.str)
            splits[split] = SplitFiles(n=int(mine.sum()), x=writers[split].finish(), y=y_file)
    return splits


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, description)
    return buffer.getvalue()


class Moments:
    """Count, min, max, mean and population variance of `width` columns, NaN left out, merged chunk by chunk (Chan,
    Golub & LeVeque 1979, so that a large mean does not eat the variance)."""

    def __init__(self, width: int) -> None:
        self.count = np.zeros(width, dtype=np.int64)
        self.mean = np.zeros(width)
        self._squares = np.zeros(width)
        self.min = np.full(width, np.inf)
        self.max = np.full(width, -np.inf)

    @property
    def std(self) -> NDArray[np.float64]:
        return np.sqrt(self._squares / np.maximum(self.count, 1))

    def add(self, chunk: NDArray[Any]) -> None:
        """Take in rows: [n, width]."""
        if not len(chunk):
            return
        absent = np.isnan(chunk) if chunk.dtype.kind == "f" else None
        if absent is not None and absent.any():
            self._add_with_gaps(chunk.astype(np.float64), ~absent)
        else:
            count = np.full(chunk.shape[1], len(chunk))
            squares = chunk.var(axis=0, dtype=np.float64) * len(chunk)
            self._merge(count, chunk.mean(axis=0, dtype=np.float64), squares)
            self._widen(chunk.min(axis=0), chunk.max(axis=0))

    def _add_with_gaps(self, values: NDArray[np.float64], present: NDArray[np.bool_]) -> None:
        count = present.sum(axis=0)
        mean = np.where(present, values, 0).sum(axis=0) / np.maximum(count, 1)
        self._merge(count, mean, (np.where(present, values - mean, 0) ** 2).sum(axis=0))
        self._widen(np.where(present, values, np.inf).min(axis=0), np.where(present, values, -np.inf).max(axis=0))

    def _merge(self, count: NDArray[np.int64], mean: NDArray[np.float64], squares: NDArray[np.float64]) -> None:
        total = np.maximum(self.count + count, 1)
        delta = mean - self.mean
        self._squares += squares + delta**2 * self.count * count / total
        self.mean += delta * count / total
        self.count += count

    def _widen(self, low: NDArray[Any], high: NDArray[Any]) -> None:
        self.min, self.max = np.minimum(self.min, low), np.maximum(self.max, high)


def medians(path: Path, shape: tuple[int, int]) -> NDArray[np.float64]:
    """The median of each column of a float64 table on disk, NaN left out; NaN where nothing is left."""
    rows, width = shape
    group = max(1, MEDIAN_BYTES // max(1, 8 * rows))
    found = np.full(width, np.nan)
    for start in range(0, width, group):
        stop = min(start + group, width)
        block = np.concatenate([chunk[:, start:stop] for chunk in _chunks_of(path, shape)])
        for column in range(start, stop):
            values = block[:, column - start]
            values = values[~np.isnan(values)]
            found[column] = np.median(values) if len(values) else np.nan
    return found


def _chunks_of(path: Path, shape: tuple[int, int]) -> Iterator[NDArray[np.float64]]:
    """Read, not mapped: what is mapped would count toward the limit on the address space."""
    rows, width = shape
    at_once = rows_at_once(8 * width)
    with path.open("rb") as file:
        file.seek(len(_header(np.dtype("<f8"), shape)))
        for start in range(0, rows, at_once):
            n = min(at_once, rows - start)
            yield np.frombuffer(file.read(8 * n * width), dtype="<f8").reshape(n, width)
