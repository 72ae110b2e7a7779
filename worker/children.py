"""Child processes: how they start, how they are killed, and what their end means.

    supervisor ──spawn──► ingestion; trainer and predictor on a GPU
         └──────────────► forkserver (torch preloaded) ──fork──► trainer and predictor on the CPU

A child inherits no credential: the program forgets its environment before the first one starts. It leads a session of
its own, which is killed as a whole.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from gammabeta.confinement import confine
from worker.messages import Order, Report, decode_report, encode

PRELOAD = "worker.preload"
TRAINER = "worker.trainer"
INGESTION = "worker.ingestion"
PREDICTOR = "worker.predictor"


def run_module(name: str, connection: Connection) -> None:
    """The first function of a child: `main(connection)` of a module, named by a string so that the supervisor does not
    import what its children need."""
    confine()
    importlib.import_module(name).main(connection)


@dataclass(frozen=True)
class Death:
    """How a child ended. `exit_code` is negative for a signal."""

    exit_code: int
    out_of_memory: bool

    def __str__(self) -> str:
        if self.out_of_memory:
            return "the kernel killed it because the machine or container ran out of memory"
        if self.exit_code < 0:
            return f"it was killed by {signal.Signals(-self.exit_code).name}"
        return f"it exited with status {self.exit_code}"


@dataclass(frozen=True)
class Child:
    """A running child and the supervisor's end of its pipe."""

    _process: BaseProcess
    _connection: Connection
    _lock: threading.Lock
    """multiprocessing's bookkeeping is not made for threads: two that ask for the end of a child at once may both lose
    its exit code."""
    _oom_kills: int = field(default_factory=lambda: oom_kills())  # noqa: PLW0108 - it is defined below

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    def send(self, order: Order) -> None:
        """Tell it something; a child that has ended does not mind."""
        with contextlib.suppress(OSError):
            self._connection.send_bytes(encode(order))

    def reports(self, *, timeout: float) -> Iterator[Report]:
        """What it has said, once something has come or the time is over.

        Raises:
            EOFError: it has ended, and everything it said was read.
        """
        wait([self._connection, self._process.sentinel], timeout)
        while self._connection.poll():
            try:
                yield decode_report(self._connection.recv_bytes())
            except OSError as error:  # killed in the middle of a message
                raise EOFError from error
        if wait([self._process.sentinel], 0) and not self._connection.poll():
            raise EOFError

    def kill(self) -> None:
        """SIGKILL for it and its session."""
        with self._lock:
            if self._process.exitcode is None and self._process.pid:
                _kill(self._process.pid)

    def end(self) -> None:
        """Make sure that it has ended, and let go of it."""
        self.death(patience=0)
        self._connection.close()

    def death(self, *, patience: float) -> Death:
        """How it ended; it is killed where it has not after so many seconds."""
        if not wait([self._process.sentinel], patience):
            self.kill()
            wait([self._process.sentinel])
        with self._lock:
            self._process.join()
            code = self._process.exitcode or 0
        return Death(code, out_of_memory=code == -signal.SIGKILL and oom_kills() > self._oom_kills)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        if os.getsid(pid) == pid:
            os.killpg(pid, signal.SIGKILL)
        else:  # it has not come to lead a session yet
            os.kill(pid, signal.SIGKILL)


class Children:
    """Starts children. Made, and `warm` called, in the main thread: children die with the *thread* that started
    them, or that started their forkserver. `trainer` and `preload`: modules to take instead of the real ones."""

    def __init__(self, *, trainer: str = TRAINER, preload: str = PRELOAD) -> None:
        self._trainer, self._preload = trainer, preload
        self._lock = threading.Lock()
        self._forking = multiprocessing.get_context("forkserver")
        self._spawning = multiprocessing.get_context("spawn")

    def warm(self) -> None:
        """Start the forkserver now, so that torch is loaded before the first job comes."""
        self._forking.set_forkserver_preload([self._preload])
        forkserver.ensure_running()

    def trainer(self, device: str) -> Child:
        """CUDA does not survive a fork, so that a trainer on a GPU starts from nothing."""
        return self._start(self._forking if device == "cpu" else self._spawning, self._trainer)

    def predictor(self, device: str) -> Child:
        """Answers a data set; starts as a trainer does."""
        return self._start(self._forking if device == "cpu" else self._spawning, PREDICTOR)

    def ingestion(self) -> Child:
        """Reads a file; without torch."""
        return self._start(self._spawning, INGESTION)

    def _start(self, context: BaseContext, module: str) -> Child:
        ours, theirs = context.Pipe()
        with self._lock, theirs:
            process: BaseProcess = context.Process(  # type: ignore[attr-defined]
                target=run_module, args=(module, theirs), name=module, daemon=True
            )
            process.start()
        return Child(process, ours, self._lock)


def oom_kills(*, proc: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> int:
    """How many processes the kernel has killed for memory in our cgroup; 0 where it does not count."""
    for counter in _oom_counters(proc, mount):
        with contextlib.suppress(OSError):
            return sum(
                int(line.split()[1]) for line in counter.read_text().splitlines() if line.startswith("oom_kill ")
            )
    return 0


def _oom_counters(proc: Path, mount: Path) -> Iterator[Path]:
    """Where versions 1 and 2 of cgroups count. A container may see its own group as the root."""
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        return
    for _, controllers, group in (line.split(":", 2) for line in lines):
        if "memory" in controllers.split(","):
            yield mount / "memory" / group.lstrip("/") / "memory.oom_control"
            yield mount / "memory" / "memory.oom_control"
        elif not controllers:
            yield mount / group.lstrip("/") / "memory.events"
            yield mount / "memory.events"
