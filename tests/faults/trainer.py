"""A trainer that does what the metadata of its job say: `fault` in its first attempt, `fault_always` in each."""

from __future__ import annotations

from multiprocessing.connection import Connection

from gammabeta import failpoints
from tests.faults.sabotage import planned
from worker import messages, trainer


class Overheard:
    """The pipe to the supervisor; the job is looked at as it comes by."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.send_bytes = connection.send_bytes

    def recv_bytes(self) -> bytes:
        data = self._connection.recv_bytes()
        order = messages.decode_order(data)
        if isinstance(order, messages.JobFile):
            said = order.request.metadata
            plan = said.get("fault_always") or (said.get("fault") if order.fence == 1 else None)
            if plan:
                failpoints.arm(planned(plan))
        return data


def main(connection: Connection) -> None:
    trainer.main(Overheard(connection))  # type: ignore[arg-type]
