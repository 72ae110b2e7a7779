"""Answers that are not a success, turned back into the exceptions of `gammabeta.errors`.

application/problem+json ──code──► the class with that code ──no such code──► the class of the status
httpx.RequestError       ────────► ServiceUnreachable
"""

from __future__ import annotations

import json

import httpx
from pydantic import ValidationError

from gammabeta import errors
from gammabeta.errors import FieldError, GammabetaError
from gammabeta.schemas.problems import Problem, shortened

_BY_STATUS: dict[int, type[GammabetaError]] = {
    400: errors.MalformedRequest,
    401: errors.Unauthorized,
    403: errors.Forbidden,
    404: errors.NotFound,
    406: errors.NotAcceptable,
    408: errors.TooSlow,
    409: errors.Conflict,
    413: errors.TooLarge,
    415: errors.UnsupportedMediaType,
    422: errors.InvalidRequest,
    429: errors.NotReady,
    500: errors.ServiceFault,
    503: errors.NotReady,
    507: errors.NoSpace,
}

MAX_WAIT = 30.0
"""The longest pause in seconds that a Retry-After can ask of this client."""


def of(response: httpx.Response) -> GammabetaError:
    """The exception that a response stands for. Its body must have been read."""
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        return _foreign(response)
    cls = _by_code().get(problem.code) or _BY_STATUS.get(response.status_code, GammabetaError)
    return _revived(cls, problem, response)


def retry_after(response: httpx.Response, *, default: float) -> float:
    """Seconds to wait before the request is sent again."""
    try:
        asked = float(response.headers.get("Retry-After", default))
    except ValueError:
        asked = default
    return min(asked, MAX_WAIT) if asked >= 0 else default


def sentence(field: FieldError) -> str:
    """A wrong field, readable aloud. What is required was not received, which is not null."""
    if field.received is None and field.message.startswith("is required"):
        return f"{field.field}: {field.message}"
    end = "" if field.message.endswith((".", ")")) else "."
    return f"{field.field}: {field.message}{end} Received: {json.dumps(field.received, ensure_ascii=False)}."


def unreachable(error: httpx.RequestError, url: str) -> errors.ServiceUnreachable:
    """The exception for an answer that never came."""
    reason = "no answer in time" if isinstance(error, httpx.TimeoutException) else str(error) or type(error).__name__
    return errors.ServiceUnreachable(
        f"A gammabeta service must answer at {url}. Received: {reason}. "
        "Start one with `gammabeta up`, or set its address with --url or GAMMABETA_URL."
    )


def _by_code() -> dict[str, type[GammabetaError]]:
    return {cls.code: cls for cls in errors.classes()}


def _revived(cls: type[GammabetaError], problem: Problem, response: httpx.Response) -> GammabetaError:
    if issubclass(cls, errors.InvalidRequest):
        fields = tuple(FieldError(**each.model_dump()) for each in problem.errors)
        return cls("\n".join(map(sentence, fields)) or problem.detail, errors=fields)
    if issubclass(cls, errors.DatasetInvalid):
        return cls(problem.code, problem.detail)
    error = cls(problem.detail)
    if isinstance(error, errors.NotReady):
        error.retry_after = retry_after(response, default=error.retry_after)
    return error


def _foreign(response: httpx.Response) -> GammabetaError:
    """Something between here and the service answered, or the address belongs to another program."""
    text = shortened(" ".join(response.text.split()))
    cls = errors.NotReady if response.status_code in (502, 503, 504) else GammabetaError
    return cls(
        f"gammabeta must answer at {response.request.url}. Received: HTTP {response.status_code} {text}. "
        "Check that the address is that of a gammabeta service, and any proxy before it."
    )
