"""What a zip says of its directory, before anybody reads that.

    members … directory [zip64 record, locator] end record
                 └─────────── how many members, how many bytes ──► Directory

`zipfile` reads the directory whole, and makes an object of each member, before it says how many there are: some ten
times the bytes of the directory, for whatever bytes it has.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import SEEK_END
from pathlib import Path
from typing import BinaryIO

END = struct.Struct("<4s4H2LH")
"""signature, disks (2), members (2), bytes of the directory, its place, length of the comment"""
LOCATOR = struct.Struct("<4sLQL")
"""signature, disk, place of the zip64 record, disks"""
ZIP64 = struct.Struct("<4sQ2H2L4Q")
"""signature, length, versions (2), disks (2), members (2), bytes of the directory, its place"""
LONGEST_COMMENT = 0xFFFF
UNSAID_MEMBERS, UNSAID_BYTES = 0xFFFF, 0xFFFFFFFF
"""What the end record has where only the zip64 record has room for it."""
ENTRY = 46
"""Bytes in the directory before the name of a member."""


@dataclass(frozen=True, kw_only=True)
class Directory:
    """As it is claimed."""

    members: int
    bytes: int

    def fits(self, *, members: int, bytes: int) -> bool:
        """Whether it is within these limits."""
        return self.members <= members and self.bytes <= bytes


def claims(path: Path) -> list[Directory]:
    """Of the directory of a zip: none where it is no zip; several where readers may differ on which one counts.

    The number of members is a claim and no more: old archives of more than 65,535 have it modulo 65,536. The number of
    bytes is what will be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, SEEK_END)
        places = _ends(file, size)
        return [claim for place in sorted(places) for claim in _claims_at(file, place)]


def _ends(file: BinaryIO, size: int) -> set[int]:
    """Where an end record may stand: at the very end, where there is no comment, or at its last signature."""
    start = max(0, size - END.size - LONGEST_COMMENT)
    file.seek(start)
    tail = file.read()
    found = {len(tail) - END.size} if tail[-END.size :].startswith(b"PK\5\6") else set()
    found.add(tail.rfind(b"PK\5\6"))
    return {start + each for each in found if 0 <= each <= len(tail) - END.size}


def _claims_at(file: BinaryIO, place: int) -> Iterator[Directory]:
    """Those of the end record at this place, and of the zip64 records that may stand for it: a reader looks for one
    right before its locator, or where that says, and goes by the end record where it finds nothing there."""
    wide = _wide(file, place)
    yield from wide.values()
    _, _, _, here, total, size, _, _ = END.unpack(_read(file, place, END.size))
    says_nothing = max(here, total) == UNSAID_MEMBERS or size == UNSAID_BYTES
    if not (says_nothing and place - LOCATOR.size - ZIP64.size in wide):
        yield Directory(members=max(here, total), bytes=size)


def _wide(file: BinaryIO, end: int) -> dict[int, Directory]:
    """By where they stand."""
    locator = _read(file, end - LOCATOR.size, LOCATOR.size)
    if not locator.startswith(b"PK\6\7"):
        return {}
    found = {}
    for place in (end - LOCATOR.size - ZIP64.size, LOCATOR.unpack(locator)[2]):
        record = _read(file, place, ZIP64.size)
        if record.startswith(b"PK\6\6"):
            *_, here, total, size, _ = ZIP64.unpack(record)
            found[place] = Directory(members=max(here, total), bytes=size)
    return found


def _read(file: BinaryIO, place: int, size: int) -> bytes:
    """Exactly so many bytes; none where they are not all there."""
    if not 0 <= place < 1 << 62:
        return b""
    file.seek(place)
    data = file.read(size)
    return data if len(data) == size else b""
