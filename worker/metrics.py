"""What the worker tells Prometheus: counted as it happens, by any thread, and told by those of `exposition.py`.

Labels are lanes, kinds of jobs and outcomes. `docs/operations.md` has the table, and a test that holds both together.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, Summary

from worker.gpus import GpuMemory
from worker.settings import visible_gpus

SECONDS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 4 * 3_600.0, 12 * 3_600.0, 86_400.0, 7 * 86_400.0)
"""The bounds of the histogram: attempts take from a second to days."""


class Metrics:
    """Of one worker."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.slots = Gauge("gammabeta_worker_slots", "Slots.", ["lane"], registry=registry)
        self.running = Gauge("gammabeta_worker_running", "Attempts that run now.", ["kind"], registry=registry)
        self.claims = Counter("gammabeta_worker_claims", "Jobs that were claimed.", ["lane", "kind"], registry=registry)
        self.attempts = Histogram(
            "gammabeta_worker_attempt_seconds",
            "How long attempts took that ended.",
            ["kind", "outcome"],
            buckets=SECONDS,
            registry=registry,
        )
        self.steps = Counter(
            "gammabeta_worker_steps", "Steps of trainings, rows of predictions.", ["kind"], registry=registry
        )
        self.renewals_failed = Counter(
            "gammabeta_worker_lease_renewals_failed", "Heartbeats that were not written.", registry=registry
        )
        self.leases_lost = Counter("gammabeta_worker_leases_lost", "Attempts that lost the fence.", registry=registry)
        self.reaped = Counter("gammabeta_worker_reaped", "Attempts of any worker that were reaped.", registry=registry)
        self.checkpoints = Summary(
            "gammabeta_worker_checkpoint_seconds", "What it took to store checkpoints.", registry=registry
        )
        self.checkpoint_bytes = Counter(
            "gammabeta_worker_checkpoint_bytes", "Bytes of checkpoints that were stored.", registry=registry
        )
        ProcessCollector(registry=registry)

    def watch_gpus(self, devices: list[str]) -> None:
        """Tell of the memory of those of the worker's devices that are GPUs."""
        if names := sorted({each for each in devices if each.startswith("cuda")}):
            self.registry.register(GpuMemory(names, visible=visible_gpus()))
