"""An order that a child of its own carries out: one process, one attempt.

receive the order ──► do it ──► the last report ──► end of the process
                        └── raises ──► Failed ──────────────┘
"""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.connection import Connection

from gammabeta import failpoints, logs
from gammabeta.failpoints import Failpoint
from worker import parentage
from worker.failures import Work, report_of
from worker.link import Link, OrderT
from worker.messages import Answered, Done

log = logs.get(__name__)


def take(connection: Connection, kind: type[OrderT], run: Callable[[OrderT, Link], None]) -> None:
    """The life of the child: `run` is given the one order, of this kind; `connection` is the pipe to the supervisor."""
    parentage.lead_own_session()
    parentage.die_with_parent()
    logs.set_up()
    link = Link(connection)
    run(link.receive(kind), link)


def carry_out(order: OrderT, link: Link, do: Callable[[OrderT, Link], Done | Answered | None], work: Work) -> None:
    """Do what was ordered, and tell how it ended: what `do` returns, or what it raised. None: it has told so itself."""
    failpoints.reached(Failpoint.JOB_RECEIVED)
    try:
        last = do(order, link)
    except Exception as error:
        log.exception(f"{work.name} failed", job=order.job_id, fence=order.fence)
        link.send(report_of(error, work))
        return
    if last is not None:
        failpoints.reached(Failpoint.RESULT_UNREPORTED)
        link.send(last)
