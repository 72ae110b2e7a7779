"""API keys: made, listed and revoked by who has the scope `admin`. `gammabeta keys` does the same in the database."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson
from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import ValidationError

from gammabeta.schemas.keys import Key, KeyRequest, NewKey
from gammabeta.schemas.problems import invalid
from gammabeta.store import keys
from service.access import By
from service.dependencies import Ctx, IdempotencyKey, JsonBody, Named, canonical
from service.pages import Page, page_of
from service.replays import once

router = APIRouter(prefix="/v1/keys", tags=["keys"])


@router.post("", status_code=201, response_model=NewKey)
def create_key(context: Ctx, caller: By, body: JsonBody, idempotency_key: IdempotencyKey = None) -> Response:
    """Make a key. The answer has the key itself, this once: the same request under the same Idempotency-Key makes no
    second one and answers `key: null`."""
    try:
        request = KeyRequest.model_validate(body)
    except ValidationError as exc:
        raise invalid(exc) from exc
    digest, text = hashlib.sha256(b"POST /v1/keys\n" + canonical(body)).hexdigest(), None

    def create() -> dict[str, Any]:
        """What may be stored of the answer."""
        nonlocal text
        made = keys.create(session, caller.project_id, request)
        text = made.key
        return made.model_dump(mode="json") | {"key": None}

    with context.database.write() as session:
        answer = once(session, caller, idempotency_key, digest, create)
    context.keyring.learn()
    return Response(orjson.dumps(answer | {"key": text}), 201, {"Cache-Control": "no-store"}, "application/json")


@router.get("")
def list_keys(context: Ctx, caller: By) -> Page[Key]:
    """All keys at once, the newest first, those too that do not work any more."""
    with context.database.read() as session:
        found = keys.find(session, caller.project_id)
    return page_of(found, len(found), lambda key: key.id)


@router.delete("/{key}", status_code=204)
def revoke_key(key: Named, context: Ctx, caller: By) -> None:
    """End a key for ever: here at once, on every other replica within two seconds."""
    with context.database.write() as session:
        keys.revoke(session, caller.project_id, key)
    context.keyring.learn()
