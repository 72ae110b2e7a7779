"""Folders that are complete or not there: filled under another name, synced, renamed, and the rename synced."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def complete(folder: Path) -> Iterator[Path]:
    """A place to fill; it becomes `folder` when the block ends, and vanishes when it raises."""
    filling = folder.with_name(folder.name + ".tmp")
    filling.mkdir(parents=True)
    try:
        yield filling
        for path in sorted(filling.iterdir()):
            _sync(path)
        _sync(filling)
        filling.rename(folder)
    except BaseException:
        shutil.rmtree(filling, ignore_errors=True)
        raise
    _sync(folder.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
