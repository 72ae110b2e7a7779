"""What a request meets first: how many there were, and how long each took, by the template of its route.

    request ─► Traffic ─► Guard ─► …
                  └─ (route, method, status) ─► Seen: a count, seconds, a histogram

A route is told by its template, such as `/v1/jobs/{job_id}`, a method by its name if it is one of those that routes
have: what a client makes up never becomes a label.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
"""The bounds of the histogram. A small prediction takes about half a millisecond, an upload minutes."""
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE"))
NO_ROUTE, OTHER = "none", "other"
UNANSWERED = 500
"""What a server makes of a request that ended without an answer."""


class Kind(NamedTuple):
    """Requests that are counted together."""

    route: str
    method: str
    status: str
    """Its class: `2xx`."""


@dataclass(kw_only=True)
class Seen:
    """Requests of one kind."""

    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    """How many took at most the bound of the same place, and longer than the one before; the last: longer than all."""

    @property
    def count(self) -> int:
        return sum(self.buckets)

    def add(self, seconds: float) -> None:
        """One more."""
        self.seconds += seconds
        self.buckets[bisect_left(SECONDS, seconds)] += 1


class Traffic:
    """ASGI: counts requests. On the event loop only, so that nothing is lost and no lock is needed."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.uploaded = 0
        """Bytes of files that came, whether they were kept or not."""
        self._seen: dict[tuple[str, str, int], Seen] = {}

    @property
    def seen(self) -> list[tuple[Kind, Seen]]:
        """All since the process began. For any thread: what is read beside the counting is at most one request old."""
        return [
            (Kind(route, method, f"{status}xx"), each) for (route, method, status), each in list(self._seen.items())
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, start = UNANSWERED, time.perf_counter()

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            self._count(scope, status, time.perf_counter() - start)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"]
        key = (_template(scope), method if method in METHODS else OTHER, status // 100)
        seen = self._seen.get(key)
        if seen is None:
            seen = self._seen[key] = Seen()
        seen.add(seconds)


def _template(scope: Scope) -> str:
    """Of the route that took the request; of what is mounted, such as the page, the place. `none`: it came to none."""
    route = scope.get("route")
    if route is None:
        return scope["root_path"] if "app_root_path" in scope else NO_ROUTE  # which what is mounted has of the router
    path: str = getattr(route, "path", NO_ROUTE)
    return path
