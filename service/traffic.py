"""What a request meets first: it gets an id, and is counted by the template of its route.

    request ─► Traffic ─► Guard ─► …
                  ├─ X-Request-Id ─► every line of the log that is written for it ─► X-Request-Id of the answer
                  └─ (route, method, status) ─► Seen: a count, seconds, a histogram

An id is the client's, if it is letters, digits and `._-` and not too long, so that it can be followed through proxies
and logs; else it is made here.

A route is told by its template, such as `/v1/jobs/{job_id}`, a method by its name if it is one of those that routes
have: what a client makes up never becomes a label.
"""

from __future__ import annotations

import re
import secrets
import time
from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gammabeta import logs

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
"""The bounds of the histogram. A small prediction takes about half a millisecond, an upload minutes."""
ID_HEADER = b"x-request-id"
_SANE = re.compile(rb"[A-Za-z0-9._-]{1,64}")
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE"))
PAGES = frozenset(("/docs", "/docs/oauth2-redirect", "/v1/openapi.json"))
"""Routes that are not FastAPI's and do not tell their template: each is its own."""
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
    """ASGI: names requests and counts them. On the event loop only, so that nothing is lost and no lock is needed."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.uploaded = 0
        """Bytes of files that came, whether they were kept or not."""
        self._prefix, self._numbers = secrets.token_hex(6).encode(), count(1)
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
        named = self._id(scope)
        logs.of_request(named.decode("ascii"))

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"].append((ID_HEADER, named))  # of a list of the guard's own
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            self._count(scope, status, time.perf_counter() - start)

    def _id(self, scope: Scope) -> bytes:
        for key, value in scope["headers"]:
            if key == ID_HEADER and _SANE.fullmatch(value):
                given: bytes = value
                return given
        return b"%b-%d" % (self._prefix, next(self._numbers))

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
    path: str = NO_ROUTE
    if route is not None:
        path = getattr(route, "path", NO_ROUTE)
    elif "app_root_path" in scope:  # which what is mounted has of the router
        path = scope["root_path"]
    elif scope["path"] in PAGES and "endpoint" in scope:
        path = scope["path"]
    return path
