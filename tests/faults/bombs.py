"""T20: files that are made to fill the memory of whoever reads them, uploaded to a service that runs.

service ──uploads──► ingestion: a child with limits ──► refused with a code
   │                    └── supervisor
   └── both: peak of resident memory over what they had before, and whether they live
"""

from __future__ import annotations

import gzip
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import httpx
import numpy as np

from tests.faults.figures import Row
from tests.faults.load import served
from tests.faults.rig import Place, Scenario
from tests.faults.trials import Trials
from tests.integration.workshop import until
from tests.pictures import encoded
from worker import archives

CSV = b"a,y\n1,u\n2,v\n"
MEMORY = 2 << 30
"""What the child that reads a file may take."""
NAMES = ("service", "supervisor")
GROWTH = 32 << 20
"""What the service and the supervisor may grow by, however large the file is and whatever it unpacks to."""


def _npy(shape: tuple[int, ...], data: bytes = b"", *, dtype: str = "|u1") -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": shape})
    return header.getvalue() + data


def _archive(members: dict[str, bytes], *, how: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def zeros(n: int, how: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A thousand times as large as it looks."""
    return _archive({"x.npy": _npy((70 * n, 1), bytes(70 * n)), "y.npy": _npy((4,), bytes(4))}, how=how)


def zeros_bzip2(n: int) -> bytes:
    """A million times."""
    return zeros(n, zipfile.ZIP_BZIP2)


def overlapping(n: int) -> bytes:
    """Hundreds of members that are the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", _npy((n, 1), bytes(n)))
        archive.writestr("y.npy", _npy((n,), bytes(n)))
        first = archive.getinfo("x.npy")
        for number in range(900):
            again = zipfile.ZipInfo(f"x{number}.npy")
            for name in ("compress_type", "CRC", "compress_size", "file_size", "header_offset"):
                setattr(again, name, getattr(first, name))
            archive.filelist.append(again)
    return buffer.getvalue()


def many_members(n: int) -> bytes:
    return _archive({f"{number}.npy": b"" for number in range(n // 100)})


def nested(n: int) -> bytes:
    """Archives in archives, where an array should be."""
    inner = zeros(n // 10)
    for _ in range(5):
        inner = _archive({"x.npy": inner, "y.npy": inner})
    return inner


def declared(n: int) -> bytes:
    """More rows in the header than a disk could hold."""
    shape = (n * 100_000, 1_000)
    return _archive({"x.npy": _npy(shape, dtype="<f8"), "y.npy": _npy(shape[:1], dtype="<f8")})


def declared_and_not_there(n: int) -> bytes:
    return _archive({"x.npy": _npy((50 * n, 1), b"1234"), "y.npy": _npy((50 * n,), b"1234")})


def long_header(n: int) -> bytes:
    """A header that says that it has four gigabytes."""
    header = b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b" " * (20 * n)
    return _archive({"x.npy": header, "y.npy": header})


def wide_labels(n: int) -> bytes:
    """Each of a million characters."""
    labels = _npy((4,), b"".join(each * n for each in (b"a\0\0\0", b"b\0\0\0") * 2), dtype=f"<U{n}")
    return _archive({"x.npy": _npy((4, 1), b"1234"), "y.npy": labels}, how=zipfile.ZIP_STORED)


def gzip_in_npz(n: int) -> bytes:
    packed = gzip.compress(bytes(20 * n), 1)
    return _archive({"x.npy": packed, "y.npy": packed})


def endless_line(n: int) -> bytes:
    return b"a,y\n1,u\n" + b"1" * (20 * n)


def endless_cells(n: int) -> bytes:
    return b"a,y\n1,u\n" + b"1," * (20 * n)


def open_quote(n: int) -> bytes:
    """A cell that begins and never ends."""
    return b'a,y\n1,"' + b"u\n" * (10 * n)


def columns(n: int) -> bytes:
    """A million of them."""
    return b",".join(b"c%d" % number for number in range(n)) + b",y\n" + b"1," * n + b"u\n"


def gzip_as_csv(n: int) -> bytes:
    return gzip.compress(b"a,y\n" + b"1,u\n" * (10 * n), 1)


def _photos(data: bytes, *, how: int = zipfile.ZIP_STORED) -> bytes:
    """The same file in two classes."""
    return _archive({"u/1": data, "v/1": data}, how=how)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(side: int, *chunks: bytes) -> bytes:
    """A PNG of one bit a pixel, and black, as far as it goes; with these chunks before the pixels."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    there = min(side, 30_000)
    pixels = _chunk(b"IDAT", zlib.compress(bytes(there * (1 + (there + 7) // 8)), 1))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + _chunk(b"IEND", b"")


def black(n: int) -> bytes:
    """900 million pixels, each of them there."""
    del n
    return _photos(_png(30_000))


def declared_pixels(n: int) -> bytes:
    """As many pixels as a PNG can say."""
    del n
    return _photos(_png(2**31 - 1))


def zeros_as_photos(n: int) -> bytes:
    """A thousand times as large as it looks."""
    return _photos(b"\x89PNG\r\n\x1a\n" + bytes(20 * n), how=zipfile.ZIP_DEFLATED)


def packed_text(n: int) -> bytes:
    """A remark of a hundred megabytes, beside four pixels."""
    return _photos(_png(2, _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100 * n), 9))))


def packed_foreign_text(n: int) -> bytes:
    """A hundred remarks of a megabyte."""
    return _photos(_png(2, *[_chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(bytes(n - n // 9), 9))] * 100))


def broken_off(n: int) -> bytes:
    """A JPEG of as many pixels as are taken, without the second half of its bytes."""
    del n
    whole = encoded(np.zeros((4_096, 4_096), np.uint8), "JPEG")
    return _photos(whole[: len(whole) // 2])


def endless_jpeg(n: int) -> bytes:
    """One in which the next marker is yet to come."""
    return _photos(b"\xff\xd8" + b"\xff" * n, how=zipfile.ZIP_DEFLATED)


def claimed_members(n: int) -> bytes:
    """Two, and an end that speaks of some forty million."""
    archive = _photos(_png(2))
    *_, size, start, _ = archives.END.unpack(archive[-archives.END.size :])
    record = archives.ZIP64.pack(b"PK\6\6", 44, 45, 45, 0, 0, 40 * n, 40 * n, size, start)
    locator = archives.LOCATOR.pack(b"PK\6\7", 0, start + size, 1)
    return archive[: -archives.END.size] + record + locator + archive[-archives.END.size :]


def climbing(n: int) -> bytes:
    """Names that lead out of wherever they are unpacked."""
    del n
    return _archive(dict.fromkeys(("u/1", "v/1", f"{'../' * 20}etc/cron.d/1"), _png(2)))


def folders_in_folders(n: int) -> bytes:
    """Names of 64 KB, each of thousands of folders. To take these off one by one is work by the square of them."""
    return _archive({f"{'a/' * 32_000}{number}/1.png": _png(2) for number in range(n >> 13)})


BOMBS: dict[str, tuple[Callable[[int], bytes], str, tuple[str, ...]]] = {
    "zeros": (zeros, "npz", ("too_large",)),
    "overlapping members": (overlapping, "npz", ("too_large",)),
    "many members": (many_members, "npz", ("too_large",)),
    "nested archives": (nested, "npz", ("not_npz",)),
    "huge declared shape": (declared, "npz", ("too_large",)),
    "more declared than there": (declared_and_not_there, "npz", ("not_npz",)),
    "long header": (long_header, "npz", ("not_npz", "too_large")),
    "wide labels": (wide_labels, "npz", ("text_too_long", "too_large")),
    "endless line": (endless_line, "csv", ("too_large",)),
    "open quote": (open_quote, "csv", ("not_csv",)),
    "a million columns": (columns, "csv", ("too_large",)),
    "gzip as csv": (gzip_as_csv, "csv", ("not_csv",)),
    "a black image of 30,000 x 30,000": (black, "image_zip", ("too_large",)),
    "packed text in an image": (packed_text, "image_zip", ("broken_image",)),
    "endless jpeg": (endless_jpeg, "image_zip", ("broken_image",)),
    "forty million members, as it says": (claimed_members, "image_zip", ("too_large",)),
    "folders in folders": (folders_in_folders, "image_zip", ("bad_layout",)),
    "zeros, bzip2": (zeros_bzip2, "npz", ("too_large",)),
    "gzip in npz": (gzip_in_npz, "npz", ("not_npz",)),
    "endless cells": (endless_cells, "csv", ("too_large",)),
    "zeros as images": (zeros_as_photos, "image_zip", ("too_large",)),
    "huge declared image": (declared_pixels, "image_zip", ("too_large",)),
    "much packed text in an image": (packed_foreign_text, "image_zip", ("broken_image",)),
    "half a jpeg": (broken_off, "image_zip", ("broken_image",)),
    "names that climb": (climbing, "image_zip", ("bad_layout",)),
}
"""What it is, as which format it is sent, and why it may be refused."""
EVERY_DAY = 17
"""So many of them, from the first on: one of each way to fill a memory."""


class Program:
    """A running one, and the memory that it had when it was first looked at."""

    def __init__(self, name: str, pid: int) -> None:
        self.name, self._status = name, Path(f"/proc/{pid}/status")
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak counts from here
        self._before = self._read("VmRSS")

    def growth(self) -> int:
        """Bytes, at the peak. It fails where the program has died."""
        return max(0, self._read("VmHWM") - self._before)

    def _read(self, field: str) -> int:
        assert self._status.exists(), f"the {self.name} has died"
        return int(self._status.read_text().partition(f"{field}:")[2].split()[0]) * 1024


def run(place: Place, n: int, random: Random) -> Row:
    trials = Trials()
    with place.workshop() as shop, served(place.folder, place.url) as address, httpx.Client(base_url=address) as http:
        workers = [shop.start(INGEST_MEMORY_BYTES=str(MEMORY)) for _ in range(2)]
        _settled(http, _upload(http, "warm", "csv", CSV))
        programs = [Program("service", _service()), *(Program("supervisor", each.pid) for each in workers)]
        names = list(BOMBS)
        for first in range(0, n, len(names)):
            _explode(http, trials, names[: n - first], first, random)
        with trials.trial("after them") as broken:
            last = _settled(http, _upload(http, "after", "csv", CSV))
            if last["state"] != "ready":
                broken.append(f"a good file was refused: {last['error']}")
            for each in programs:
                if each.growth() > GROWTH:
                    broken.append(f"the {each.name} grew by {each.growth():,} bytes")
        grown = {name: max(each.growth() for each in programs if each.name == name) for name in NAMES}
        figures = {f"peak over before, {name}": f"{most / 2**20:.0f} MiB" for name, most in grown.items()}
        return trials.row(shop, unit="files", figures={"kinds": f"{min(n, len(names))}", **figures})


def _explode(http: httpx.Client, trials: Trials, names: list[str], first: int, random: Random) -> None:
    """One of each, all uploaded before the first has been read."""
    sent = {}
    for number, name in enumerate(names, start=first):
        make, format, _ = BOMBS[name]
        sent[name] = _upload(http, f"bomb-{number}", format, make(random.randrange(1 << 20, 9 << 17)))
    for name, dataset_id in sent.items():
        with trials.trial(name) as broken:
            broken.extend(_not_refused(_settled(http, dataset_id), BOMBS[name][2]))


def _service() -> int:
    """The process that `served` has started."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(") ")[2].split()[1])
            if parent == os.getpid() and b"-m\0service\0" in (folder / "cmdline").read_bytes():
                return int(folder.name)
    raise AssertionError("the service must be a child of this process")


def _upload(http: httpx.Client, name: str, format: str, data: bytes) -> str:
    query = {"name": name, "format": format} | ({"target": "y"} if format == "csv" else {})
    answer = http.post("/v1/datasets", params=query, content=data, timeout=120)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def _settled(http: httpx.Client, dataset_id: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found: dict[str, Any] = http.get(f"/v1/datasets/{dataset_id}", timeout=30).json()
        return None if found["state"] == "validating" else found

    return until(look, f"the end of the ingestion of {dataset_id}", every=0.1)


def _not_refused(found: dict[str, Any], codes: tuple[str, ...]) -> list[str]:
    error = found["error"] or {}
    if found["state"] == "failed" and error.get("code") in codes and len(error["message"]) < 2_000:
        return []
    return [f"must be refused as {' or '.join(codes)}. Received: {found['state']} {str(error)[:300]}"]


SCENARIO = Scenario(
    id="T20",
    fault="files that unpack, or say that they unpack, to far more than they are: zip, npy, csv and image bombs",
    promise="refused with a code; service and supervisor grow by 32 MiB at most, live, and take the next file",
    run=run,
    quick_kinds=("sqlite",),
    quick=EVERY_DAY,
    full=6 * len(BOMBS),
)
