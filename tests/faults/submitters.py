"""T3. A hundred clients submit at once, each request twice under its key, while two workers take what comes.

client 1 ─┬─POST /v1/jobs, key 1-1─┐            ┌─ worker
   …      └─POST /v1/jobs, key 1-1─┴─► service ─┤
client 100 …         every other time both at once, else one after the other
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any

import httpx
from sqlalchemy import select

from gammabeta.store.engine import Database
from gammabeta.store.tables import JobRow
from service.keyring import ANYONE
from tests.faults.figures import Row, at_most, p95, seconds
from tests.faults.load import served
from tests.faults.rig import Place, Scenario
from tests.lines import Line
from tests.trainings import NETWORK

QUICK, FULL = 60, 2_000
CLIENTS, WORKERS = 100, 2
PATIENCE = 120
WANTED = {"sqlite": 0.25, "postgresql": 0.1}
"""Seconds within which 95 % of the requests are answered."""


@dataclass
class Submitters:
    """The clients, and what they were told."""

    address: httpx.URL
    body: bytes
    accepted: dict[str, set[str]] = field(default_factory=dict)
    """The jobs of each key: one, if all is well."""
    latencies: list[float] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    async def submit(self, requests: int) -> None:
        turns = count()
        await asyncio.gather(*(self._client(turns, requests) for _ in range(CLIENTS)))

    async def _client(self, turns: count[int], requests: int) -> None:
        with closing(Line(self.address)) as one, closing(Line(self.address)) as other:
            while (turn := next(turns)) < requests:
                key = f"key-{turn}"
                if turn % 2:
                    await asyncio.gather(self._post(one, key), self._post(other, key))
                else:
                    await self._post(one, key)
                    await self._post(other, key)

    async def _post(self, line: Line, key: str) -> None:
        began = time.perf_counter()
        status, answer = await asyncio.wait_for(_posted(line, self.body, key), PATIENCE)
        self.latencies.append(time.perf_counter() - began)
        if status == 202:
            self.accepted.setdefault(key, set()).add(answer["id"])
        else:
            self.broken.append(f"{key}: {status} {answer}")


async def _posted(line: Line, body: bytes, key: str) -> tuple[int, Any]:
    """Status and answer; once more where the service closed the line for having been idle."""
    headers = {"Content-Type": "application/json", "Idempotency-Key": key}
    try:
        status, content = await line.post("/v1/jobs", body, headers)
    except (asyncio.IncompleteReadError, ConnectionError):
        status, content = await line.post("/v1/jobs", body, headers)
    return status, json.loads(content)


def run(place: Place, n: int, random: Random) -> Row:
    with place.workshop() as shop:
        workers = [shop.start() for _ in range(WORKERS)]
        dataset_id = shop.ready_dataset()
        with served(place.folder, place.url) as address:
            submitters = Submitters(address, _body(dataset_id))
            began = time.perf_counter()
            asyncio.run(submitters.submit(n))
            lasted = time.perf_counter() - began
        broken = [*submitters.broken, *_not_once(shop.db, submitters, n)]
        for worker in workers:
            worker.end()  # whatever it does: the auditor reads a database that stands still
        broken += shop.audit()
    figures = {
        "submit": seconds(submitters.latencies),
        "requests": f"{len(submitters.latencies) / lasted:.0f}/s",
        "5xx": str(sum(" 5" in each[:12] for each in submitters.broken)),
    }
    target = at_most(WANTED[place.kind], p95(submitters.latencies), name="95 % of the answers", unit=" s")
    failed = min(n, len(broken))
    return Row(n=n, unit="keys", broken=tuple(broken), failed=failed, figures=figures, targets=(target,))


def _body(dataset_id: str) -> bytes:
    request = {
        "kind": "train",
        "dataset": dataset_id,
        "model": "toy",
        "network": NETWORK,
        "training": {"epochs": 1, "batch_size": 50},
    }
    return json.dumps(request).encode()


def _not_once(db: Database, submitters: Submitters, n: int) -> list[str]:
    """A sentence for each key without exactly one job, and each job without a key."""
    with db.read() as session:
        stored = set(session.scalars(select(JobRow.id).where(JobRow.owner_id == ANYONE.owner_id)))
    said = [f"{key} has the jobs {sorted(ids)}" for key, ids in submitters.accepted.items() if len(ids) != 1]
    told = {job_id for ids in submitters.accepted.values() for job_id in ids}
    said += [f"{job_id} was promised and is not there" for job_id in sorted(told - stored)]
    said += [f"{job_id} was promised to nobody" for job_id in sorted(stored - told)]
    return said + ([] if len(stored) == n else [f"{len(stored)} jobs of {n} keys"])


SCENARIO = Scenario(
    id="T3",
    fault=f"{CLIENTS} clients submit without a pause, every request twice under its Idempotency-Key, beside {WORKERS} "
    "workers.",
    promise="As many jobs as keys, and no answer but 202.",
    run=run,
    quick=QUICK,
    full=FULL,
)
