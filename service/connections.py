"""Connections with more than one request on their way: all of them hear that the client is gone.

    client ──GET …/events, GET /healthz──► cycle 1, runs │ cycle 2, waits
           ──closes, or sends what is no HTTP──► uvicorn tells cycle 2 │ here: cycle 1 too

Told nothing, the first would write to a connection that is closed, which is an error of the loop and a traceback in the
log for each such request; and a stream that has nothing to write would never end.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle


class Connection(HttpToolsProtocol):
    """uvicorn's own, which knows the last of its requests only."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._asked: WeakSet[RequestResponseCycle] = WeakSet()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self.cycle is not None:
            self._asked.add(self.cycle)

    def send_400_response(self, msg: str) -> None:
        super().send_400_response(msg)
        self._tell()

    def connection_lost(self, exc: Exception | None) -> None:
        self._tell()
        super().connection_lost(exc)

    def _tell(self) -> None:
        for cycle in self._asked:
            if not cycle.response_complete:
                cycle.disconnected = True
            cycle.message_event.set()
