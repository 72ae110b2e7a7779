"""A job that is paused and resumed, and one whose time is over, as a user has them over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import MNIST_JOB
from tests.acceptance.stack import Stack, alive, running, until
from tests.acceptance.test_kills import assert_same_outcome, past_a_checkpoint, trainer_of, version_of


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("pause") / "home", checkpoint_seconds="1", heartbeat_seconds="0.5") as started:
        yield started


@pytest.fixture(scope="module")
def digits(own: Stack, data: Path) -> str:
    found = own.upload((data / "mnist.npz").read_bytes(), name="mnist", format="npz")
    assert found["state"] == "ready", found
    return str(found["id"])


def ask(stack: Stack, job: str, verb: str) -> dict[str, Any]:
    answer = stack.http.post(f"/v1/jobs/{job}/{verb}")
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    return found


def resumed_at(stack: Stack, job: str) -> list[int]:
    events = stack.http.get(f"/v1/jobs/{job}/events", params={"limit": 100}).json()["data"]
    return [each["data"]["step"] for each in events if each["type"] == "resumed"]


def test_a_paused_job_waits_without_a_process_and_then_ends_bit_equal(
    own: Stack, digits: str, stack: Stack, trained: dict[str, Any]
) -> None:
    job = own.submit(dataset=digits, model="mnist", **MNIST_JOB)
    trainer = trainer_of(own, job)
    ask(own, job, "pause")
    until(lambda: own.job(job)["status"] == "paused", "the pause")
    until(lambda: not alive(trainer), "the trainer to end")
    assert ask(own, job, "resume")["status"] in ("queued", "retrying", "running")
    assert_same_outcome(own, own.finished(job), version_of(stack, "mnist", trained["version"]))
    (step,) = resumed_at(own, job)
    assert step > 0


def test_a_job_past_max_seconds_fails_and_a_retry_goes_on_from_its_checkpoint(own: Stack, digits: str) -> None:
    endless = MNIST_JOB | {"training": MNIST_JOB["training"] | {"epochs": 10_000}}
    job = own.submit(dataset=digits, model="endless", max_seconds=10, **endless)
    step = past_a_checkpoint(own, job)
    trainer = trainer_of(own, job)
    failed = own.finished(job)
    assert (failed["status"], failed["error"]["code"]) == ("failed", "deadline_exceeded")
    assert "max_seconds" in failed["error"]["message"]
    assert not alive(trainer)
    ask(own, job, "retry")
    (resumed,) = until(lambda: resumed_at(own, job), "the retry to go on")
    assert resumed >= step
    ask(own, job, "cancel")
    assert own.finished(job)["status"] == "cancelled"
