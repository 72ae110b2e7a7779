"""Errors on the wire, from one table: the class of an error gives the status, its `code` and message give the rest.

domain error ──STATUS──► problem ──► application/problem+json
router's 404, 405 ─┘        ▲
pydantic's errors ─► InvalidRequest
anything else ─────► ServiceFault, and a line in the log

Under /v2 the same errors are said in the form of the Open Inference Protocol: {"error": "…"}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from gammabeta import errors, logs
from gammabeta.errors import GammabetaError
from gammabeta.schemas.problems import Problem, ProblemField, invalid

MEDIA_TYPE = "application/problem+json"

STATUS: dict[type[GammabetaError], int] = {
    errors.GammabetaError: 500,
    errors.MalformedRequest: 400,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.DatasetNotFound: 404,
    errors.JobNotFound: 404,
    errors.KeyNotFound: 404,
    errors.ModelNotFound: 404,
    errors.VersionNotFound: 404,
    errors.NotAcceptable: 406,
    errors.TooSlow: 408,
    errors.Conflict: 409,
    errors.WrongState: 409,
    errors.IdempotencyConflict: 409,
    errors.NameTaken: 409,
    errors.TooLarge: 413,
    errors.UnsupportedMediaType: 415,
    errors.InvalidRequest: 422,
    errors.NotSupported: 422,
    errors.DatasetInvalid: 422,
    errors.NotReady: 503,
    errors.ArtifactCorrupt: 503,
    errors.TooLargeToServe: 503,
    errors.Overloaded: 429,
    errors.QueueFull: 429,
    errors.QuotaExceeded: 429,
    errors.TooOften: 429,
    errors.NoSpace: 507,
    errors.ProjectFull: 507,
    errors.JobFailed: 500,
    errors.ServiceUnreachable: 500,
    errors.ServiceFault: 500,
}
"""The last of the 500s is the service's own; the others are raised by clients and would be a bug here."""


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem."""
    app.add_exception_handler(GammabetaError, _domain_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _router_error)
    app.add_exception_handler(ClientDisconnect, _nobody_listens)
    app.add_exception_handler(Exception, bug)


def of(error: GammabetaError) -> Response:
    """The problem that an error of the tree is."""
    code = error.reason if isinstance(error, errors.DatasetInvalid) else error.code
    fields = error.errors if isinstance(error, errors.InvalidRequest) else ()
    return respond(
        STATUS[type(error)],
        code,
        error.message,
        fields=tuple(
            ProblemField(field=each.field, message=each.message, received=each.received, code=each.code)
            for each in fields
        ),
        headers=_headers(error),
    )


def _headers(error: GammabetaError) -> dict[str, str]:
    match error:
        case errors.NotReady():
            return {"Retry-After": f"{max(1, round(error.retry_after))}"}
        case errors.Unauthorized():
            return {"WWW-Authenticate": "Bearer"}
    return {}


def respond(
    status: int,
    code: str,
    detail: str,
    *,
    fields: tuple[ProblemField, ...] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The error on the wire."""
    problem = Problem(
        type=f"urn:gammabeta:problem:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        code=code,
        detail=detail,
        errors=fields,
    )
    return ProblemResponse(problem, headers)


class ProblemResponse(Response):
    """A problem document (RFC 9457); under /v2 the error of the Open Inference Protocol. The address decides, here and
    nowhere else, so that middleware, the router and routes all speak as the client expects."""

    def __init__(self, problem: Problem, headers: Mapping[str, str] | None) -> None:
        super().__init__(problem.model_dump_json(), problem.status, headers, MEDIA_TYPE)
        self._problem, self._extra = problem, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if of_protocol(scope["path"]):
            # The protocol has 400 where HTTP would let the fields of a request be told from its syntax.
            status = 400 if self.status_code == 422 else self.status_code
            content = orjson.dumps({"error": _in_one_text(self._problem)})
            await Response(content, status, self._extra, "application/json")(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def of_protocol(path: str) -> bool:
    """Whether the Open Inference Protocol is spoken at this address."""
    return path == "/v2" or path.startswith("/v2/")


def _in_one_text(problem: Problem) -> str:
    """The detail, and what was received, for which the protocol has no place of its own."""
    if not problem.errors:
        return problem.detail
    return "; ".join(
        f"{each.field}: {each.message}" + (f". Received: {each.received}" if each.received is not None else "")
        for each in problem.errors
    )


async def _domain_error(_: Request, error: Exception) -> Response:
    return of(error if isinstance(error, GammabetaError) else errors.ServiceFault())


async def _validation_error(_: Request, error: Exception) -> Response:
    """Of query, path and headers: the part of the request that pydantic names first is left out of the field."""
    details: Sequence[Any] = error.errors() if isinstance(error, RequestValidationError) else ()
    return of(invalid([each | {"loc": tuple(each["loc"])[1:]} for each in details]))


async def _router_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    match status:
        case 404:
            return of(errors.NotFound())
        case 405:
            allowed = headers["Allow"] = ", ".join(_methods(request))
            detail = f"{request.method} is not possible here. Use {allowed.replace(', ', ' or ')}."
            return respond(405, "method_not_allowed", detail, headers=headers)
        case _:
            return respond(status, errors.MalformedRequest.code if status < 500 else "error", str(error))


def _methods(request: Request) -> list[str]:
    """All that this path takes; the router names those of the first route that it finds."""
    routes = request.app.routes
    asked = {method: {**request.scope, "method": method} for method in ("DELETE", "GET", "HEAD", "POST", "PUT")}
    return [each for each, scope in asked.items() if any(route.matches(scope)[0] is Match.FULL for route in routes)]


async def _nobody_listens(_: Request, __: Exception) -> Response:
    return nobody_listens()


def nobody_listens() -> Response:
    """The client went away. 499 is what nginx logs then; nobody reads this."""
    return Response(status_code=499)


async def bug(request: Request, error: Exception) -> Response:
    """Of an error that nobody foresaw. The server logs the traceback after this; here is the line that says which
    request it was."""
    logs.get(__name__).error("unexpected error", method=request.method, path=request.url.path, error=repr(error))
    return of(errors.ServiceFault())
