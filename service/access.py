"""What a key must allow, by route. One table, and no route without a place in it.

    router ──Depends(admitted)──► rule of the route ──► Keyring.caller ──► Caller, or 401, or 403
    Shortcuts ──predicting──────► predict ─────────────────┘

A route that is none of these fails the start (`check`), so that nobody can forget it (CVE-2026-2652).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated

from fastapi import Depends, Request
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from starlette.routing import BaseRoute

from gammabeta.schemas.keys import Scope
from service.headers import header
from service.keyring import Caller, Keyring

OPEN = frozenset(
    {
        "/healthz",
        "/readyz",
        "/",
        "/ui",
        "/docs",
        "/docs/oauth2-redirect",
        "/static-offline-docs",
        "/v1/openapi.json",
    }
)
"""Routes and folders without data, which need no key."""
READ, TRAIN, PREDICT, ADMIN = (frozenset({scope}) for scope in Scope)
LOOK = READ | PREDICT
"""What clients of the Open Inference Protocol ask before they predict."""
RULES: Mapping[str, frozenset[str]] = {
    "upload_dataset": TRAIN,
    "delete_dataset": TRAIN,
    "submit_job": TRAIN,
    "delete_job": TRAIN,
    "cancel_job": TRAIN,
    "pause_job": TRAIN,
    "resume_job": TRAIN,
    "retry_job": TRAIN,
    "set_alias": ADMIN,  # what production answers is decided by who runs it
    "delete_alias": ADMIN,
    "delete_version": ADMIN,
    "delete_model": ADMIN,
    "predict": PREDICT,
    "infer": PREDICT,
    "infer_of_version": PREDICT,
    "server_metadata": LOOK,
    "server_live": LOOK,
    "server_ready": LOOK,
    "model_metadata": LOOK,
    "model_metadata_of_version": LOOK,
    "model_config": LOOK,
    "model_config_of_version": LOOK,
    "model_ready": LOOK,
    "model_ready_of_version": LOOK,
    "statistics": LOOK,
    "statistics_of_model": LOOK,
    "statistics_of_version": LOOK,
    "repository_index": LOOK,
    "create_key": ADMIN,
    "list_keys": ADMIN,
    "revoke_key": ADMIN,
    "scraped": ADMIN,  # it tells of the whole process
    "load_model": ADMIN,
    "unload_model": ADMIN,
}
"""By the name of the route: one of these scopes. What is not here and only reads needs `read`."""
_READING = frozenset({"GET", "HEAD"})


def rule_of(name: str, methods: Collection[str]) -> frozenset[str] | None:
    """The scopes of which a caller of the route needs one. None: nobody has thought about it."""
    return RULES.get(name) or (READ if methods and _READING.issuperset(methods) else None)


def admit(request: Request, allowed: frozenset[str]) -> Caller:
    """Who asks, if he may.

    Raises:
        Unauthorized, Forbidden.
        NotReady: nobody knows yet who may.
    """
    keyring: Keyring = request.app.state.context.keyring
    caller = keyring.caller(header(request.scope, b"authorization"))
    caller.check(allowed)
    return caller


def predicting(request: Request) -> Caller:
    """The same for who wants a prediction."""
    return admit(request, PREDICT)


async def admitted(request: Request) -> Caller:
    """The same for a route, by its rule. Depends on it: every router, and who wants to know the caller."""
    route: APIRoute = request.scope["route"]
    return admit(request, rule_of(route.name, route.methods or ()) or frozenset())


GUARDED = Depends(admitted)
By = Annotated[Caller, GUARDED]


def check(routes: Sequence[BaseRoute]) -> None:
    """Refuse an application with a route that nobody guards.

    Raises:
        RuntimeError
    """
    for route in iter_route_contexts(routes):
        if route.path not in OPEN and not _is_guarded(route):
            raise RuntimeError(
                f"Each route must be open, or have a rule and `admitted` in service/access.py. Received: {route.path}."
            )


def _is_guarded(route: RouteContext) -> bool:
    if not isinstance(route.original_route, APIRoute) or rule_of(route.name or "", route.methods or ()) is None:
        return False
    return any(each.call is admitted for each in route.dependant.dependencies)
