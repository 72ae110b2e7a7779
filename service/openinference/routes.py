"""`/v2`: the Open Inference Protocol, with binary tensors and those of Triton's extensions that have a meaning here.

    GET  /v2, /v2/health/live, /v2/health/ready
    GET  /v2/models/{name}[/versions/{version}], …/ready, …/config, …/stats
    POST /v2/models/{name}[/versions/{version}]/infer
    POST /v2/repository/index, /v2/repository/models/{name}/load, …/unload

Its clients take every status but 200 for an error, send no Content-Type, and may send no body where JSON is due.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from starlette.requests import Request

import gammabeta
from gammabeta.errors import InvalidRequest
from gammabeta.schemas.inference import (
    ModelConfig,
    ModelMetadata,
    ModelReady,
    ModelStatistics,
    RepositoryEntry,
    ServerLive,
    ServerMetadata,
    ServerReady,
    Statistics,
)
from gammabeta.schemas.models import Version
from gammabeta.schemas.problems import shortened
from gammabeta.store import models
from service.access import By
from service.bodies import check_media_type, parsed
from service.dependencies import Context, Ctx
from service.openinference import codings, inference, signature, stats
from service.openinference.inference import model_name
from service.routes import operations

EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics")
READY: dict[str, Any] = {"state": "READY", "reason": ""}
LOADING: dict[str, Any] = {"state": "LOADING", "reason": ""}
ABSENT: dict[str, Any] = {"state": "UNAVAILABLE", "reason": "It is not in memory. Its next request loads it."}

router = APIRouter(prefix="/v2", tags=["open inference"])
ENDPOINTS = inference.ENDPOINTS
MODEL, VERSION = "/models/{name}", "/models/{name}/versions/{version}"


@dataclass(frozen=True)
class Asked:
    """The model of an address, and its version where one is named."""

    project: str
    name: str
    version: str | None


async def _addressed(request: Request, caller: By) -> Asked:
    return Asked(caller.project_id, model_name(request.path_params["name"]), request.path_params.get("version"))


Addressed = Annotated[Asked, Depends(_addressed)]


def _in_address(*names: str) -> dict[str, Any]:
    """How the parts of an address are described that `_addressed` reads."""
    return {
        "parameters": [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    }


def _in_body(**properties: Any) -> dict[str, Any]:
    """How a body is described that `_object` reads."""
    schema = {"type": "object", "properties": properties}
    return {"requestBody": {"content": {"application/json": {"schema": schema}}}}


OF_MODEL, OF_VERSION = _in_address("name"), _in_address("name", "version")


# ── the server ──


@router.get("/", include_in_schema=False)
@router.get("")
async def server_metadata() -> ServerMetadata:
    """What answers here, and the extensions of the protocol that it has."""
    return ServerMetadata(version=gammabeta.__version__, extensions=EXTENSIONS)


@router.get("/health/live")
async def server_live() -> ServerLive:
    """The process lives."""
    return ServerLive()


@router.get("/health/ready")
async def server_ready(context: Ctx) -> ServerReady:
    """Database, migrations and blobs are fine, so that every model can be loaded; else 503 with what is not."""
    await operations.readyz(context)
    return ServerReady()


# ── statistics: before the models, since `stats` would be the name of one ──


@router.get("/models/stats")
async def statistics(context: Ctx, caller: By) -> Statistics:
    """Of all versions in memory, what this process has counted since it loaded them."""
    return Statistics(model_stats=tuple(stats.of(each) for each in context.models.held_of(caller.project_id)))


@router.get(f"{MODEL}/stats", openapi_extra=OF_MODEL)
@router.get(f"{VERSION}/stats", name="statistics_of_version", openapi_extra=OF_VERSION)
async def statistics_of_model(asked: Addressed, context: Ctx) -> Statistics:
    """Of the versions of a model that are in memory, or of the one that is named, in memory or not."""
    row = await context.in_thread(_version, context, asked)
    found = [
        stats.of(each)
        for each in context.models.held_of(asked.project)
        if each.version.model == asked.name and asked.version in (None, each.version.version)
    ]
    if asked.version is not None and not found:
        found = [ModelStatistics(name=row.model, version=row.version)]
    return Statistics(model_stats=tuple(found))


# ── models ──


@router.get(MODEL, openapi_extra=OF_MODEL)
@router.get(VERSION, name="model_metadata_of_version", openapi_extra=OF_VERSION)
def model_metadata(asked: Addressed, context: Ctx) -> ModelMetadata:
    """What the model takes and gives. Without a version: of the alias `production` if it is set, else of the newest."""
    with context.database.read() as session:
        numbers = models.version_numbers(session, models.get_model(session, asked.project, asked.name))
    return signature.metadata(_version(context, asked), numbers)


@router.get(f"{MODEL}/config", openapi_extra=OF_MODEL)
@router.get(f"{VERSION}/config", name="model_config_of_version", openapi_extra=OF_VERSION)
def model_config(asked: Addressed, context: Ctx) -> ModelConfig:
    """The same in the words of Triton's model configuration."""
    return signature.config(_version(context, asked))


