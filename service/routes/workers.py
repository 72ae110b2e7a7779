"""The workers, for people to look at: what runs where, and who has fallen silent."""

from __future__ import annotations

from collections.abc import Collection

from fastapi import APIRouter

from gammabeta.schemas.workers import Worker, WorkerSlot
from gammabeta.store import listing, workers
from gammabeta.store.tables import WorkerRow, moment, now_ms
from service.access import By
from service.dependencies import Ctx
from service.pages import Page, page_of

router = APIRouter(prefix="/v1/workers", tags=["operations"])


@router.get("")
def list_workers(context: Ctx, caller: By) -> Page[Worker]:
    """All workers at once, the oldest first. One that ended without a word stays for ten leases, as `silent`. What
    another project runs is shown as nothing."""
    with context.database.read() as session:
        now = session.scalars(now_ms().select()).one()
        silent_since = now - round(context.settings.lease_seconds * 1_000)
        found = workers.find(session)
        running = [job for row in found for job in row.slots.values() if job is not None]
        own = listing.of_project(session, caller.project_id, running)
        shown = [_shown(row, silent_since, own) for row in found]
    return page_of(shown, len(shown), lambda worker: worker.id)


def _shown(row: WorkerRow, silent_since: int, own: Collection[str]) -> Worker:
    return Worker(
        id=row.id,
        hostname=row.hostname,
        pid=row.pid,
        slots=_slots(row, own),
        started_at=moment(row.started_ms),
        last_heartbeat=moment(row.beat_ms),
        silent=row.beat_ms < silent_since,
    )


def _slots(row: WorkerRow, own: Collection[str]) -> tuple[WorkerSlot, ...]:
    """Those of its devices in their order, then the others, which run on the CPU."""
    devices = {f"train-{rank}": device for rank, device in enumerate(row.devices)}
    names = [*devices, *sorted(row.slots.keys() - devices.keys())]
    jobs = {name: job for name, job in row.slots.items() if job in own}
    return tuple(WorkerSlot(name=name, device=devices.get(name, "cpu"), job=jobs.get(name)) for name in names)
