"""Models, versions and aliases, the batch-norm state as data, and the files of a version."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query
from fastapi.responses import Response
from pydantic import TypeAdapter, ValidationError, WithJsonSchema
from safetensors.numpy import save

from gammabeta.nets import state
from gammabeta.schemas.base import Answer, Name
from gammabeta.schemas.batchnorm import BatchNormState
from gammabeta.schemas.models import Alias, AliasRequest, BatchNormAnswer, Model, Served, Version
from gammabeta.schemas.networks import LayersNetwork
from gammabeta.schemas.preprocessing import FittedPreprocessing
from gammabeta.schemas.problems import invalid
from gammabeta.store import deleting, models
from service.access import By
from service.dependencies import Context, Ctx, JsonBody, Named
from service.keyring import Caller
from service.pages import Page, PageQuery
from service.runtime.loading import read_weights

router = APIRouter(prefix="/v1/models", tags=["models"])

SAFETENSORS = "application/vnd.safetensors"
_BINARY = {"schema": {"type": "string", "format": "binary"}}
NewAlias = Annotated[
    Name,
    WithJsonSchema({"type": "string", "pattern": "^([A-Za-z]|[0-9]+[A-Za-z._-])[A-Za-z0-9._-]*$", "maxLength": 64}),
]
"""A name that is not all digits, as those of versions are."""
_ALIAS: TypeAdapter[AliasRequest] = TypeAdapter(AliasRequest)


class ModelQuery(PageQuery):
    """Which models, by name."""

    order: Literal["asc", "desc"] = "asc"


class SpecFile(Answer):
    """`spec.json`: with `weights.safetensors`, all that is needed to build the network elsewhere."""

    model: str
    version: str
    network: LayersNetwork
    preprocessing: FittedPreprocessing
    classes: tuple[str, ...] | None
    weights_sha256: str
    batchnorm_digest: str


@router.get("")
def list_models(context: Ctx, caller: By, query: Annotated[ModelQuery, Query()]) -> Page[Model]:
    """Models by name, each with its versions and aliases."""
    with context.database.read() as session:
        found = models.find_models(
            session, caller.project_id, after=query.after, limit=query.one_more, ascending=query.ascending
        )
        shown = [models.model_schema(session, row) for row in found]
    return query.page(shown, lambda model: model.name)


@router.get("/{name}")
def get_model(name: Named, context: Ctx, caller: By) -> Model:
    """The model with its versions, the newest first, and its aliases."""
    with context.database.read() as session:
        return models.model_schema(session, models.get_model(session, caller.project_id, name))


@router.put("/{name}/aliases/{alias}")
async def set_alias(name: Named, alias: NewAlias, context: Ctx, caller: By, body: JsonBody) -> Alias:
    """Let the alias name a version; moving it back is the way to roll back. The version is loaded before the alias
    moves: one that cannot be served is refused, and the alias stays."""
    try:
        request = _ALIAS.validate_python(body)
    except ValidationError as exc:
        raise invalid(exc) from exc
    await context.models.get(caller.project_id, name, request.version)
    return await context.in_thread(_move_alias, context, caller, name, alias, request.version)


def _move_alias(context: Context, caller: Caller, name: str, alias: str, version: str) -> Alias:
    with context.database.write() as session:
        answer = models.set_alias(session, caller.project_id, name, alias, version)
    context.models.forget()
    return answer


@router.delete("/{name}/aliases/{alias}", status_code=204)
def delete_alias(name: Named, alias: Named, context: Ctx, caller: By) -> None:
    """Forget the alias."""
    with context.database.write() as session:
        models.delete_alias(session, caller.project_id, name, alias)
    context.models.forget()


@router.delete("/{name}", status_code=204)
async def delete_model(name: Named, context: Ctx, caller: By) -> None:
    """Delete a model with all its versions. 409 while it has an alias, or a job that has not ended names it. A version
    that is trained under its name later has a number that none had before."""
    await context.in_thread(_delete, context, caller, name)
    context.models.drop(caller.project_id, name)


@router.delete("/{name}/versions/{version}", status_code=204)
async def delete_version(name: Named, version: Named, context: Ctx, caller: By) -> None:
    """Delete a version. 409 while an alias names it, or a job that has not ended predicts by it. The job that made it
    stays. A model without versions is no more."""
    await context.in_thread(_delete, context, caller, name, version)
    context.models.drop(caller.project_id, name, version)


def _delete(context: Context, caller: Caller, name: str, version: str | None = None) -> None:
    with context.database.write() as session:
        if version is None:
            deleting.delete_model(session, caller.project_id, name)
        else:
            deleting.delete_version(session, caller.project_id, name, version)
    context.models.forget()


@router.get("/{name}/versions/{version}")
def get_version(name: Named, version: Named, context: Ctx, caller: By) -> Version:
    """A trained network. It never changes."""
    with context.database.read() as session:
        return models.version_schema(models.get_version(session, caller.project_id, name, version))


@router.get(
    "/{name}/versions/{version}/batchnorm",
    response_model=BatchNormAnswer,
    responses={200: {"content": {SAFETENSORS: _BINARY}}},
)
def get_batchnorm(
    name: Named, version: Named, context: Ctx, caller: By, accept: Annotated[str, Header(include_in_schema=False)] = ""
) -> BatchNormAnswer | Response:
    """gamma, beta, moving mean and moving variance of each layer, with its arguments. With
    `Accept: application/vnd.safetensors` the four as float32 arrays `LAYER.gamma`, `LAYER.beta` and so on."""
    shown, stored = _version_and_state(context, caller, name, version)
    if SAFETENSORS in accept:
        return _safetensors(save(state.joined({}, stored), {"digest": stored.digest}), "batchnorm.safetensors")
    return models.state_schema(shown, stored)


@router.get("/{name}/versions/{version}/served")
async def get_served(name: Named, version: Named, context: Ctx, caller: By) -> Served:
    """What this process has in memory, the digest computed from the module now."""
    loaded = await context.models.get(caller.project_id, name, version)
    return await context.predictor.measured(loaded)


@router.get(
    "/{name}/versions/{version}/files/{file}",
    response_class=Response,
    responses={200: {"content": {SAFETENSORS: _BINARY, "application/json": {}}}},
)
def get_file(
    name: Named, version: Named, file: Literal["weights.safetensors", "spec.json"], context: Ctx, caller: By
) -> Response:
    """`weights.safetensors`: weights and batch-norm state in one file. Of layers with `renorm` it also has
    `LAYER.renorm_mean`, `LAYER.renorm_stddev` and `LAYER.moving_stddev`, which training would go on with and a
    prediction does not need. `spec.json`: network and preprocessing."""
    shown, stored = _version_and_state(context, caller, name, version)
    if file == "spec.json":
        spec = SpecFile.model_validate(shown, from_attributes=True)
        return _download(spec.model_dump_json(indent=2).encode(), "application/json", file)
    weights = read_weights(context.blobs, shown.weights_sha256)
    return _safetensors(save(state.joined(weights, stored), {"digest": stored.digest}), file)


def _version_and_state(context: Context, caller: Caller, name: str, version: str) -> tuple[Version, BatchNormState]:
    with context.database.read() as session:
        row = models.get_version(session, caller.project_id, name, version)
        return models.version_schema(row), models.batchnorm_state(session, row)


def _safetensors(content: bytes, name: str) -> Response:
    return _download(content, SAFETENSORS, name)


def _download(content: bytes, media_type: str, name: str) -> Response:
    return Response(content, media_type=media_type, headers={"Content-Disposition": f'attachment; filename="{name}"'})