@router.get(f"{MODEL}/ready", openapi_extra=OF_MODEL)
@router.get(f"{VERSION}/ready", name="model_ready_of_version", openapi_extra=OF_VERSION)
async def model_ready(asked: Addressed, context: Ctx) -> ModelReady:
    """The model answers: where it is not in memory, it is loaded first, as it would be for a request."""
    await context.models.get(asked.project, asked.name, asked.version)
    return ModelReady(name=asked.name)


def _version(context: Context, asked: Asked) -> Version:
    with context.database.read() as session:
        return models.version_schema(models.get_version(session, asked.project, asked.name, asked.version))


# ── the repository ──


@router.post("/repository/index", openapi_extra=_in_body(ready={"type": "boolean", "default": False}))
async def repository_index(request: Request, context: Ctx, caller: By) -> list[RepositoryEntry]:
    """Every version that may be asked for, and whether it is in memory; with `{"ready": true}` those that are."""
    ready_only = (await _object(request)).get("ready", False)
    if not isinstance(ready_only, bool):
        raise InvalidRequest(f"'ready' must be true or false. Received: {shortened(ready_only)}.")
    project = caller.project_id
    held = {(each.version.model, each.version.version): READY for each in context.models.held_of(project)}
    loading = [(key.model, key.version) for key in context.models.loading if key.project == project]
    states = dict.fromkeys(loading, LOADING) | held
    known = await context.in_thread(_known, context, project)
    entries = [
        RepositoryEntry(name=name, version=version, **states.get((name, version), ABSENT)) for name, version in known
    ]
    return [each for each in entries if each.state == "READY" or not ready_only]


def _known(context: Context, project: str) -> list[tuple[str, str]]:
    with context.database.read() as session:
        return models.all_versions(session, project)


@router.post(
    "/repository/models/{name}/load",
    openapi_extra=OF_MODEL | _in_body(parameters={"type": ["object", "null"], "maxProperties": 0}),
    response_class=Response,
)
async def load_model(request: Request, asked: Addressed, context: Ctx) -> Response:
    """Load the version that a request without one would get. 200, and nothing."""
    if (await _object(request)).get("parameters") not in (None, {}):
        raise InvalidRequest(
            "'parameters' must be left out: models are made by training jobs, not by their configuration."
        )
    await context.models.get(asked.project, asked.name)
    return Response()


@router.post("/repository/models/{name}/unload", openapi_extra=OF_MODEL | _in_body(), response_class=Response)
async def unload_model(request: Request, asked: Addressed, context: Ctx) -> Response:
    """Drop every version of the model from the memory of this process; the next request loads it again. 200, and
    nothing."""
    await _object(request)
    await context.in_thread(_version, context, asked)
    context.models.drop(asked.project, asked.name)
    return Response()


async def _object(request: Request) -> dict[str, Any]:
    """The body, which may be missing."""
    check_media_type(request, codings.MEDIA_TYPES, remedy=codings.REMEDY)
    body = await request.body()
    value = parsed(body) if body else {}
    if not isinstance(value, dict):
        raise InvalidRequest(f"The body must be an object, or be left out. Received: {shortened(value)}.")
    return value


router.include_router(inference.router)
