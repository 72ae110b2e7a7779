"""The workers, for people to look at: what runs where, and who has fallen silent."""

from __future__ import annotations

from fastapi import APIRouter

from gammabeta.schemas.workers import Worker, WorkerSlot
from gammabeta.store import workers
from gammabeta.store.tables import WorkerRow, moment, now_ms
from service.dependencies import Ctx
from service.pages import Page, page_of

router = APIRouter(prefix="/v1/workers", tags=["operations"])


@router.get("")
def list_workers(context: Ctx) -> Page[Worker]:
    """All workers at once, the oldest first. One that ended without a word stays for ten leases, as `silent`."""
    with context.database.read() as session:
        now = session.scalars(now_ms().select()).one()
        silent_since = now - round(context.settings.lease_seconds * 1_000)
        shown = [_shown(row, silent_since) for row in workers.find(session)]
    return page_of(shown, len(shown), lambda worker: worker.id)


def _shown(row: WorkerRow, silent_since: int) -> Worker:
    return Worker(
        id=row.id,
        hostname=row.hostname,
        pid=row.pid,
        slots=_slots(row),
        started_at=moment(row.started_ms),
        last_heartbeat=moment(row.beat_ms),
        silent=row.beat_ms < silent_since,
    )


def _slots(row: WorkerRow) -> tuple[WorkerSlot, ...]:
    """Those of its devices in their order, then the others, which run on the CPU."""
    devices = {f"train-{rank}": device for rank, device in enumerate(row.devices)}
    names = [*devices, *sorted(row.slots.keys() - devices.keys())]
    return tuple(WorkerSlot(name=name, device=devices.get(name, "cpu"), job=row.slots.get(name)) for name in names)
