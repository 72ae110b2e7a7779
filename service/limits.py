"""How large a body may be: checked on Content-Length before a byte is read, and counted while it is read.

predict, infer ≤ 64 MiB      POST /v1/datasets ≤ 2 GiB      everything else ≤ 1 MiB
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gammabeta.errors import MalformedRequest, TooLarge
from service import problems
from service.settings import ServiceSettings


class BodyLimits:
    """ASGI: refuses bodies over the limit of their route with 413. Nothing is ever buffered here."""

    def __init__(self, app: ASGIApp, settings: ServiceSettings) -> None:
        self.app = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = limit_of(scope["method"], scope["path"], self.settings)
        declared = Headers(scope=scope).get("content-length")
        if declared is not None and not (declared.isascii() and declared.isdecimal() and len(declared) < 20):
            refusal = problems.of(MalformedRequest("Content-Length must be a whole number."))
            await refusal(scope, receive, _closing(send))
        elif declared is not None and int(declared) > limit:
            await problems.of(_too_large(limit, int(declared)))(scope, receive, _closing(send))
        else:
            await self.app(scope, _counted(receive, limit), _closing_on_413(send))


def limit_of(method: str, path: str, settings: ServiceSettings) -> int:
    """Bytes that the body of a request may have."""
    if path.endswith("/predict") or (path.startswith("/v2/") and path.endswith("/infer")):
        return settings.max_predict_bytes
    if (method, path) == ("POST", "/v1/datasets"):
        return settings.max_upload_bytes
    return settings.max_json_bytes


def _too_large(limit: int, received: int | None = None) -> TooLarge:
    got = f"{received:,}" if received is not None else "more"
    return TooLarge(f"The body must have at most {limit:,} bytes. Received: {got}. Send less at once.")


def _counted(receive: Receive, limit: int) -> Receive:
    received = 0

    async def counting() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise _too_large(limit)
        return message

    return counting


def _closing(send: Send) -> Send:
    """Without this the server would go on to read, and throw away, all that the client still wants to send."""

    async def closing(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        await send(message)

    return closing


def _closing_on_413(send: Send) -> Send:
    closing = _closing(send)

    async def choosing(message: Message) -> None:
        too_large = message["type"] == "http.response.start" and message["status"] == 413
        await (closing if too_large else send)(message)

    return choosing
