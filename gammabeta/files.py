"""Files that outlive a power cut: nothing has its name before all of it is on the disk, and then the name is there too.

    create, append …, sync ──► rename ──► sync the folder, and those above it
      under another name       FILE_COPIED, FILE_RENAMED: where a program may die

All that stores bytes does it by a `Files`, and a rig that looks for what a power cut could leave gives it another one.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from gammabeta import failpoints
from gammabeta.errors import NoSpace
from gammabeta.failpoints import Failpoint

CHUNK = 1 << 20
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the kernel says where a file finds no room."""


class Files:
    """The files of this machine. The first eight methods do one thing each; the others are made of them."""

    def create(self, path: Path) -> BinaryIO:
        """A new file, to append to. It must not be there."""
        return path.open("xb")

    def append(self, file: BinaryIO, data: bytes | bytearray) -> None:
        """Write at its end."""
        file.write(data)

    def sync(self, file: BinaryIO) -> None:
        """Have what was written on the disk; the name of a new file is not by this."""
        file.flush()
        os.fsync(file.fileno())

    def make_folder(self, folder: Path) -> None:
        """A new folder. It must not be there."""
        folder.mkdir()

    def rename(self, source: Path, target: Path) -> None:
        """A file takes the place of another; a folder that of nothing."""
        source.rename(target)

    def sync_folder(self, folder: Path) -> None:
        """Have the names in a folder on the disk."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, path: Path) -> None:
        """Nothing happens where there is no such file."""
        path.unlink(missing_ok=True)

    def remove_tree(self, folder: Path) -> None:
        """A folder and all in it, as far as it goes. Nothing happens where there is none."""
        shutil.rmtree(folder, ignore_errors=True)

    def copy(self, source: Path, target: Path) -> tuple[str, int]:
        """Copy a file, synced: `(sha256, bytes)` of what was written, not of what may be read later."""
        hashed, size = hashlib.sha256(), 0
        with source.open("rb") as reader, self.create(target) as writer:
            while chunk := reader.read(CHUNK):
                hashed.update(chunk)
                self.append(writer, chunk)
                size += len(chunk)
            self.sync(writer)
        return hashed.hexdigest(), size

    def write(self, target: Path, data: bytes) -> None:
        """A new file, synced."""
        with self.create(target) as writer:
            self.append(writer, data)
            self.sync(writer)

    def make_folders(self, folder: Path) -> None:
        """A folder and those above it, as far as they are not there; their names are on the disk. One that is still
        empty may be removed meanwhile by who finds it empty: it is made again."""
        for last in (False, False, True):
            try:
                self._make_missing(folder)
            except FileNotFoundError:
                if last:
                    raise
            else:
                return

    def _make_missing(self, folder: Path) -> None:
        for each in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
            try:
                self.make_folder(each)
            except FileExistsError:  # somebody else was faster
                if not each.is_dir():
                    raise
            self.sync_folder(each.parent)

    def publish(self, source: Path, target: Path, *, root: Path) -> None:
        """Give what is complete its name, and have it on the disk, with those of the folders from `root` on. A folder
        that is there already may have been made a moment ago by somebody who has not synced it, so all are."""
        self.make_folders(target.parent)
        failpoints.reached(Failpoint.FILE_COPIED)
        self.rename(source, target)
        failpoints.reached(Failpoint.FILE_RENAMED)
        for folder in target.parents:
            self.sync_folder(folder)
            if folder == root:
                break


@contextmanager
def no_space(message: str) -> Iterator[None]:
    """Within it, a disk without room is an error of gammabeta.

    Raises:
        NoSpace.
    """
    try:
        yield
    except OSError as exc:
        if exc.errno not in FULL:
            raise
        raise NoSpace(message) from exc
