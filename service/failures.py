"""How operations fail, for their description: by what they are, so that one that is added says it too.

    every one                    400 401 403 503
    one with a name in its path  404
    one with parameters          422   (400 under /v2, as the protocol has it)
    one that takes a body        408 413 415 422
    one of /v1 that changes      409 507

What else may come stands in `MORE`. A 500 is on no list: it would be a bug.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from service import access
from service.problems import MEDIA_TYPE, of_protocol

ALWAYS = frozenset({400, 403})
"""The Host is foreign, the Content-Length no number; the Origin is foreign."""
GUARDED = frozenset({401, 503})
"""Nobody is let in without a key; the database, which knows the keys, does not answer."""
OF_BODY = frozenset({408, 413, 415, 422})
OF_CHANGE = frozenset({409, 507})
QUEUED = frozenset({404, 429})
"""What it names is not there; the queue is full, or one key submits too often."""
LOADING = frozenset({507})
"""The disk is full on which files of a bucket are kept."""
WAITING = LOADING | {429}
"""Too many wait already."""
MORE: Mapping[str, Collection[int]] = {
    "readyz": (503,),
    "upload_dataset": QUEUED,
    "preview_dataset": LOADING | {409},
    "submit_job": QUEUED,
    "retry_job": (429,),
    "predict": WAITING | {406},
    "infer": WAITING,
    "infer_of_version": WAITING,
    "model_ready": LOADING,
    "model_ready_of_version": LOADING,
    "load_model": LOADING,
    "get_served": LOADING,
    "get_file": LOADING,
    "get_job_file": LOADING,
}
"""By the name of the route."""
MEANINGS: Mapping[int, str] = {
    400: "It cannot be read as what it says it is, or its Host is none of this service's.",
    401: "A key is needed that works.",
    403: "The key does not allow it, or a page from elsewhere asks.",
    404: "What it names is not there.",
    406: "No media type that Accept welcomes is answered here.",
    408: "The body did not come in time.",
    409: "What is there is not in a state for it.",
    413: "The body is too large.",
    415: "The body is of a media type that is not read here.",
    422: "It can be read, and a field is wrong: `errors` names each.",
    429: "Too many wait already, or one key asks too often.",
    503: "Something that is needed does not answer, or cannot be used.",
    507: "The disk is full, or the project has as many bytes as it may.",
}
RETRY_AFTER = {
    "Retry-After": {
        "description": "After how many seconds to ask again, where that is known.",
        "schema": {"type": "integer", "minimum": 1},
    }
}
HEADERS: Mapping[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": {"required": True, "schema": {"const": "Bearer"}}},
    429: RETRY_AFTER,
    503: RETRY_AFTER,
}


def of(path: str, method: str, operation: Mapping[str, Any]) -> dict[str, Any]:
    """The responses of an operation, by status: each a reference to one of `responses`."""
    protocol = of_protocol(path)
    return {
        str(status): {"$ref": f"#/components/responses/{_name(status, protocol)}"}
        for status in sorted(_statuses(path, method, operation, protocol=protocol))
    }


def responses() -> dict[str, Any]:
    """What they refer to, for the components of the document."""
    return {_name(status, protocol): _response(status, protocol) for protocol in (False, True) for status in MEANINGS}


def _statuses(path: str, method: str, operation: Mapping[str, Any], *, protocol: bool) -> frozenset[int]:
    name = operation["operationId"]
    found = ALWAYS.union(MORE.get(name, ()))
    if path not in access.OPEN:
        found |= GUARDED
    if "{" in path:
        found |= {404}
    if operation.get("parameters"):
        found |= {422}
    if "requestBody" in operation:
        found |= OF_BODY
    if method != "get" and not protocol and name != "predict":
        found |= OF_CHANGE
    return found - {422} if protocol else found


def _name(status: int, protocol: bool) -> str:
    return f"Inference{status}" if protocol else f"Problem{status}"


def _response(status: int, protocol: bool) -> dict[str, Any]:
    media_type, schema = ("application/json", "InferenceError") if protocol else (MEDIA_TYPE, "Problem")
    described = {
        "description": MEANINGS[status] + ("" if protocol else " `code` is stable."),
        "content": {media_type: {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
    }
    return described | ({"headers": HEADERS[status]} if status in HEADERS else {})
