"""The trainer: one process, one attempt. It has no database, no key and no settings; all it knows is its job file.

receive the job ──► train ──► Done | Stopped | Failed ──► end of the process
"""

from __future__ import annotations

from multiprocessing.connection import Connection

from gammabeta import failpoints, logs
from gammabeta.failpoints import Failpoint
from worker import device, parentage
from worker.failures import report_of
from worker.link import Link
from worker.messages import Done, JobFile
from worker.training import train

log = logs.get(__name__)


def main(connection: Connection) -> None:
    """Run one job; `connection` is the pipe to the supervisor."""
    parentage.lead_own_session()
    parentage.die_with_parent()
    logs.set_up()
    device.flush_denormals()
    link = Link(connection)
    run_job(link.receive(JobFile), link)


def run_job(job: JobFile, link: Link) -> None:
    """Train, and tell how it ended."""
    failpoints.reached(Failpoint.JOB_RECEIVED)
    try:
        result = train(job, link)
    except Exception as error:
        log.exception("training failed", job=job.job_id, fence=job.fence)
        link.send(report_of(error))
        return
    if result is not None:
        failpoints.reached(Failpoint.RESULT_UNREPORTED)
        link.send(Done(path=result))
