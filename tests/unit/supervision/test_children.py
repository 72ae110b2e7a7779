"""How children end."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from worker.children import Child, oom_kills


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


@pytest.mark.parametrize(
    ("groups", "counter", "text"),
    [
        ("0::/worker", "worker/memory.events", "low 0\noom 4\noom_kill 3\noom_group_kill 9\n"),
        ("0::/outside", "memory.events", "oom_kill 3\n"),
        ("5:cpu:/\n4:memory:/worker\n0::/", "memory/worker/memory.oom_control", "under_oom 0\noom_kill 3\n"),
        ("4:cpu,memory:/docker/id\n0::/", "memory/memory.oom_control", "oom_kill_disable 0\noom_kill 3\n"),
    ],
    ids=["v2", "v2 in a container", "v1", "v1 in a container"],
)
def test_the_kernels_kills_for_memory_are_counted(tmp_path: Path, groups: str, counter: str, text: str) -> None:
    proc, mount = tmp_path / "cgroup", tmp_path / "mount"
    proc.write_text(groups + "\n")
    (mount / counter).parent.mkdir(parents=True)
    (mount / counter).write_text(text)
    assert oom_kills(proc=proc, mount=mount) == 3


def test_where_the_kernel_does_not_count_no_kill_was_for_memory(tmp_path: Path) -> None:
    assert oom_kills(proc=tmp_path / "cgroup", mount=tmp_path) == 0
    (tmp_path / "cgroup").write_text("0::/\n")
    assert oom_kills(proc=tmp_path / "cgroup", mount=tmp_path) == 0
