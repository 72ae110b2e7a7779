"""On what a SQLite database must not lie: file systems that more than one machine, or a server of their own, serve.

SQLite's write-ahead log lives in memory that all programs share, which only one kernel can give them, and file locks
that some of these pretend to hold. What follows is a database that is corrupt, at some later time.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

FOREIGN = {
    0x6969: "nfs",
    0x517B: "smb",
    0xFE534D42: "smb2",
    0xFF534D42: "cifs",
    0x01021997: "9p",
    0x65735546: "fuse",
    0x00C36400: "ceph",
    0x5346414F: "afs",
    0x0BD00BD3: "lustre",
    0x47504653: "gpfs",
    0x01161970: "gfs2",
    0x7461636F: "ocfs2",
}
"""By `f_type` of statfs(2), from linux/magic.h."""

Kind = Callable[[Path], int | None]


def kind(folder: Path) -> int | None:
    """`f_type` of the file system that a folder lies on; None where the kernel does not say."""
    if not sys.platform.startswith("linux"):
        return None
    answer = (ctypes.c_long * 64)()  # struct statfs, which is 120 bytes: f_type is the first word of it
    failed = ctypes.CDLL(None, use_errno=True).statfs(os.fsencode(folder), ctypes.byref(answer))
    return None if failed else answer[0] & 0xFFFFFFFF


def check(file: Path, kind: Kind = kind) -> None:
    """Whether a database may lie here.

    Raises:
        ValueError: it must not.
    """
    found = FOREIGN.get(kind(file.resolve().parent) or 0)
    if found is not None:
        raise ValueError(
            f"A SQLite database must lie on a disk of this machine. Received: {file}, which is on {found}, where "
            "SQLite loses data. Set GAMMABETA_HOME or GAMMABETA_DATABASE_URL to a local disk, or use PostgreSQL."
        )
