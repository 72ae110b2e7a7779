"""Parts of files: one range of each, or all of it.

    Range: bytes=0-99        ──► 206
    Range: bytes=0-9,5-20,…  ──► 200, all of the file, as RFC 9110 allows (14.2)

Many small or overlapping ranges in one header made servers do far more than they were asked for (CVE-2025-62727).
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from service.headers import header


class OneRange:
    """ASGI: whoever asks for several ranges at once is taken to have asked for all."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and "," in (header(scope, b"range") or ""):
            scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"range"]
        await self.app(scope, receive, send)
