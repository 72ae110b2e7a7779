"""What the service says of itself: FastAPI's description, corrected where the routes read bodies themselves.

Bodies are read by `service/bodies.py` and `service/uploads.py`, so that their errors are ours; FastAPI learns of their
schemas from routes that exist on paper only. `docs/openapi.json` is a snapshot; write it anew with

    python -P -m service openapi > docs/openapi.json
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import Field

from gammabeta.schemas.base import Request
from gammabeta.schemas.inference import InferenceError, InferenceRequest
from gammabeta.schemas.jobs import JobRequest
from gammabeta.schemas.keys import KeyRequest, Scope
from gammabeta.schemas.models import AliasRequest
from gammabeta.schemas.problems import Problem
from service import access, failures, links


class PredictRequest(Request):
    """Rows to predict."""

    instances: list[Any] = Field(min_length=1)
    """Tables: objects by column name, or lists in the order of the columns; null where a value is missing. Arrays and
    images: nested lists of the feature's shape, or flat ones. Raw values: the model carries its preprocessing."""


BODIES: dict[str, Any] = {
    "submit_job": JobRequest,
    "set_alias": AliasRequest,
    "create_key": KeyRequest,
    "predict": PredictRequest,
    "infer": InferenceRequest,
    "infer_of_version": InferenceRequest,
}
"""By the name of the route, as JSON. What else a route reads stands in its `openapi_extra`."""
BEARER = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "gb_…",
    "description": "An API key, made by `gammabeta keys create`. On loopback none is asked for before there is one.",
}
_PAPER = "/paper/"


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of `app`."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=[*app.routes, *_paper_routes()],
        )
        document["paths"] = _with_bodies(document["paths"])
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                _correct(path, method, operation)
        links.add(document["paths"])
        parts = document["components"]
        parts |= {"securitySchemes": {"key": BEARER}, "responses": failures.responses()}
        _require_tags(parts["schemas"])
        for unused in ("HTTPValidationError", "ValidationError"):
            parts["schemas"].pop(unused, None)
        app.openapi_schema = document
    return app.openapi_schema


def _with_bodies(paths: dict[str, Any]) -> dict[str, Any]:
    """The paths that there are, with the bodies of those on paper."""
    operations = {each["operationId"]: each for path in paths.values() for each in path.values()}
    for name in BODIES:
        paper, own = operations[_paper_name(name)]["requestBody"], operations[name].get("requestBody", {})
        operations[name]["requestBody"] = paper | own | {"content": paper["content"] | own.get("content", {})}
    return {path: each for path, each in paths.items() if not path.startswith(_PAPER)}


def _correct(path: str, method: str, operation: dict[str, Any]) -> None:
    operation["responses"].pop("422", None)  # FastAPI's own
    operation["responses"] = failures.of(path, method, operation) | operation["responses"]
    _without_null(operation)
    if path not in access.OPEN:
        _say_scopes(operation, method)


def _paper_routes() -> list[Any]:
    router = APIRouter()
    for name, body in BODIES.items():
        router.add_api_route(
            _PAPER + name,
            _taking(body),
            methods=["POST"],
            operation_id=_paper_name(name),
            response_model=Problem | InferenceError,
        )
    return list(router.routes)


def _paper_name(name: str) -> str:
    return f"paper_{name}"


def _taking(kind: Any) -> Callable[..., None]:
    def endpoint(body: Any) -> None: ...

    endpoint.__annotations__["body"] = kind
    return endpoint


def _say_scopes(operation: dict[str, Any], method: str) -> None:
    """Each entry is enough by itself."""
    rule = access.rule_of(operation["operationId"], [method.upper()]) or frozenset()
    operation["security"] = [{"key": [scope.value]} for scope in Scope if scope in rule]


def _without_null(operation: dict[str, Any]) -> None:
    """Of parameters, which are text: one that may be left out is no null for that."""
    for parameter in operation.get("parameters", ()):
        schema = parameter["schema"]
        kinds = [each for each in schema.pop("anyOf", ()) if each != {"type": "null"}]
        parameter["schema"] = schema | (kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {})


def _require_tags(schemas: dict[str, Any]) -> None:
    """Of each kind of a union, what tells it from the others, which pydantic takes for a field with a default."""
    for union in _unions(schemas):
        for reference in union["discriminator"]["mapping"].values():
            kind, tag = schemas[reference.rpartition("/")[2]], union["discriminator"]["propertyName"]
            kind["required"] = sorted({*kind.get("required", ()), tag})


def _unions(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        if "discriminator" in schema:
            yield schema
        schema = list(schema.values())
    if isinstance(schema, list):
        for each in schema:
            yield from _unions(each)
