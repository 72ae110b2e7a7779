"""The trainer as a process of its own, at the other end of a pipe."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.trainings import again, job_of
from worker import messages, results, trainer

T = TypeVar("T")

DEADLINE = 60.0
ENDLESS = {"epochs": 100_000}


class Attempt:
    """A trainer at work, from the supervisor's side."""

    def __init__(self, context: ForkServerContext, job: messages.JobFile) -> None:
        self.pipe, child = multiprocessing.Pipe()
        self.process: ForkServerProcess = context.Process(target=trainer.main, args=(child,))
        self.process.start()
        child.close()
        self.pipe.send_bytes(messages.encode(job))

    @property
    def pid(self) -> int:
        return self.process.pid or 0

    def until(self, kind: type[T], holds: Callable[[T], bool] = lambda _: True) -> T:
        """The next report of a kind."""
        report = next_report(self.pipe)
        while not (isinstance(report, kind) and holds(report)):
            if isinstance(report, messages.Failed):
                raise AssertionError(report.message)
            report = next_report(self.pipe)
        return report

    def stop(self, why: messages.StopReason) -> None:
        self.pipe.send_bytes(messages.encode(messages.Stop(why=why)))

    def ended(self) -> int | None:
        self.process.join(DEADLINE)
        return self.process.exitcode

    def close(self) -> None:
        self.process.kill()
        self.process.join(DEADLINE)
        self.pipe.close()


def next_report(pipe: Connection) -> messages.Report:
    assert pipe.poll(DEADLINE), "the trainer said nothing"
    return messages.decode_report(pipe.recv_bytes())


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def gone(pid: int) -> bool:
    """Ended, whether or not someone has asked how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except FileNotFoundError:
        return True


@pytest.fixture
def start() -> Iterator[Callable[[messages.JobFile], Attempt]]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["worker.preload"])
    attempts: list[Attempt] = []

    def begin(job: messages.JobFile) -> Attempt:
        attempts.append(Attempt(context, job))
        return attempts[-1]

    yield begin
    for attempt in attempts:
        attempt.close()


Start = Callable[[messages.JobFile], Attempt]


def files(folder: Path) -> dict[str, Any]:
    return {name: (folder / name).read_bytes() for name in (results.WEIGHTS, results.STATE)}


def test_trainer_runs_a_job_and_ends(start: Start, tmp_path: Path) -> None:
    attempt = start(job_of(tmp_path))
    assert attempt.until(messages.Started).steps == 27
    result, state = results.read(attempt.until(messages.Done).path)
    assert attempt.ended() == 0
    assert result.metrics["test"]["n"] == 40
    assert state.layers[0].updates == 27


def test_trainer_leads_a_session_of_its_own(start: Start, tmp_path: Path) -> None:
    attempt = start(job_of(tmp_path, training=ENDLESS))
    attempt.until(messages.Progress)
    assert os.getsid(attempt.pid) == attempt.pid


def test_killed_trainer_is_taken_over_from_its_checkpoint_to_the_same_bytes(start: Start, tmp_path: Path) -> None:
    job = job_of(tmp_path / "job", training={"epochs": 20, "early_stopping": {"patience": 20}})
    undisturbed = start(job)
    expected = files(undisturbed.until(messages.Done).path)
    killed = start(again(job, tmp_path / "killed", checkpoint_seconds=0.0))
    checkpoint = killed.until(messages.Checkpoint, lambda report: report.step > 13)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.ended() == -signal.SIGKILL
    successor = start(again(job, tmp_path / "successor", resume=checkpoint.path))
    assert successor.until(messages.Started).resumed_at == checkpoint.step
    assert files(successor.until(messages.Done).path) == expected


def test_trainer_drains_with_a_checkpoint(start: Start, tmp_path: Path) -> None:
    attempt = start(job_of(tmp_path, training=ENDLESS))
    attempt.until(messages.Progress)
    attempt.stop("drain")
    stopped = attempt.until(messages.Stopped)
    assert attempt.ended() == 0
    assert stopped.why == "drain"
    assert stopped.checkpoint is not None
    assert (stopped.checkpoint / "training.json").exists()


def test_trainer_cancels_without_one(start: Start, tmp_path: Path) -> None:
    attempt = start(job_of(tmp_path, training=ENDLESS))
    attempt.until(messages.Progress)
    attempt.stop("cancel")
    assert attempt.until(messages.Stopped).checkpoint is None
    assert attempt.ended() == 0


def test_trainer_ends_when_its_pipe_does(start: Start, tmp_path: Path) -> None:
    attempt = start(job_of(tmp_path, training=ENDLESS))
    attempt.until(messages.Progress)
    attempt.pipe.close()
    assert attempt.ended() == 1


def test_job_that_cannot_run_is_reported_and_the_process_ends_well(start: Start, tmp_path: Path) -> None:
    job = job_of(tmp_path)
    attempt = start(job.model_copy(update={"arrays": dict.fromkeys(job.arrays, tmp_path / "nothing.npy")}))
    report = next_report(attempt.pipe)
    assert isinstance(report, messages.Failed)
    assert report.code == "training_error"
    assert "nothing.npy" in report.message
    assert attempt.ended() == 0


SUPERVISOR = """
    import multiprocessing, sys
    from multiprocessing import forkserver
    from pathlib import Path
    from worker import trainer

    if __name__ == "__main__":
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["worker.preload"])
        pipe, child = multiprocessing.Pipe()
        process = context.Process(target=trainer.main, args=(child,))
        process.start()
        pipe.send_bytes(Path(sys.argv[1]).read_bytes())
        pipe.recv_bytes()
        print(process.pid, forkserver._forkserver._forkserver_pid, flush=True)
        while True:
            pipe.recv_bytes()
"""


def test_nothing_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    script, order = tmp_path / "supervisor.py", tmp_path / "job.json"
    script.write_text(textwrap.dedent(SUPERVISOR))
    order.write_bytes(messages.encode(job_of(tmp_path / "job", training=ENDLESS)))
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, str(script), str(order)], stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": root}
    ) as supervisor:
        assert supervisor.stdout is not None
        children = [int(word) for word in supervisor.stdout.readline().split()]
        assert len(children) == 2
        assert not any(gone(pid) for pid in children)
        supervisor.kill()
        supervisor.wait(DEADLINE)
    assert eventually(lambda: all(gone(pid) for pid in children))
