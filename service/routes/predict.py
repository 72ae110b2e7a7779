"""Predictions: the hot path. No database, no pydantic, no thread of FastAPI's."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from gammabeta.errors import InvalidRequest
from gammabeta.schemas.base import Name, Request
from gammabeta.schemas.predictions import Predictions
from service.dependencies import Ctx, Named, RawJson

router = APIRouter(prefix="/v1/models", tags=["models"])


class PredictQuery(Request):
    """Which version answers."""

    version: Name | None = None
    alias: Name | None = None


@router.post("/{name}/predict", response_model=Predictions)
async def predict(name: Named, context: Ctx, body: RawJson, query: Annotated[PredictQuery, Query()]) -> Response:
    """Predict rows of raw values in eval mode. Without `version` or `alias`: the alias `production` if it is set, else
    the newest version."""
    if query.version is not None and query.alias is not None:
        raise InvalidRequest.of("alias", "must be left out where 'version' is given", query.alias)
    loaded = await context.models.get(name, query.version, query.alias)
    return Response(await context.predictor.predict(loaded, body), media_type="application/json")
