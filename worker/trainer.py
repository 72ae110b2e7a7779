"""The trainer: one process, one attempt. It has no database, no key and no settings; all it knows is its job file.

receive the job ──► train ──► Done | Stopped | Failed ──► end of the process
"""

from __future__ import annotations

from multiprocessing.connection import Connection

from worker import device, orders
from worker.failures import TRAINING
from worker.link import Link
from worker.messages import Done, JobFile
from worker.training import train


def main(connection: Connection) -> None:
    """Run one job; `connection` is the pipe to the supervisor."""
    device.flush_denormals()
    orders.take(connection, JobFile, run_job)


def run_job(job: JobFile, link: Link) -> None:
    """Train, and tell how it ended."""
    orders.carry_out(job, link, _trained, TRAINING)


def _trained(job: JobFile, link: Link) -> Done | None:
    """None: it was stopped, and has said so."""
    result = train(job, link)
    return None if result is None else Done(path=result)
