"""T12. PostgreSQL is killed and frozen while it is under load; see `ordeals`."""

from __future__ import annotations

import time
from functools import partial
from random import Random

from tests.faults.figures import Row
from tests.faults.ordeals import TARGET, Fault, suffer
from tests.faults.rig import Place, Scenario
from tests.postgres import Cluster, running_cluster

SHORT_FREEZE, LONG_FREEZE = 3, 20
"""Seconds: both longer than the lease."""


def run(place: Place, n: int, random: Random) -> Row:
    with running_cluster(durable=True) as cluster:
        return suffer(place.folder, cluster.url(cluster.create()), [_fault(cluster, each) for each in range(n)], random)


def _fault(cluster: Cluster, index: int) -> Fault:
    long = LONG_FREEZE if index % 15 == 13 else SHORT_FREEZE
    return (
        Fault(name="killed", happen=partial(cluster.restart, "immediate")),
        Fault(name=f"frozen for {long} s", happen=partial(_freeze, cluster, long)),
        Fault(name="killed three times", happen=partial(_kill_often, cluster)),
    )[index % 3]


def _freeze(cluster: Cluster, seconds: float) -> None:
    with cluster.paused():
        time.sleep(seconds)


def _kill_often(cluster: Cluster) -> None:
    for _ in range(3):
        cluster.restart("immediate")
        time.sleep(1)


SCENARIO = Scenario(
    id="T12",
    fault=f"PostgreSQL under load is killed (`restart -m immediate`), killed three times in a row, or frozen for "
    f"{SHORT_FREEZE} or {LONG_FREEZE} s, in the middle of a training",
    promise="no accepted job is lost or doubled, the training ends in the same bytes; the API refuses by 503 with "
    f"Retry-After only; no worker ends; the pace afterwards is not less than {TARGET:.0%} of that before by more than "
    "chance",
    run=run,
    quick=2,
    full=60,
    kinds=("postgresql",),
)
