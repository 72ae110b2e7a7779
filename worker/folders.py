"""Folders that are complete or not there: filled under another name, then renamed.

Nothing is synced. Scratch is removed when a worker starts, so that nothing of it is ever read after a power cut; what
is to last the supervisor copies, hashes and syncs while it stores it.
"""

from __future__ import annotations

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
        filling.rename(folder)
    except BaseException:
        shutil.rmtree(filling, ignore_errors=True)
        raise
