"""The way to the hot endpoints: from the body limits straight to them, past FastAPI with its router, dependencies and
exit stacks.

    POST ──path of an endpoint──► admit ──► endpoint(request, caller, …) ──► Response
     └──any other──► FastAPI

FastAPI spends some 300 µs on what a prediction needs nothing of, about as long as all else that one takes. The routes
stand in its router as well, for the description of the API and for what is no POST.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from re import Pattern
from typing import TypeAlias

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from gammabeta.errors import GammabetaError
from service import problems

Admit: TypeAlias = Callable[[Request], object]
"""Who asks. Raises an error of gammabeta for a request that must not go on."""
Endpoint: TypeAlias = Callable[..., Awaitable[Response]]
"""Takes the request, who asks, and what stands in its path by name."""


@dataclass(frozen=True)
class Shortcut:
    """What stands for a route of FastAPI's: whoever asks a scope for its route finds the path in either."""

    path: str
    pattern: Pattern[str]
    endpoint: Endpoint


class Shortcuts:
    """ASGI: answers POST requests to the endpoints, by their paths such as `/v1/models/{name}/predict`, where `admit`
    lets them pass."""

    def __init__(self, app: ASGIApp, endpoints: Mapping[str, Endpoint], *, admit: Admit) -> None:
        self.app, self._admit = app, admit
        self._shortcuts = [Shortcut(path, compile_path(path)[0], endpoint) for path, endpoint in endpoints.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            for shortcut in self._shortcuts:
                if found := shortcut.pattern.match(scope["path"]):
                    scope["route"] = shortcut
                    response = await self._response(shortcut.endpoint, Request(scope, receive), found.groupdict())
                    await response(scope, receive, send)
                    return
        await self.app(scope, receive, send)

    async def _response(self, endpoint: Endpoint, request: Request, named: Mapping[str, str]) -> Response:
        try:
            return await endpoint(request, self._admit(request), **named)
        except GammabetaError as error:
            response = problems.of(error)
            _let_go(error)
            return response
        except ClientDisconnect:
            return problems.nobody_listens()


def _let_go(error: BaseException) -> None:
    """An error that came through a future may be in a ring with it. What its frames and causes hold, such as the body,
    would be kept until the garbage collector next looks at everything: seldom, since it counts objects, not bytes."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
