"""A group of processes that may use so much memory and no more, where this machine lets us make one.

version 1    /sys/fs/cgroup/memory/<ours>/<group>/memory.limit_in_bytes
version 2    /sys/fs/cgroup/<ours>/<group>/memory.max
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.integration.workshop import until

_ROOT = Path("/sys/fs/cgroup")
_LIMITS = {_ROOT / "memory": "memory.limit_in_bytes", _ROOT: "memory.max"}


@contextmanager
def limited(memory_bytes: int) -> Iterator[Path | None]:
    """Its file of members, into which a process id is written. None: there can be no such group here. All members have
    ended when the block ends."""
    made = next(filter(None, (_made(root, name, memory_bytes) for root, name in _LIMITS.items())), None)
    if made is None:
        yield None
        return
    try:
        yield made / "cgroup.procs"
    finally:
        until(lambda: not (made / "cgroup.procs").read_text(), "the end of all members")
        made.rmdir()


def _made(root: Path, limit: str, memory_bytes: int) -> Path | None:
    group = root / f"gammabeta-{os.getpid()}"
    with suppress(OSError):
        group.mkdir()
        with suppress(OSError):
            (group / limit).write_text(str(memory_bytes))
            return group
        group.rmdir()
    return None
