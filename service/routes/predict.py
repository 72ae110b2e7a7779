"""Predictions: the hot path. No database, no pydantic, no thread of FastAPI's, and no router: see `shortcuts.py`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, TypeAlias

from fastapi import APIRouter, Query
from fastapi.responses import Response
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import QueryParams
from starlette.requests import Request as HttpRequest

from gammabeta.errors import InvalidRequest
from gammabeta.schemas.base import Name, Request
from gammabeta.schemas.predictions import Predictions
from gammabeta.schemas.problems import invalid
from service.access import By
from service.bodies import whole
from service.dependencies import Named, context_of
from service.headers import header
from service.keyring import Caller
from service.runtime import answers, images, media
from service.shortcuts import Endpoint

router = APIRouter(prefix="/v1/models", tags=["models"])


Address: TypeAlias = tuple[str, str | None, str | None]
"""Model, version and alias."""


class PredictQuery(Request):
    """Which version answers."""

    version: Name | None = None
    alias: Name | None = None


KEPT_BYTES = 256
"""Of the query of an address that is read once and remembered."""
_NAME: TypeAdapter[str] = TypeAdapter(Name)


_TEXT, _BINARY = {"schema": {"type": "string"}}, {"schema": {"type": "string", "format": "binary"}}


@router.post(
    "/{name}/predict",
    response_model=Predictions,
    responses={200: {"content": {answers.CSV: _TEXT, answers.BYTES: _BINARY}}},
    openapi_extra={
        "requestBody": {"content": {answers.CSV: _TEXT, **dict.fromkeys(images.MEDIA_TYPES, _BINARY)}},
    },
)
async def predict(
    name: Named,
    request: HttpRequest,
    caller: By,
    query: Annotated[PredictQuery, Query()],  # noqa: ARG001
) -> Response:
    """Predict rows of raw values in eval mode. Without `version` or `alias`: the alias `production` if it is set, else
    the newest version. A table's rows may come as CSV with a header row, an image as the file itself. `Accept` asks for
    the answer as CSV, or for the scores alone as float32."""
    return await answer(request, caller, name)


async def answer(request: HttpRequest, caller: Caller, name: str) -> Response:
    """The same, for a request that nobody has looked at yet."""
    context = context_of(request)
    content_type, accept = header(request.scope, b"content-type"), header(request.scope, b"accept")
    read, write = media.reader(content_type), media.writer(accept)
    asked = addressed(name, request.scope["query_string"])
    body = await whole(request.receive)
    loaded = await context.models.get(caller.project_id, *asked)
    answered = await context.predictor.predict(loaded, body, read=read, write=write, receive=request.receive)
    return Response(answered.body, headers=dict(answered.headers), media_type=answered.media_type)


def addressed(name: str, query: bytes) -> Address:
    """Model, version and alias of an address.

    Raises:
        InvalidRequest: they are no names, or more is asked than that.
    """
    # Thousands of them are kept, and one that repeats itself may have as many bytes as the server takes.
    return _kept(name, query) if len(query) <= KEPT_BYTES else _addressed(name, query)


def _addressed(name: str, query: bytes) -> Address:
    try:
        _NAME.validate_python(name)
    except ValidationError as exc:
        raise invalid([each | {"loc": ("name",)} for each in exc.errors()]) from exc
    try:
        found = PredictQuery.model_validate(dict(QueryParams(query)))
    except ValidationError as exc:
        raise invalid(exc) from exc
    if found.version is not None and found.alias is not None:
        raise InvalidRequest.of("alias", "must be left out where 'version' is given", found.alias)
    return name, found.version, found.alias


_kept = lru_cache(4_096)(_addressed)

ENDPOINTS: Mapping[str, Endpoint] = {"/v1/models/{name}/predict": answer}
"""Answered before the router is asked."""
