"""What goes over the pipe."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests import trainings
from worker import messages


def test_job_file_arrives_as_it_was_sent(tmp_path: Path) -> None:
    job = trainings.job_of(tmp_path, training={"seed": 2**63 - 1, "early_stopping": {}}, resume=tmp_path)
    assert messages.decode_order(messages.encode(job)) == job


@pytest.mark.parametrize(
    "report",
    [
        messages.Started(device="cpu", steps=3),
        messages.Progress(step=1, steps=3, metrics={"loss": 0.5}),
        messages.MetricsRow(step=1, epoch=1, values={"loss": None, "accuracy": 0.1}),
        messages.Event(name="stopped_early", data={"epoch": 3}),
        messages.Warned(code="moving_statistics_cold", message="…"),
        messages.Checkpoint(path=Path("/a"), step=4),
        messages.Stopped(why="drain", checkpoint=None, step=4),
        messages.Failed(code="oom_host", message="…"),
        messages.Refused(code="one_class_only", message="…"),
        messages.Done(path=Path("/a")),
        messages.Answered(path=Path("/a"), rows=3, metrics={"per_class": {"a": {"f1": 0.5}}, "auc": None}),
    ],
    ids=lambda report: report.type,
)
def test_report_arrives_as_it_was_sent(report: messages.Report) -> None:
    assert messages.decode_report(messages.encode(report)) == report


def test_unknown_message_is_refused() -> None:
    with pytest.raises(ValidationError):
        messages.decode_report(b'{"type": "gossip"}')


def test_the_supervisors_side_of_the_pipe_loads_no_torch() -> None:
    code = "import sys, worker.messages, worker.results; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
