"""T11. Trainings for which there is not enough memory, by each of the ways in which they learn of it.

MemoryError · address space limited (RLIMIT_AS) · killed by the kernel in a cgroup ──► failed: oom_host, not repeated
torch.OutOfMemoryError ──────────────────────────────────────────────────────────────► failed: oom_cuda, not repeated
"""

from __future__ import annotations

from collections import Counter
from random import Random

from gammabeta.schemas.jobs import JobState
from tests.faults.cgroups import limited
from tests.faults.figures import Row
from tests.faults.rig import Place, Scenario
from tests.faults.trials import Trials, not_as, not_succeeded

WAYS = {"gorge": "oom_host", "memory": "oom_host", "gpu_memory": "oom_cuda", "devour": "oom_host"}
NAMES = {
    "gorge": "killed by the kernel",
    "memory": "MemoryError",
    "gpu_memory": "torch.OutOfMemoryError (raised; there is no GPU)",
    "devour": "RLIMIT_AS",
}
GROUP_BYTES = 1 << 30
"""The supervisor and its trainers; torch alone takes a quarter of it."""


def run(place: Place, n: int, random: Random) -> Row:
    """Each way in turn, each followed by a good job."""
    del random
    with limited(GROUP_BYTES) as members, place.workshop() as shop:
        worker = shop.start_rigged(LEASE_SECONDS="5")
        if members is not None:
            members.write_text(str(worker.pid))
        dataset_id, trials, done = shop.ready_dataset(), Trials(), Counter[str]()
        ways = list(WAYS) if members is not None else [way for way in WAYS if way != "gorge"]
        for way in (ways[number % len(ways)] for number in range(n)):
            with trials.trial(NAMES[way]) as broken:
                job = shop.ended(shop.train(dataset_id, metadata={"fault_always": f"first_step={way}"}))
                broken.extend(not_as(job, state=JobState.FAILED, reason=WAYS[way], fence=1, failures=1, losses=0))
                broken.extend(not_succeeded(shop.ended(shop.train(dataset_id, epochs=1))))
                done[NAMES[way]] += 1
        gone = ["the supervisor ended"] * (worker.process.poll() is not None)
        figures = {name: f"{count} times" for name, count in done.items()}
        if members is None:
            figures[NAMES["gorge"]] = "not tried: no memory cgroup can be made on this machine"
        complete = members is not None
        return trials.row(shop, unit="trainings", figures=figures, also=gone, complete=complete)


SCENARIO = Scenario(
    id="T11",
    fault="trainings that run out of memory: MemoryError, torch.OutOfMemoryError, RLIMIT_AS, the kernel's OOM killer",
    promise="failed at once with `oom_host` or `oom_cuda`, not repeated, and the next job succeeds",
    run=run,
    quick_kinds=("sqlite",),
    quick=4,
    full=40,
)
