"""The application: `create_app(settings)` wires it, its lifespan opens and closes what it needs.

request ─► Traffic ─► Guard (Host, Origin) ─► BodyLimits ─► Shortcuts ─► FastAPI ─► access ─► routes ─► store, runtime
                                                                └─► access ─► predict, infer   └─► problems (errors)
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio.to_thread
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import gammabeta
from gammabeta.errors import NotReady
from gammabeta.schemas.jobs import Event
from gammabeta.store import events
from gammabeta.store.blobs import open_blobs
from gammabeta.store.engine import Database
from gammabeta.store.stored import Blobs
from service import access, openapi, problems, tidying
from service.background import running
from service.backlog import backlog
from service.dependencies import Context
from service.events import Tailer
from service.guard import Guard
from service.keyring import Keyring
from service.limits import BodyLimits
from service.openinference import routes as openinference
from service.ranges import OneRange
from service.readiness import Readiness
from service.routes import datasets, jobs, keys, models, networks, operations, predict, workers
from service.runtime.batching import Limits
from service.runtime.loading import Models, Preparing
from service.runtime.predicting import Predictor
from service.settings import ServiceSettings
from service.shortcuts import Shortcuts
from service.throttle import Throttle
from service.traffic import Traffic
from service.upgrades import Upgrades

DESCRIPTION = "Train networks with batch normalization over HTTP; serve them from the moving statistics."
UI = Path(__file__).with_name("ui")


@dataclass(frozen=True, kw_only=True)
class Application:
    """The service, for a server to run."""

    api: FastAPI
    front: ASGIApp
    """What a request meets first."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self.api  # as FastAPI does, for those who come past it
        await self.front(scope, receive, send)


@dataclass(frozen=True)
class Accountable:
    """ASGI: an error that nobody foresaw, at whatever comes before FastAPI, is answered with a problem. It is raised
    nevertheless, as FastAPI does, so that the server logs it."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, sending)
        except Exception as error:
            if scope["type"] == "http" and not begun:
                await (await problems.bug(Request(scope), error))(scope, receive, send)
            raise


def create_app(settings: ServiceSettings) -> Application:
    """The service. Nothing is opened before its lifespan begins."""
    api = _api(settings)
    hot = Shortcuts(OneRange(api), endpoints={**predict.ENDPOINTS, **openinference.ENDPOINTS}, admit=access.predicting)
    answered = Accountable(BodyLimits(hot, settings=settings))
    traffic = Traffic(Guard(answered, hosts=settings.hosts))
    api.state.traffic = traffic
    return Application(api=api, front=traffic)


def _api(settings: ServiceSettings) -> FastAPI:
    app: FastAPI = FastAPIOffline(
        title="gammabeta",
        version=gammabeta.__version__,
        description=DESCRIPTION,
        docs_url="/docs",
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        lifespan=_lifespan,
        redirect_slashes=False,
        generate_unique_id_function=_name,
    )
    app.state.settings = settings
    app.openapi = lambda: openapi.describe(app)  # type: ignore[method-assign]
    for module in (datasets, jobs, models, predict, openinference, networks, keys, workers, operations):
        app.include_router(module.router, dependencies=[access.GUARDED])
    app.include_router(operations.probes)
    _add_page(app)
    problems.install(app)
    access.check(app.routes)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    context = _open(app.state.settings, app.state.traffic)
    app.state.context = context
    settings = context.settings
    watch = partial(context.models.watch, every=settings.watch_seconds)
    watch_keys = partial(context.keyring.watch, every=settings.watch_seconds)
    watch_use = partial(context.keyring.watch_use, every=settings.watch_seconds)
    watch_schema = partial(context.upgrades.watch, every=settings.watch_schema_seconds)
    with suppress(NotReady):  # /readyz says why, and the watch goes on trying
        await anyio.to_thread.run_sync(context.keyring.refresh)
    try:
        async with running(
            watch, watch_keys, watch_use, context.tailer.run, watch_schema, partial(tidying.run, context)
        ):
            yield
    finally:
        context.predictor.close()
        context.database.dispose()


def _open(settings: ServiceSettings, traffic: Traffic) -> Context:
    database, blobs = Database(settings.resolved_database_url), open_blobs(settings)

    def fetch(cursors: dict[str, int]) -> list[Event]:
        with database.read() as session:
            return [events.to_schema(row) for row in events.events_after(session, cursors)]

    tailer = Tailer(fetch, every=settings.watch_seconds)
    keyring = Keyring(database, open_without=settings.on_loopback, on_change=tailer.look_up)
    return Context(
        settings=settings,
        database=database,
        blobs=blobs,
        models=_models(database, blobs, settings),
        predictor=_predictor(settings),
        tailer=tailer,
        keyring=keyring,
        upgrades=Upgrades(database),
        traffic=traffic,
        backlog=backlog(database),
        readiness=Readiness(database, blobs, keyring),
        throttle=Throttle(settings.submits_per_second),
    )


def _models(database: Database, blobs: Blobs, settings: ServiceSettings) -> Models:
    preparing = Preparing(
        choice=settings.predict_engine, folded=settings.predict_fold, threads=settings.predict_threads
    )
    return Models(database, blobs, limit_bytes=settings.predict_memory_bytes, preparing=preparing)


def _predictor(settings: ServiceSettings) -> Predictor:
    limits = Limits(
        batch_rows=settings.max_batch_rows,
        wait_seconds=settings.max_wait_ms / 1_000,
        queued_rows=settings.max_queued_rows,
        queued_seconds=settings.max_queued_ms / 1_000,
        queued_bytes=settings.max_queued_bytes,
    )
    return Predictor(workers=settings.predict_workers, threads=settings.predict_threads, limits=limits)


def _add_page(app: FastAPI) -> None:
    async def to_page() -> RedirectResponse:
        return RedirectResponse("/ui/")

    app.add_api_route("/", to_page, include_in_schema=False)
    app.add_api_route("/ui", to_page, include_in_schema=False)
    app.mount("/ui", StaticFiles(directory=UI, html=True), name="ui")


def _name(route: APIRoute) -> str:
    return route.name
