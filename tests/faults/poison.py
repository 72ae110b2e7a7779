"""T10. Jobs that kill whoever runs them, among good ones.

segfault, exit, kill         a loss each ── three attempts ── failed: poison
endless memory, MemoryError  failed at once: oom_host
"""

from __future__ import annotations

from random import Random

from gammabeta.schemas.jobs import JobState
from tests.faults.figures import Row
from tests.faults.rig import Place, Scenario
from tests.faults.trials import Trials, not_as, not_succeeded

POISONS = ("segfault", "exit", "kill", "devour", "memory")
FATAL = ("segfault", "exit", "kill")


def run(place: Place, n: int, random: Random) -> Row:
    """All in the queue at once, in any order."""
    with place.workshop() as shop:
        worker = shop.start_rigged(CPU_RANKS="2", LEASE_SECONDS="5")
        dataset_id = shop.ready_dataset()
        deeds: list[str | None] = [*POISONS, *[None] * (n - len(POISONS))]
        random.shuffle(deeds)
        plans: dict[str | None, dict[str, str]] = {deed: {"fault_always": f"first_step={deed}"} for deed in POISONS}
        ids = [shop.train(dataset_id, epochs=1, metadata=plans.get(deed)) for deed in deeds]
        trials = Trials()
        for deed, job_id in zip(deeds, ids, strict=True):
            with trials.trial(deed or "a good job") as broken:
                job = shop.ended(job_id)
                if deed is None:
                    broken.extend(not_succeeded(job))
                elif deed in FATAL:
                    broken.extend(not_as(job, state=JobState.FAILED, reason="poison", losses=3, fence=3))
                else:
                    broken.extend(not_as(job, state=JobState.FAILED, reason="oom_host", failures=1, fence=1))
        restarts = int(worker.process.poll() is not None)
        good = sum(
            deed is None and not_succeeded(shop.job(job_id)) == [] for deed, job_id in zip(deeds, ids, strict=True)
        )
        figures = {
            "good jobs succeeded": f"{good} of {n - len(POISONS)}",
            "poison": f"{len(POISONS)}",
            "supervisor restarts": str(restarts),
        }
        return trials.row(shop, unit="jobs", figures=figures, also=["the supervisor ended"] * restarts)


SCENARIO = Scenario(
    id="T10",
    fault="five jobs whose trainers die each time (segfault, exit, SIGKILL, endless memory), among good ones",
    promise="they fail, after three losses or at once; the good ones succeed; the supervisor goes on",
    run=run,
    quick_kinds=("sqlite",),
    quick=10,
    full=105,
)
