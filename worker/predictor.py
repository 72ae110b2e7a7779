"""The child that answers a data set: one process, one attempt. Like a trainer it has no database, no key and no
settings; all it knows is its order.

receive the order ──► predict ──► Answered | Failed ──► end of the process
"""

from __future__ import annotations

from multiprocessing.connection import Connection

from worker import orders
from worker.failures import PREDICTION
from worker.link import Link
from worker.messages import PredictFile
from worker.predicting import predict


def main(connection: Connection) -> None:
    """Answer one data set; `connection` is the pipe to the supervisor."""
    # Small numbers stay what they are, unlike in a trainer: the service, which answers by the same version, keeps them.
    orders.take(connection, PredictFile, run)


def run(order: PredictFile, link: Link) -> None:
    """Predict, and tell how it ended."""
    orders.carry_out(order, link, predict, PREDICTION)
