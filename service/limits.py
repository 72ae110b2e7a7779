"""How large a body may be, and how slow: checked on Content-Length before a byte is read, and while it is read.

predict, infer        ≤ 64 MiB    ≤ 60 s
POST /v1/datasets     ≤ 2 GiB     no pause of more than 60 s
everything else       ≤ 1 MiB     ≤ 60 s
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gammabeta.errors import MalformedRequest
from service import problems
from service.arriving import Arriving, too_large
from service.headers import header
from service.settings import ServiceSettings

UNREAD = (408, 413)
"""The answers that come before the body has."""
BEFORE_READING = (401, 403, 429, 507)
"""Those that mostly do."""


class BodyLimits:
    """ASGI: refuses bodies over the limit of their route with 413, and those that do not come in time with 408."""

    def __init__(self, app: ASGIApp, settings: ServiceSettings) -> None:
        self.app = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit, in_all = limit_of(scope["method"], scope["path"], self.settings)
        declared = header(scope, b"content-length")
        if declared is not None and not (declared.isascii() and declared.isdecimal() and len(declared) < 20):
            refusal = problems.of(MalformedRequest("Content-Length must be a whole number."))
            await refusal(scope, receive, _closing(send))
        elif declared is not None and int(declared) > limit:
            await problems.of(too_large(limit, int(declared)))(scope, receive, _closing(send))
        else:
            arriving = Arriving(receive, limit=limit, seconds=self.settings.body_seconds, in_all=in_all)
            await self.app(scope, arriving.receive, _answering(send, arriving, has_body=_has_body(scope)))


def limit_of(method: str, path: str, settings: ServiceSettings) -> tuple[int, bool]:
    """Bytes that the body of a request may have, and whether its time is for all of them or for a pause."""
    if path.endswith("/predict") or (path.startswith("/v2/") and path.endswith("/infer")):
        return settings.max_predict_bytes, True
    if path == "/v1/datasets" and method == "POST":
        return settings.max_upload_bytes, False
    return settings.max_json_bytes, True


def _has_body(scope: Scope) -> bool:
    return header(scope, b"content-length") not in (None, "0") or header(scope, b"transfer-encoding") is not None


def _closing(send: Send) -> Send:
    """Without this the server would go on to read, and throw away, all that the client still wants to send."""

    async def closing(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        await send(message)

    return closing


def _answering(send: Send, arriving: Arriving, *, has_body: bool) -> Send:
    closing = _closing(send)

    async def choosing(message: Message) -> None:
        if message["type"] == "http.response.start":
            unread, arriving.settled = has_body and not arriving.settled, True
            if message["status"] in UNREAD or (unread and message["status"] in BEFORE_READING):
                await closing(message)
                return
        await send(message)

    return choosing
