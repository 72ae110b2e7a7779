"""T9. Trainers that hang: busy, and deaf, while their supervisor renews the lease. What ends them is `max_seconds`.

claim ── first step ── ∞ ······ max_seconds ── killed ── failed: deadline_exceeded ── the next job
"""

from __future__ import annotations

from random import Random

from gammabeta.schemas.jobs import JobState
from tests.faults.figures import Row, at_most, seconds
from tests.faults.rig import Place, Scenario
from tests.faults.trials import Trials, not_as, not_succeeded
from tests.integration.workshop import until

MAX_SECONDS = 2
LATE_SECONDS = 5.0


def run(place: Place, n: int, random: Random) -> Row:
    """One after the other, each followed by a good one."""
    del random
    late: list[float] = []
    with place.workshop() as shop:
        worker = shop.start_rigged(LEASE_SECONDS="5")
        dataset_id, trials = shop.ready_dataset(), Trials()
        shop.ended(shop.train(dataset_id, epochs=1))
        for _ in range(n):
            with trials.trial("a hung trainer") as broken:
                job_id = shop.train(dataset_id, max_seconds=MAX_SECONDS, metadata={"fault_always": "first_step=hang"})
                job = shop.ended(job_id)
                broken.extend(not_as(job, state=JobState.FAILED, reason="deadline_exceeded", fence=1, losses=0))
                late.append(((job.finished_ms or 0) - (job.started_ms or 0)) / 1_000 - MAX_SECONDS)
                broken.extend([f"{job_id} was ended {late[-1]:.1f} s late"] * (late[-1] > LATE_SECONDS))
                until(lambda: not worker.attempts(), "the end of the trainer")
                broken.extend(not_succeeded(shop.ended(shop.train(dataset_id, epochs=1))))
        figures = {f"ended after max_seconds = {MAX_SECONDS} s by (p50 / p95 / most)": seconds(late)}
        target = at_most(LATE_SECONDS, max(late, default=0), name="the last after its deadline", unit=" s")
        return trials.row(shop, unit="hung trainers", figures=figures, targets=(target,))


SCENARIO = Scenario(
    id="T9",
    fault="a trainer that hangs, busy and deaf, while its lease is renewed",
    promise=f"killed within {LATE_SECONDS:g} s of its deadline, the job failed by it, and the next one runs",
    run=run,
    quick_kinds=("sqlite",),
    quick=1,
    full=5,
)
