"""Errors on the wire, from one table: the class of an error gives the status, its `code` and message give the rest.

domain error ──STATUS──► problem ──► application/problem+json
router's 404, 405 ─┘        ▲
pydantic's errors ─► InvalidRequest
anything else ─────► ServiceFault, and a line in the log
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match

from gammabeta import errors, logs
from gammabeta.errors import GammabetaError
from gammabeta.schemas.problems import Problem, ProblemField, invalid

MEDIA_TYPE = "application/problem+json"

STATUS: dict[type[GammabetaError], int] = {
    errors.GammabetaError: 500,
    errors.MalformedRequest: 400,
    errors.NotFound: 404,
    errors.DatasetNotFound: 404,
    errors.JobNotFound: 404,
    errors.ModelNotFound: 404,
    errors.VersionNotFound: 404,
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
    errors.QueueFull: 429,
    errors.QuotaExceeded: 429,
    errors.NoSpace: 507,
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
    app.add_exception_handler(Exception, _bug)


def of(error: GammabetaError) -> Response:
    """The problem that an error of the tree is."""
    code = error.reason if isinstance(error, errors.DatasetInvalid) else error.code
    fields = error.errors if isinstance(error, errors.InvalidRequest) else ()
    headers = {"Retry-After": f"{max(1, round(error.retry_after))}"} if isinstance(error, errors.NotReady) else {}
    return respond(
        STATUS[type(error)],
        code,
        error.message,
        fields=tuple(
            ProblemField(field=each.field, message=each.message, received=each.received, code=each.code)
            for each in fields
        ),
        headers=headers,
    )


def respond(
    status: int,
    code: str,
    detail: str,
    *,
    fields: tuple[ProblemField, ...] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A problem document (RFC 9457)."""
    problem = Problem(
        type=f"urn:gammabeta:problem:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        code=code,
        detail=detail,
        errors=fields,
    )
    return Response(problem.model_dump_json(), status, headers, MEDIA_TYPE)


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
    """The client went away while it was sending. 499 is what nginx logs then; nobody reads this."""
    return Response(status_code=499)


async def _bug(request: Request, error: Exception) -> Response:
    """The server logs the traceback after this; here is the line that says which request it was."""
    logs.get(__name__).error("unexpected error", method=request.method, path=request.url.path, error=repr(error))
    return of(errors.ServiceFault())
