"""A product under load to whose database something happens, again and again.

calm ── fault ── fault ── … ── calm        the pace of jobs in the second calm is compared with that in the first
          └─ each in the middle of a training, which must end in the same bytes as one that nothing disturbed
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from sqlalchemy import func, select

from gammabeta.schemas.jobs import JobState
from gammabeta.store import migrations
from gammabeta.store.engine import Database
from gammabeta.store.tables import EventRow, JobRow
from tests.faults.figures import Row, Target, at_least, seconds
from tests.faults.load import Clients, Pace, served
from tests.faults.trials import Trials, fingerprint, not_succeeded
from tests.integration.workshop import Worker, Workshop, workshop

SETTINGS = {"HEARTBEAT_SECONDS": "0.3", "LEASE_SECONDS": "2", "POLL_SECONDS": "0.2", "CPU_RANKS": "2"}
"""A lease of several heartbeats, as by default."""
CLIENTS = 6
STEPS = 1_000
TARGET = 0.95
"""Of the pace before."""
JUDGED_SECONDS = 20
"""A pace that was measured for less time is too much a matter of what else the machine does."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens, and for how long if need be."""

    name: str
    happen: Callable[[], object]


def suffer(home: Path, url: str, faults: Sequence[Fault], random: Random, *, looked_at_by: str | None = None) -> Row:
    """Each fault is a trial. `looked_at_by`: the address of the same database that the faults spare."""
    migrations.upgrade(looked_at_by or url)
    with workshop(home, url) as shop:
        if looked_at_by is not None:
            shop.db.dispose()
            shop.db = Database(looked_at_by)
        workers = [shop.start(**SETTINGS) for _ in range(2)]
        with served(home, url) as address:
            clients = Clients(address, _prepared(shop, len(workers)), CLIENTS)
            return _suffer(shop, workers, clients, faults, random)


def _prepared(shop: Workshop, workers: int) -> str:
    """A data set; every worker has run something."""
    dataset_id = shop.ready_dataset()
    for job_id in [shop.train(dataset_id, epochs=1) for _ in range(2 * workers)]:
        shop.ended(job_id)
    return dataset_id


def _suffer(shop: Workshop, workers: list[Worker], clients: Clients, faults: Sequence[Fault], random: Random) -> Row:
    trials, back, calm, within = Trials(), list[float](), min(60, len(faults)), 0
    undisturbed = fingerprint(shop, shop.ended(_training(shop, clients)))
    with clients.busy():
        before = _pace(shop, calm)
        for fault in faults:
            with trials.trial(fault.name) as broken:
                job_id = _training(shop, clients)
                shop.said(job_id, "started")
                time.sleep(random.uniform(0, 0.3))
                within += shop.job(job_id).state == JobState.RUNNING
                fault.happen()
                over = time.time()
                job = shop.ended(job_id)
                broken.extend(not_succeeded(job) or _other_bytes(fingerprint(shop, job), undisturbed))
                back.append(_first_end(shop, over) - over)
        after = _pace(shop, calm)
    also = [*clients.broken, *clients.lost(shop.db), *_ended(workers)]
    if calm >= JUDGED_SECONDS and after.is_below(TARGET, before):
        also.append(f"{after} jobs a second after the faults, {before} before")
    figures = {"in the middle of the training": f"{within} of {len(faults)}"}
    figures |= _figures(shop, clients, before, after, back)
    targets = _targets(before, after) if calm >= JUDGED_SECONDS else ()
    return trials.row(shop, unit="faults", figures=figures, also=also, targets=targets)


def _training(shop: Workshop, clients: Clients) -> str:
    return shop.train(clients.dataset_id, epochs=1_000, max_steps=STEPS)


def _targets(before: Pace, after: Pace) -> tuple[Target, ...]:
    name = "pace after, of that before"
    return (at_least(100 * TARGET, 100 * after.share(before), name=name, unit=" %"),)


def _other_bytes(found: tuple[str, str], expected: tuple[str, str]) -> list[str]:
    return [] if found == expected else [f"the training must end in {expected}. Received: {found}"]


def _ended(workers: list[Worker]) -> list[str]:
    return [f"worker {each.pid} ended" for each in workers if each.process.poll() is not None]


def _pace(shop: Workshop, calm: float) -> Pace:
    begin = time.time()
    time.sleep(calm)
    return Pace.between(shop.db, [(begin, time.time())])


def _first_end(shop: Workshop, since: float) -> float:
    """When the first job ended after that time."""
    with shop.db.read() as session:
        ended = select(func.min(JobRow.finished_ms)).where(JobRow.finished_ms >= round(since * 1_000))
        return (session.scalar(ended) or 0) / 1_000


def _repeated(shop: Workshop) -> int:
    """How many attempts were reaped though their worker lived."""
    with shop.db.read() as session:
        return list(session.scalars(select(EventRow.data["reason"].as_string()))).count("lease_expired")


def _figures(shop: Workshop, clients: Clients, before: Pace, after: Pace, back: list[float]) -> dict[str, str]:
    return {
        "small jobs": f"{len(clients.ended):,} of {len(clients.accepted):,} succeeded once",
        "answers 503 with Retry-After": f"{clients.refused:,} of {clients.answers:,}",
        "other errors": str(len(clients.broken)),
        "from the fault's end to the end of the first job": seconds(back),
        "attempts repeated": str(_repeated(shop)),
        "pace before, after": f"{before}, {after} ({after.share(before):.0%})",
    }
