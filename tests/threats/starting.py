"""Starts children as a worker does, and prints what they say: the program of `tests/threats/test_children.py`."""

from __future__ import annotations

from multiprocessing.connection import wait

from gammabeta.confinement import confine
from worker.children import Children
from worker.settings import forget_environment


def main() -> None:
    """One that is forked, and one that is spawned."""
    forget_environment()
    confine()
    children = Children(trainer="tests.threats.confined", preload="json")
    for device in ("cpu", "cuda:0"):
        child = children.trainer(device)
        wait([child._connection], timeout=60)
        print(child._connection.recv_bytes().decode())
        child.end()


if __name__ == "__main__":
    main()
