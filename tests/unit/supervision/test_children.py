"""How children end."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from multiprocessing.connection import Connection

import pytest

from worker.children import Child


def hang(connection: Connection) -> None:
    connection.close()
    signal.pause()


def test_a_child_that_closed_its_pipe_and_goes_on_is_killed() -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=hang, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    child = Child(process, ours, threading.Lock())
    with pytest.raises(EOFError):
        list(child.reports(timeout=30))
    assert child.death(patience=0.05).exit_code == -signal.SIGKILL
    child.end()
