"""Files of a bucket on this machine: fetched once, mapped as often as they are used, removed when others need the room.

    root/files/<sha256>           a blob, or an upload
    root/trees/<sha256>/<file>    a checkpoint
    root/tmp/                     what is not complete, uploads that come in among it

Service and worker of one machine may share it. What was handed out a moment ago is never removed, since who has its
path is about to open it; whoever has opened or mapped a file keeps its bytes on Linux, though its name goes.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gammabeta.files import Files, no_space

HANDED_OUT_SECONDS = 600
"""How long what was handed out stays, whatever the room. From the order until a child has opened all that it names, it
is seconds."""
_FULL = "The disk of the cache of blobs is full. Free some space, or lower GAMMABETA_CACHE_BYTES."


@dataclass(frozen=True, kw_only=True)
class _Entry:
    path: Path
    bytes: int
    used: float


class Cache:
    """At most `limit_bytes`, or as much as was handed out within the last minutes, if that is more. For any number of
    threads and programs."""

    def __init__(self, root: Path, *, limit_bytes: int, files: Files | None = None) -> None:
        self.root, self.limit_bytes, self.files = root, limit_bytes, files or Files()

    def find(self, key: str) -> Path | None:
        """What lies under a key such as `files/ab…`, which is handed out by this; None: nothing."""
        path = self.root / key
        with self._locked():
            status = path.stat() if path.exists() else None
            if status is None:
                return None
            # Not each time: who remembers how a file looked would take it for another one.
            if time.time() - status.st_mtime > HANDED_OUT_SECONDS / 2:
                os.utime(path)
        return path

    def keep(self, source: Path, key: str) -> Path:
        """Give what is complete its name, in the place of what may be there, and hand it out."""
        path = self.root / key
        with self._locked():
            self._make_room(_size(source))
            self.files.make_folders(path.parent)
            self._remove(path)
            os.utime(source)
            self.files.rename(source, path)
        return path

    def drop(self, key: str) -> None:
        """Nothing happens where there is none."""
        with self._locked():
            self._remove(self.root / key)

    @contextmanager
    def temporary(self) -> Iterator[Path]:
        """A folder on the file system of the cache, gone at the end.

        Raises:
            NoSpace: the disk filled up within it.
        """
        with no_space(_FULL):
            folder = self.incoming() / secrets.token_hex(8)
            self.files.make_folder(folder)
            try:
                yield folder
            finally:
                self.files.remove_tree(folder)

    def incoming(self) -> Path:
        """The folder of what is not complete.

        Raises:
            NoSpace.
        """
        folder = self.root / "tmp"
        with no_space(_FULL):
            self.files.make_folders(folder)
        return folder

    def tidy(self, *, seconds: float) -> None:
        """Remove what has not been complete for so long."""
        for path in (self.root / "tmp").glob("*"):
            with self._locked():
                if path.exists() and time.time() - path.stat().st_mtime > seconds:
                    self._remove(path)

    def _make_room(self, wanted: int) -> None:
        """Remove what was used longest ago, until so many bytes more are within the limit, or the rest is in use."""
        entries = sorted(self._entries(), key=lambda entry: entry.used)
        total = wanted + sum(entry.bytes for entry in entries)
        for entry in entries:
            if total <= self.limit_bytes or time.time() - entry.used <= HANDED_OUT_SECONDS:
                return
            self._remove(entry.path)
            total -= entry.bytes

    def _entries(self) -> Iterator[_Entry]:
        for kind in ("files", "trees"):
            for path in (self.root / kind).glob("*"):
                yield _Entry(path=path, bytes=_size(path), used=path.stat().st_mtime)

    def _remove(self, path: Path) -> None:
        if path.is_dir():
            self.files.remove_tree(path)
        else:
            self.files.remove(path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Nobody else of this machine hands out or removes meanwhile. The lock ends with its process however that
        ends; threads wait for each other too, since each opens the file for itself."""
        with no_space(_FULL):
            self.files.make_folders(self.root)
            descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(each.stat().st_size for each in path.iterdir())
    return path.stat().st_size
