"""Whether the process lives, whether it can work, what it is, what it does, and what it has stored."""

from __future__ import annotations

import platform
from typing import Literal

import anyio
import anyio.to_thread
import torch
from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response

import gammabeta
from gammabeta import exposition
from gammabeta.errors import NotReady
from gammabeta.schemas.base import Answer
from gammabeta.schemas.usage import Usage
from gammabeta.store import usage
from service import metrics
from service.access import By
from service.dependencies import Context, Ctx

router = APIRouter(tags=["operations"])
probes = APIRouter(tags=["operations"])
"""Asked by those who look whether the service lives, without a key."""


class Health(Answer):
    """The process lives."""

    status: Literal["ok"] = "ok"


class VersionAnswer(Answer):
    """What runs here."""

    version: str
    python: str
    torch: str
    api: Literal["v1"] = "v1"


@probes.head("/healthz", include_in_schema=False)
@probes.get("/healthz")
async def healthz() -> Health:
    """The process lives."""
    return Health()


@probes.head("/readyz", include_in_schema=False)
@probes.get("/readyz")
async def readyz(context: Ctx) -> Health:
    """Database, migrations, blobs and keys are fine; else 503 with what is not."""
    if complaints := await context.readiness.complaints():
        raise NotReady(" ".join(complaints))
    return Health()


@router.get("/v1/version")
async def version() -> VersionAnswer:
    """What runs here."""
    return VersionAnswer(version=gammabeta.__version__, python=platform.python_version(), torch=torch.__version__)


@router.get("/v1/usage")
def get_usage(context: Ctx, caller: By) -> Usage:
    """How many bytes the project has stored, and may."""
    with context.database.read() as session:
        used = usage.measure(session, caller.project_id)
    return Usage(bytes=used, limit=context.settings.project_bytes or None)


@router.get("/metrics", response_class=PlainTextResponse)
async def scraped(request: Request, caller: By) -> Response:
    """Metrics of this process for Prometheus, as its text or, if `Accept` names it, as OpenMetrics. Of models, those of
    the caller's project: GAMMABETA_METRICS_PORT tells all. It answers when the
    database does not, too."""
    context: Context = request.app.state.context  # not by its dependency, which asks what the database is
    exposed = metrics.Exposed(await metrics.seen(context, caller.project_id))
    body, media_type = await anyio.to_thread.run_sync(
        exposition.written, exposed, request.headers.get("accept"), limiter=context.scraping
    )
    return Response(body, headers={"Content-Type": media_type})
