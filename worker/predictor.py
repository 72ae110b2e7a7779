"""The child that answers a data set: one process, one attempt. Like a trainer it has no database, no key and no
settings; all it knows is its order.

receive the order ──► predict ──► Answered | Failed ──► end of the process
"""

from __future__ import annotations

from multiprocessing.connection import Connection

from gammabeta import failpoints, logs
from gammabeta.failpoints import Failpoint
from worker import parentage
from worker.failures import PREDICTION, report_of
from worker.link import Link
from worker.messages import PredictFile
from worker.predicting import predict

log = logs.get(__name__)


def main(connection: Connection) -> None:
    """Answer one data set; `connection` is the pipe to the supervisor."""
    parentage.lead_own_session()
    parentage.die_with_parent()
    logs.set_up()
    link = Link(connection)
    run(link.receive(PredictFile), link)


def run(order: PredictFile, link: Link) -> None:
    """Predict, and tell how it ended."""
    failpoints.reached(Failpoint.JOB_RECEIVED)
    try:
        answered = predict(order, link)
    except Exception as error:
        log.exception("prediction failed", job=order.job_id, fence=order.fence)
        link.send(report_of(error, PREDICTION))
        return
    failpoints.reached(Failpoint.RESULT_UNREPORTED)
    link.send(answered)
