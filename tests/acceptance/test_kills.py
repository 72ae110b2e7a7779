"""kill -9 in the middle of a job: nothing of the attempt lives on, and the job ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from tests.acceptance.conftest import MNIST_JOB
from tests.acceptance.stack import Stack, alive, running, until


def version_of(stack: Stack, model: str, number: str) -> dict[str, Any]:
    found: dict[str, Any] = stack.http.get(f"/v1/models/{model}/versions/{number}").json()
    return found


def trainer_of(stack: Stack, job: str) -> int:
    """The process id that the job's newest attempt reported."""

    def look() -> int | None:
        events = stack.http.get(f"/v1/jobs/{job}/events", params={"limit": 100}).json()["data"]
        started = [each["data"]["pid"] for each in events if each["type"] == "started"]
        return started[-1] if started else None

    return until(look, "the trainer to start")


def past_a_checkpoint(stack: Stack, job: str) -> int:
    """Wait for a checkpoint; its step."""

    def look() -> int | None:
        events = stack.http.get(f"/v1/jobs/{job}/events", params={"limit": 100}).json()["data"]
        steps = [each["data"]["step"] for each in events if each["type"] == "checkpoint"]
        return steps[-1] if steps else None

    return until(look, "a checkpoint")


def assert_same_outcome(stack: Stack, job: dict[str, Any], undisturbed: dict[str, Any]) -> None:
    assert job["status"] == "succeeded", job
    assert job["attempt"] == 2
    versions = stack.http.get(f"/v1/models/{job['model']}").json()["versions"]
    assert [each["job"] for each in versions] == [job["id"]]
    got = version_of(stack, job["model"], job["version"])
    for key in ("weights_sha256", "batchnorm_digest"):
        assert got[key] == undisturbed[key], key
    assert got["metrics"]["test"] == undisturbed["metrics"]["test"]


def test_killed_trainer_is_replaced_and_the_job_ends_bit_equal(
    tmp_path: Path, data: Path, stack: Stack, trained: dict[str, Any]
) -> None:
    undisturbed = version_of(stack, "mnist", trained["version"])
    with running(tmp_path / "home", checkpoint_seconds="1") as own:
        dataset = own.upload((data / "mnist.npz").read_bytes(), name="mnist", format="npz")
        job = own.submit(dataset=dataset["id"], model="mnist", **MNIST_JOB)
        step = past_a_checkpoint(own, job)
        victim = trainer_of(own, job)
        os.kill(victim, signal.SIGKILL)
        until(lambda: not alive(victim), "the trainer to die")
        done = own.finished(job)
        assert_same_outcome(own, done, undisturbed)
        resumed = [
            each["data"]["step"]
            for each in own.http.get(f"/v1/jobs/{job}/events", params={"limit": 100}).json()["data"]
            if each["type"] == "resumed"
        ]
        assert resumed
        assert resumed[0] >= step


def test_killed_supervisor_leaves_nothing_running_and_the_job_ends_bit_equal(
    tmp_path: Path, data: Path, stack: Stack, trained: dict[str, Any]
) -> None:
    undisturbed = version_of(stack, "mnist", trained["version"])
    settings = {"checkpoint_seconds": "1", "lease_seconds": "3", "heartbeat_seconds": "0.5", "reap_seconds": "0.5"}
    with running(tmp_path / "home", **settings) as own:
        dataset = own.upload((data / "mnist.npz").read_bytes(), name="mnist", format="npz")
        job = own.submit(dataset=dataset["id"], model="mnist", **MNIST_JOB)
        past_a_checkpoint(own, job)
        victim = trainer_of(own, job)
        supervisor = next(pid for pid, line in own.processes().items() if "-m worker" in line)
        os.kill(supervisor, signal.SIGKILL)
        until(lambda: not alive(supervisor), "the supervisor to die")
        until(lambda: not alive(victim), "the trainer to die with its supervisor", patience=5)
        assert_same_outcome(own, own.finished(job), undisturbed)
