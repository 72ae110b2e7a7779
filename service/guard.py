"""Who may speak to the service from a browser: nobody but its own page.

A page of another site that the operator has open can send requests to 127.0.0.1, and by DNS rebinding even read the
answers (CVE-2025-62593, CVE-2026-27482). Two controls, on every method: the Host must be a name of this service, and an
Origin, where there is one, must be the service itself.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import problems
from service.headers import header

PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
}
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
RAW_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]


class Guard:
    """ASGI: checks Host and Origin, and sets the security headers."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self.app = app
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        await (refusal or self.app)(scope, receive, _with_headers(send, scope["path"]))

    def _refusal(self, scope: Scope) -> Response | None:
        host, origin = header(scope, b"host") or "", header(scope, b"origin")
        if _without_port(host) not in self.hosts:
            return problems.respond(
                400,
                "host_not_allowed",
                f"The Host header must be one of {', '.join(sorted(self.hosts))}. Received: {host[:200]!r}. "
                "Add the name to GAMMABETA_ALLOWED_HOSTS if it is one of this service.",
            )
        if origin is not None and _place(origin) != host.lower():
            return problems.respond(
                403,
                "foreign_origin",
                f"Requests of pages from elsewhere are refused. Received Origin: {origin[:200]!r}. "
                "Send the request from a program, or from the service's own page.",
            )
        return None


def _place(origin: str) -> str | None:
    """Host and port of an origin; None where it is no address."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _without_port(host: str) -> str:
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdecimal() else host.lower()


def _with_headers(send: Send, path: str) -> Send:
    of_page = path == "/ui" or path.startswith("/ui/")

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *RAW_HEADERS]}  # which nobody else sets
            if of_page:
                MutableHeaders(scope=message).update(PAGE_HEADERS)
        await send(message)

    return sending
