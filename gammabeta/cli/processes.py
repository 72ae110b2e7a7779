"""Child programs that are kept alive while this one lives, and end with it.

    start ──► running ──ended by itself──► waits 0.5 s, 1 s, 2 s, … 30 s ──► running
                 │
              SIGTERM ──grace──► SIGKILL        this program killed: the kernel kills them (PR_SET_PDEATHSIG)

A child that ends before the whole is ready has a reason that starting it again would not change, so it is told at once.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Self

from gammabeta.cli.failures import ProgramEnded

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
STABLE = 60.0
"""Seconds after which a program counts as healthy, and its next pause is the first one again."""
PAUSE = 0.1
"""Seconds between two looks."""

_PR_SET_PDEATHSIG = 1


@dataclass(kw_only=True)
class Program:
    """A child program and what became of it."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path | None = None
    """Where its output goes; None: where this program's goes."""
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause: float = FIRST_PAUSE
    due: float | None = None
    """When it is started again; None while it runs."""

    def start(self) -> None:
        with _output(self.log) as output:
            self.process = subprocess.Popen(
                self.command,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                # Nothing else sets the signal before the child could outlive this process; no thread of this process
                # holds a lock of Python's when it forks.
                preexec_fn=_dies_with(os.getpid()),  # noqa: PLW1509
            )
        self.started, self.due = time.monotonic(), None

    def ended(self) -> str | None:
        """How it ended, or None while it runs."""
        code = self.process.poll() if self.process else None
        if code is None:
            return None
        return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


class Programs:
    """Several programs as one. Use it in a `with` statement: at its end they have stopped."""

    def __init__(self, programs: Sequence[Program], *, say: Callable[[str], None], grace: float) -> None:
        self._programs = programs
        self._say = say
        self._grace = grace

    def __enter__(self) -> Self:
        try:
            for program in self._programs:
                program.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_until(
        self, ready: Callable[[], bool], *, seconds: float, stopped: Callable[[], bool] = lambda: False
    ) -> bool:
        """Wait until `ready`. False: `stopped` said so before.

        Raises:
            ProgramEnded: a program ended, or is not ready in time.
        """
        deadline = time.monotonic() + seconds
        while not stopped():
            for program in self._programs:
                if how := program.ended():
                    raise ProgramEnded(f"The {program.name} must keep running. Received: {how}.{_last_words(program)}")
            if ready():
                return True
            if time.monotonic() > deadline:
                raise ProgramEnded(
                    f"gammabeta must be ready within {seconds:g} seconds. Look at the log for what it does."
                )
            time.sleep(PAUSE)
        return False

    def tend(self, *, stopped: Callable[[], bool]) -> None:
        """Start what ended again, until `stopped`."""
        while not stopped():
            for program in self._programs:
                self._look_after(program)
            time.sleep(PAUSE)

    def _look_after(self, program: Program) -> None:
        now = time.monotonic()
        if program.due is not None:
            if now >= program.due:
                program.start()
        elif how := program.ended():
            if now - program.started > STABLE:
                program.pause = FIRST_PAUSE
            program.due = now + program.pause
            self._say(f"The {program.name} ended with {how}. It is started again in {program.pause:g} s.")
            program.pause = min(program.pause * 2, LONGEST_PAUSE)

    def stop(self) -> None:
        """Ask all to end, and kill those that have not after the grace."""
        running = [each.process for each in self._programs if each.process and each.process.poll() is None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + self._grace
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C, SIGTERM or a closed terminal asked this process to stop. A second Ctrl-C does not wait."""
    asked = 0

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        nonlocal asked
        asked += 1
        if asked > 1 and number == signal.SIGINT:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield lambda: asked > 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _dies_with(parent: int) -> Callable[[], None]:
    """What a child runs before its program: have the kernel kill it when this process ends. Linux only."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)

    def die_with_parent() -> None:
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:  # it ended before the kernel knew
                os.kill(os.getpid(), signal.SIGKILL)

    return die_with_parent


@contextmanager
def _output(log: Path | None) -> Iterator[IO[bytes] | None]:
    if log is None:
        yield None
        return
    with log.open("ab") as file:
        yield file


def _last_words(program: Program) -> str:
    if program.log is None:
        return " What it said stands above."
    lines = program.log.read_text(errors="replace").splitlines()[-15:]
    return "\n".join(["", *lines])
