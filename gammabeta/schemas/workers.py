"""Workers: which programs run jobs, and on what."""

from __future__ import annotations

from datetime import datetime

from gammabeta.schemas.base import Answer


class WorkerSlot(Answer):
    """A place for one job at a time."""

    name: str
    """`train-0`, `train-1`, … for trainings; `light` for short work, such as reading an upload."""
    device: str
    """`cpu`, `cuda:0`, …"""
    job: str | None = None
    """The id of what it is running."""


class Worker(Answer):
    """A worker program. One that has stopped is not here."""

    id: str
    hostname: str
    pid: int
    slots: tuple[WorkerSlot, ...]
    started_at: datetime
    last_heartbeat: datetime
    silent: bool
    """It has not been heard of for longer than a lease lasts: killed, or cut off from the database."""
