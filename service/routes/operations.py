"""Whether the process lives, whether it can work, and what it is."""

from __future__ import annotations

import platform
from typing import Literal

import torch
from fastapi import APIRouter

import gammabeta
from gammabeta.errors import NoSpace, NotReady
from gammabeta.schemas.base import Answer
from gammabeta.store import migrations
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
def readyz(context: Ctx) -> Health:
    """Database, migrations and blobs are fine; else 503 with what is not."""
    complaints = [*_database(context), *_blobs(context)]
    if complaints:
        raise NotReady(" ".join(complaints))
    return Health()


@router.get("/v1/version")
async def version() -> VersionAnswer:
    """What runs here."""
    return VersionAnswer(version=gammabeta.__version__, python=platform.python_version(), torch=torch.__version__)


def _database(context: Context) -> list[str]:
    try:
        complaint = migrations.complaint(context.database)
    except NotReady as error:
        return [error.message]
    return [] if complaint is None else [complaint]


def _blobs(context: Context) -> list[str]:
    try:
        context.blobs.check()
    except NoSpace as error:
        return [error.message]
    except OSError as error:
        return [f"The blob folder {context.blobs.root} must be writable. Received: {error.strerror}."]
    return []
