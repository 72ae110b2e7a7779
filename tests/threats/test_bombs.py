"""Row 15: files that unpack, or say that they unpack, to far more than they are. `tests/faults/bombs.py` uploads 25
kinds of them to a service that runs; here are those of the row, and the memory and time of the reader itself."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.pictures import black_square
from tests.test_architecture import ROOT

MIB = 1 << 20
CHILD = """
import json, resource, sys, time
from pathlib import Path
from worker import ingestion
from worker.messages import IngestFile, IngestLimits, IngestOptions

limits = IngestLimits(memory_bytes=4 << 30, cpu_seconds=60, rows=10**8, decoded_bytes=8 << 30)
ingestion.limit(limits, mapped_bytes=0)

def memory(what):
    return int(Path("/proc/self/status").read_text().partition(what + ":")[2].split()[0]) * 1024

for line in sys.stdin:
    path, format = json.loads(line)
    scratch = Path(path + ".scratch")
    scratch.mkdir()
    order = IngestFile(
        job_id="job_1", fence=1, upload=Path(path), options=IngestOptions(format=format), scratch=scratch, limits=limits
    )
    Path("/proc/self/clear_refs").write_text("5")
    before, began = memory("VmRSS"), time.process_time()
    answered = ingestion.answer(order)
    took, growth = time.process_time() - began, memory("VmHWM") - before
    stored = sum(each.stat().st_size for each in scratch.rglob("*"))
    print(json.dumps([answered.type, getattr(answered, "code", None), took, growth, stored]), flush=True)
"""


def _npy(shape: tuple[int, ...], data: bytes = b"") -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return header.getvalue() + data


def _archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _small_to_huge() -> bytes:
    """42 KB that unpack to 4.5 GB: one deflated stream of zeros, and hundreds of members that are it."""
    size = 10_800_000
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    zeros = bytes(size)
    packed = packer.compress(zeros) + packer.flush()
    names = ["x.npy", "y.npy", *(f"{number:03}.npy" for number in range(415))]
    return _overlapping(names, packed, zlib.crc32(zeros), size)


def _overlapping(names: list[str], packed: bytes, crc: int, size: int) -> bytes:
    """A directory whose members all lie at the beginning of the file."""
    sizes = struct.pack("<LLL", crc, len(packed), size)
    local = b"PK\3\4" + struct.pack("<5H", 20, 0, 8, 0, 33) + sizes + struct.pack("<HH", 5, 0) + b"x.npy" + packed
    entries = b"".join(
        b"PK\1\2" + struct.pack("<6H", 20, 20, 0, 8, 0, 33) + sizes + struct.pack("<5H2L", len(each), 0, 0, 0, 0, 0, 0)
        + each.encode()
        for each in names
    )  # fmt: skip
    end = b"PK\5\6" + struct.pack("<4H2LH", 0, 0, len(names) & 0xFFFF, len(names) & 0xFFFF, len(entries), len(local), 0)
    return local + entries + end


def _members(*names: str) -> bytes:
    """100,000 that are empty."""
    return _overlapping(
        [each.format(number) for number in range(100_000 // len(names)) for each in names], b"\3\0", 0, 0
    )


def _overlapping_images() -> bytes:
    """900 images that are the same bytes."""
    packed = zlib.compress(black_square(2_000), 9)[2:-4]
    names = [f"{'cat' if number % 2 else 'dog'}/{number}.png" for number in range(900)]
    return _overlapping(names, packed, zlib.crc32(black_square(2_000)), len(black_square(2_000)))


BOMBS: dict[str, tuple[Any, str, set[str]]] = {
    "42 KB to 4.5 GB": (_small_to_huge, "npz", {"too_large", "not_npz"}),
    "overlapping members": (_overlapping_images, "image_zip", {"bad_layout", "broken_image", "not_zip", "too_large"}),
    "100,000 members as npz": (lambda: _members("{}.npy"), "npz", {"too_large"}),
    "100,000 members as images": (lambda: _members("cat/{}.png", "dog/{}.png"), "image_zip", {"not_zip"}),
    "30,000 x 30,000 pixels": (
        lambda: _archive({"cat/1.png": black_square(30_000), "dog/2.png": black_square(30_000, rows=10)}),
        "image_zip",
        {"too_large"},
    ),
    "an archive in an archive": (
        lambda: _archive({"x.npy": _archive({"x.npy": _npy((MIB, 1), bytes(MIB))}), "y.npy": _npy((4,), bytes(4))}),
        "npz",
        {"not_npz"},
    ),
}


@pytest.fixture(scope="module")
def reader() -> Any:
    """The reader of files, in a process under its limits."""
    command = [sys.executable, "-P", "-c", CHILD]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        yield child


@pytest.mark.alone
@pytest.mark.parametrize("what", BOMBS)
def test_zip_bomb_constant_memory(reader: Any, tmp_path: Path, what: str) -> None:
    make, format, codes = BOMBS[what]
    upload = tmp_path / "upload"
    upload.write_bytes(make())
    reader.stdin.write(json.dumps([str(upload), format]) + "\n")
    reader.stdin.flush()
    type, code, took, growth, stored = json.loads(reader.stdout.readline())
    assert (type, code in codes) == ("refused", True), f"{type} {code}"
    assert growth <= 64 * MIB
    assert took <= 2
    assert stored <= 64 * MIB


def test_the_smallest_bomb_is_42_kb_for_4_gb_and_a_half() -> None:
    data = _small_to_huge()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert sum(each.file_size for each in archive.infolist()) > 4.5e9
    assert len(data) < 42_000 + 415 * 60
