"""POSTs that create: 202 with a Location, and the first answer again under the same Idempotency-Key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from fastapi.responses import Response

from gammabeta.store import idempotency
from gammabeta.store.engine import Session
from service.keyring import Caller

CREATED: dict[str, Any] = {
    "headers": {"Location": {"required": True, "schema": {"type": "string"}, "description": "Where to look at it."}}
}
"""How `accepted` is described."""


def given(session: Session, caller: Caller, key: str | None, request_hash: str) -> dict[str, Any] | None:
    """What was answered when the request came under this key before. It may be asked where nothing can be written; None
    is no promise that `once` will have to create.

    Raises:
        IdempotencyConflict: the key came with another request.
    """
    stored = None if key is None else idempotency.peek(session, caller.project_id, caller.owner_id, key, request_hash)
    return None if stored is None else stored.body


def once(
    session: Session, caller: Caller, key: str | None, request_hash: str, create: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """What `create` answers, or what it answered when the request came under this key before.

    Raises:
        IdempotencyConflict: the key came with another request.
    """
    if key is None:
        return create()
    stored = idempotency.find(session, caller.project_id, caller.owner_id, key, request_hash)
    if stored is not None:
        return stored.body
    answer = create()
    idempotency.remember(session, caller.project_id, caller.owner_id, key, status=202, body=answer)
    return answer


def accepted(answer: dict[str, Any], location: str) -> Response:
    """The answer to a request whose work goes on."""
    return Response(orjson.dumps(answer), 202, {"Location": location}, "application/json")
