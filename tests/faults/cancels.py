"""T8. Jobs are cancelled at any time: waiting, training, publishing, and with a trainer that does not listen.

cancel ── 202 ──► cancelled, whatever the worker was about to do
       └─ 409 ──► it had succeeded
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random

from gammabeta.errors import WrongState
from gammabeta.failpoints import Failpoint
from gammabeta.schemas.jobs import JobState
from tests.faults.figures import Row, Target, at_most, p95, seconds
from tests.faults.rig import Place, Scenario
from tests.faults.traps import Traps
from tests.faults.trials import Trials, not_as
from tests.integration.workshop import Worker, Workshop, until

STEPS = 300
HEARTBEAT_SECONDS, GRACE_SECONDS = 0.2, 1.0
SLACK_SECONDS = 10.0
"""For a machine that has other things to do."""


@dataclass(kw_only=True)
class Stage:
    """What the trials share."""

    shop: Workshop
    worker: Worker
    traps: Traps
    random: Random
    dataset_id: str
    usual_seconds: float = 0
    """From the submission of a job to its end, if it is let alone."""
    latencies: dict[str, list[float]] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)

    def train(self) -> str:
        return self.shop.train(self.dataset_id, epochs=1_000, max_steps=STEPS)

    def cancel(self, job_id: str) -> bool:
        """Whether it was accepted."""
        try:
            self.shop.cancel(job_id)
        except WrongState:
            return False
        return True


def run(place: Place, n: int, random: Random) -> Row:
    """Most at random times."""
    with place.workshop() as shop:
        worker = shop.start_rigged(
            HEARTBEAT_SECONDS=str(HEARTBEAT_SECONDS), CANCEL_GRACE_SECONDS=str(GRACE_SECONDS), POLL_SECONDS="0.05"
        )
        stage = Stage(shop=shop, worker=worker, traps=Traps(shop.home), random=random, dataset_id=shop.ready_dataset())
        for _ in range(2):  # torch is being loaded during the first
            usual = shop.ended(stage.train())
        stage.usual_seconds = ((usual.finished_ms or 0) - usual.created_ms) / 1_000
        trials = Trials()
        for number in range(n):
            name, variant = VARIANTS[number % len(VARIANTS)]
            with trials.trial(f"cancelled {name}") as broken:
                _trial(stage, name, variant, broken)
        return trials.row(shop, unit="cancels", figures=_figures(stage), targets=(_target(stage),))


def _trial(stage: Stage, name: str, variant: Callable[[Stage, str], bool], broken: list[str]) -> None:
    job_id = stage.train()
    accepted = variant(stage, job_id)
    job = stage.shop.ended(job_id)
    stage.answers[("202" if accepted else "409") + f" {name}"] += 1
    broken += not_as(job, state=JobState.CANCELLED if accepted else JobState.SUCCEEDED, losses=0, failures=0)
    if accepted:
        took = ((job.finished_ms or 0) - (job.cancel_requested_ms or 0)) / 1_000
        stage.latencies.setdefault(name, []).append(took)
        if took > GRACE_SECONDS + HEARTBEAT_SECONDS + SLACK_SECONDS:
            broken.append(f"{job_id} went on for {took:.1f} s after it was cancelled")
    until(lambda: not stage.worker.attempts(), "the end of the trainer")


def _at_a_random_time(stage: Stage, job_id: str) -> bool:
    time.sleep(stage.random.uniform(0, 1.2 * stage.usual_seconds))
    return stage.cancel(job_id)


def _before_publication(stage: Stage, job_id: str) -> bool:
    """The network is trained and its weights are stored; its version is not."""
    stage.traps.lay(Failpoint.WEIGHTS_STORED)
    stage.traps.caught(Failpoint.WEIGHTS_STORED)
    accepted = stage.cancel(job_id)
    stage.traps.let_go()
    return accepted


def _during_publication(stage: Stage, job_id: str) -> bool:
    """The version is written and not committed; the cancel waits for the lock of the job."""
    stage.traps.lay(Failpoint.PUBLISH_BEFORE_COMMIT)
    stage.traps.caught(Failpoint.PUBLISH_BEFORE_COMMIT)
    with ThreadPoolExecutor(1) as beside:
        accepted = beside.submit(stage.cancel, job_id)
        time.sleep(stage.random.uniform(0, 0.2))
        stage.traps.let_go()
        return accepted.result()


def _deaf(stage: Stage, job_id: str) -> bool:
    stage.shop.said(job_id, "started")
    for pid in stage.worker.attempts():
        os.kill(pid, signal.SIGSTOP)
    return stage.cancel(job_id)


RANDOM, DEAF = ("at a random time", _at_a_random_time), ("with a deaf trainer", _deaf)
VARIANTS = (
    RANDOM,
    ("before its publication", _before_publication),
    RANDOM,
    ("during its publication", _during_publication),
    RANDOM,
    RANDOM,
    DEAF,
    *[RANDOM] * 3,
)


def _target(stage: Stage) -> Target:
    """Of those whose trainer listens: it does after each step, and its supervisor with each heartbeat."""
    heard = [each for name, took in stage.latencies.items() if name != DEAF[0] for each in took]
    step = stage.usual_seconds / STEPS
    return at_most(round(HEARTBEAT_SECONDS + step, 3), p95(heard), name="95 % of the cancels", unit=" s")


def _figures(stage: Stage) -> dict[str, str]:
    answers = ", ".join(f"{count} × {name}" for name, count in sorted(stage.answers.items()))
    took = {f"to the end, {name} (p50 / p95 / most)": seconds(each) for name, each in sorted(stage.latencies.items())}
    return {"heartbeat": f"{HEARTBEAT_SECONDS} s, grace {GRACE_SECONDS} s", "answers": answers} | took


SCENARIO = Scenario(
    id="T8",
    fault="jobs cancelled at random times, before and during the publication of their model, with a deaf trainer",
    promise="a job whose cancel was accepted never succeeds, one whose cancel was refused has; ended within a "
    f"heartbeat + the grace + {SLACK_SECONDS:g} s",
    run=run,
    quick=10,
    full=200,
)
