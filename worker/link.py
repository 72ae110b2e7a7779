"""The end of the pipe to its supervisor that a trainer, or a predictor, has.

A thread reads, so that a wish to stop is known between two steps for the price of reading an attribute, and so that
the process ends at once when the supervisor does, whatever the training is doing.
"""

from __future__ import annotations

import os
import threading
from multiprocessing.connection import Connection
from typing import TypeVar

from worker import messages

OrderT = TypeVar("OrderT", messages.JobFile, messages.PredictFile)


class StopRequested(Exception):
    """The supervisor wants the training to stop."""

    def __init__(self, why: messages.StopReason) -> None:
        self.why = why
        super().__init__(why)


class Link:
    """Reports go out, a wish to stop comes in."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.stop: messages.StopReason | None = None

    def receive(self, kind: type[OrderT]) -> OrderT:
        """The first message; what follows it is read by a thread from here on."""
        order = messages.decode_order(self._connection.recv_bytes())
        if not isinstance(order, kind):
            raise ValueError(f"the first message must be a {kind.__name__}. Received: {order.type}")
        threading.Thread(target=self._listen, name="link", daemon=True).start()
        return order

    def send(self, report: messages.Report) -> None:
        self._connection.send_bytes(messages.encode(report))

    def check(self) -> None:
        """Raises `StopRequested` if a stop was asked for."""
        if self.stop is not None:
            raise StopRequested(self.stop)

    def _listen(self) -> None:
        try:
            while True:
                order = messages.decode_order(self._connection.recv_bytes())
                if isinstance(order, messages.Stop) and self.stop != "cancel":
                    self.stop = order.why
        except (EOFError, OSError):
            os._exit(1)  # the supervisor is gone; no one is left to report to
