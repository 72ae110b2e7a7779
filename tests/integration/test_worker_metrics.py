"""What a real worker tells Prometheus of real jobs."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as plain

from gammabeta.schemas.jobs import JobState
from tests.integration.databases import Databases
from tests.integration.workshop import Worker, Workshop, until, workshop

Samples = dict[tuple[str, ...], float]


@pytest.fixture
def shop(databases: Databases, tmp_path: Path) -> Iterator[Workshop]:
    with workshop(tmp_path, databases.migrated("sqlite", tmp_path)) as made:
        yield made


def port_of(worker: Worker) -> int:
    def look() -> int | None:
        lines = [json.loads(line) for line in worker.log.splitlines()]
        return next((line["port"] for line in lines if line["event"] == "metrics are told"), None)

    return until(look, "the port of the metrics")


def scraped(port: int) -> Samples:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in plain(text)
        for sample in family.samples
    }


def ended(port: int, kind: str, outcome: str, times: int = 1) -> Samples:
    """What is told once so many attempts have ended so."""

    def look() -> Samples | None:
        found = scraped(port)
        count = found.get(("gammabeta_worker_attempt_seconds_count", kind, outcome), 0)
        return found if count == times else None

    return until(look, f"{times} × {kind} that ended with {outcome}")


def test_jobs_are_told_from_claim_to_end(shop: Workshop) -> None:
    worker = shop.start(METRICS_PORT="0", CHECKPOINT_SECONDS="0")
    port = port_of(worker)
    dataset_id = shop.ready_dataset()
    job_id = shop.train(dataset_id, epochs=3)
    assert shop.ended(job_id).state == JobState.SUCCEEDED
    found = ended(port, "train", "success")
    assert found["gammabeta_worker_attempt_seconds_count", "ingest", "success"] == 1
    assert found["gammabeta_worker_claims_total", "ingest", "light"] == 1
    assert found["gammabeta_worker_claims_total", "train", "train"] == 1
    assert (found["gammabeta_worker_slots", "train"], found["gammabeta_worker_slots", "light"]) == (1, 1)
    until(lambda: scraped(port)["gammabeta_worker_running", "train"] == 0, "a slot that is free")
    progress = shop.job(job_id).progress
    assert progress is not None
    assert found["gammabeta_worker_steps_total", "train"] == progress["steps"]
    assert found["gammabeta_worker_checkpoint_bytes_total",] > 0
    assert found["gammabeta_worker_checkpoint_seconds_count",] >= 1
    assert found["gammabeta_worker_lease_renewals_failed_total",] == 0
    shop.ended(shop.predict(dataset_id))
    assert ended(port, "predict", "success")["gammabeta_worker_steps_total", "predict"] == 40


def test_a_running_job_is_told_and_how_it_was_stopped(shop: Workshop) -> None:
    worker = shop.start(METRICS_PORT="0")
    port, job_id = port_of(worker), shop.endless(shop.ready_dataset())
    shop.said(job_id, "started")
    assert scraped(port)["gammabeta_worker_running", "train"] == 1
    first = until(lambda: scraped(port).get(("gammabeta_worker_steps_total", "train")), "a step")
    until(lambda: scraped(port)["gammabeta_worker_steps_total", "train"] > first, "more steps")
    os.killpg(worker.trainer(), signal.SIGKILL)
    ended(port, "train", "loss")
    shop.said(job_id, "started", times=2)
    shop.cancel(job_id)
    assert ended(port, "train", "cancel")["gammabeta_worker_claims_total", "train", "train"] == 2


def test_a_lost_lease_and_a_reaping_are_told(shop: Workshop) -> None:
    worker = shop.start(METRICS_PORT="0")
    port, job_id = port_of(worker), shop.endless(shop.ready_dataset())
    shop.said(job_id, "started")
    wake = shop.freeze(worker)
    successor = shop.start()
    until(lambda: shop.job(job_id).fence == 2, "another claim")
    wake()
    assert ended(port, "train", "lost")["gammabeta_worker_leases_lost_total",] == 1
    assert successor.process.poll() is None


def test_the_listener_ends_with_the_worker_and_not_before(shop: Workshop) -> None:
    worker = shop.start(METRICS_PORT="0", CANCEL_GRACE_SECONDS="60")
    port, job_id = port_of(worker), shop.endless(shop.ready_dataset())
    shop.said(job_id, "started")
    trainer = worker.trainer()
    os.kill(trainer, signal.SIGSTOP)
    os.kill(worker.pid, signal.SIGTERM)
    until(lambda: "draining" in worker.log, "the drain")
    assert scraped(port)["gammabeta_worker_running", "train"] == 1
    os.kill(trainer, signal.SIGCONT)
    assert worker.process.wait(20) == 0
    with pytest.raises(urllib.error.URLError, match="refused"):
        scraped(port)


def test_a_worker_that_cannot_tell_does_not_begin(shop: Workshop) -> None:
    first = shop.start(METRICS_PORT="0")
    second = shop.start(METRICS_PORT=str(port_of(first)))
    assert second.process.wait(20) == 1
    assert "GAMMABETA_METRICS_PORT must be an address that is free" in second.log
