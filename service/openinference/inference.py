"""POST …/infer: the hot path of the protocol, past the router as `/predict` is: see `service/shortcuts.py`.

body ──Content-Encoding──► reading ──► x ──runtime──► scores ──► answering ──Accept-Encoding──► body
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from starlette.requests import Request

from gammabeta.errors import ModelNotFound
from gammabeta.schemas.base import NAME_PATTERN
from gammabeta.schemas.inference import InferenceResponse
from gammabeta.schemas.problems import shortened
from service.access import By
from service.bodies import check_media_type, whole
from service.dependencies import Context, context_of
from service.headers import header
from service.keyring import Caller
from service.openinference import answering, codings, reading
from service.openinference.answering import Content
from service.runtime.loading import LoadedVersion
from service.runtime.pacing import Pace
from service.shortcuts import Endpoint

HEADER_LENGTH = "Inference-Header-Content-Length"
_HEADER_LENGTH = HEADER_LENGTH.lower().encode()
DEFLATED_MOST = 1_032
"""As many times as few bytes can be compressed: deflate has two bits for 258 bytes."""
INFLATING_NS = 3.0
"""For each byte that comes out."""

router = APIRouter(prefix="/models/{name}")

_BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_DESCRIBED: dict[str, Any] = {
    "response_model": InferenceResponse,
    "responses": {200: {"content": _BINARY}},
    "openapi_extra": {
        "requestBody": {
            "description": f"With `{HEADER_LENGTH}: n` the first n bytes are JSON, and raw tensors follow.",
            "content": _BINARY,
        }
    },
}


@router.post("/infer", **_DESCRIBED)
async def infer(name: str, request: Request, caller: By) -> Response:
    """Predict rows of raw values in eval mode, from tensors in JSON or after it. The alias `production` answers if it
    is set, else the newest version."""
    return await answer(request, caller, name)


@router.post("/versions/{version}/infer", **_DESCRIBED)
async def infer_of_version(name: str, version: str, request: Request, caller: By) -> Response:
    """Predict rows of raw values in eval mode, from tensors in JSON or after it."""
    return await answer(request, caller, name, version)


async def answer(request: Request, caller: Caller, name: str, version: str | None = None) -> Response:
    """The same, for a request that nobody has looked at yet."""
    check_media_type(request, codings.MEDIA_TYPES, remedy=codings.REMEDY)
    context = context_of(request)
    body = await whole(request.receive)
    loaded = await context.models.get(caller.project_id, model_name(name), version)
    with loaded.statistics.request():
        return await _answered(context, loaded, body, request)


def model_name(name: str) -> str:
    """The name, if a model can have it.

    Raises:
        ModelNotFound
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise ModelNotFound(f"There is no model {shortened(name)!r}. POST /v2/repository/index lists those that exist.")
    return name


async def _answered(context: Context, loaded: LoadedVersion, body: bytes, request: Request) -> Response:
    context.predictor.check_room(loaded)
    statistics, start = loaded.statistics, time.perf_counter_ns()
    asked = await _read(context, loaded, body, request)
    statistics.compute_input.add(time.perf_counter_ns() - start)
    scores = await context.predictor.scores(loaded, asked.x, receive=request.receive)
    start = time.perf_counter_ns()
    content = await context.predictor.written(
        partial(answering.write, loaded.version, scores, asked.outputs, asked.id),
        size=scores.nbytes,
        pace=loaded.paces[answering.write],
        receive=request.receive,
    )
    response = await _response(context, loaded, content, codings.chosen(header(request.scope, b"accept-encoding")))
    statistics.compute_output.add(time.perf_counter_ns() - start)
    return response


async def _read(context: Context, loaded: LoadedVersion, body: bytes, request: Request) -> reading.Asked:
    encoding, header_length = header(request.scope, b"content-encoding"), header(request.scope, _HEADER_LENGTH)
    if encoding is not None:
        limit = context.settings.max_predict_bytes
        body = await context.predictor.beside(
            partial(codings.decoded, body, encoding, limit=limit),
            # What it may come to; what such bodies came to before says nothing of it.
            size=min(limit, DEFLATED_MOST * len(body)),
            held=len(body),
            pace=Pace(INFLATING_NS),
            receive=request.receive,
        )
    return await context.predictor.beside(
        partial(reading.read, body, header_length, loaded.version),
        size=len(body),
        pace=loaded.paces[reading.read, header_length is None],
        receive=request.receive,
    )


async def _response(context: Context, loaded: LoadedVersion, content: Content, encoding: str | None) -> Response:
    body, headers = content.body, {"Vary": "Accept-Encoding"}
    if encoding is not None and len(body) >= codings.WORTH:
        body = await context.predictor.written(
            partial(codings.encoded, body, encoding), size=len(body), pace=loaded.paces[codings.encoded]
        )
        headers["Content-Encoding"] = encoding
    if content.header_length is None:
        return Response(body, headers=headers, media_type="application/json")
    headers[HEADER_LENGTH] = str(content.header_length)
    return Response(body, headers=headers, media_type="application/octet-stream")


ENDPOINTS: Mapping[str, Endpoint] = {
    "/v2/models/{name}/infer": answer,
    "/v2/models/{name}/versions/{version}/infer": answer,
}
"""Answered before the router is asked."""
