"""What routes ask for by type: the context of the process, request bodies, and where things lie in the address."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

import anyio
import anyio.to_thread
import orjson
from fastapi import Depends, Header, Request

from gammabeta.schemas.base import Name
from gammabeta.store.engine import Database
from gammabeta.store.stored import Blobs
from service import bodies
from service.backlog import Backlog
from service.events import Tailer
from service.keyring import Keyring
from service.readiness import Readiness
from service.runtime.loading import Models
from service.runtime.predicting import Predictor
from service.settings import ServiceSettings
from service.throttle import Throttle
from service.traffic import Traffic
from service.upgrades import Upgrades

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Context:
    """What the process has opened. The routes share it."""

    settings: ServiceSettings
    database: Database
    blobs: Blobs
    models: Models
    predictor: Predictor
    tailer: Tailer
    keyring: Keyring
    upgrades: Upgrades
    traffic: Traffic
    backlog: Backlog
    throttle: Throttle
    readiness: Readiness
    threads: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(16))
    """For async routes that reach database or disk: of their own, so that they never wait for the plain routes."""

    scraping: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(1))
    """For the text of metrics: one at a time, and none waits for a database."""

    async def in_thread(self, work: Callable[..., T], *args: Any) -> T:
        """Run blocking work beside the event loop."""
        return await anyio.to_thread.run_sync(work, *args, limiter=self.threads)


def context_of(request: Request) -> Context:
    """What the process has opened.

    Raises:
        NotReady: the database must not be used by this version.
    """
    context: Context = request.app.state.context
    context.upgrades.check()
    return context


async def _context(request: Request) -> Context:
    return context_of(request)


async def _json(request: Request) -> Any:
    return bodies.parsed(await bodies.json_bytes(request))


Ctx = Annotated[Context, Depends(_context)]
JsonBody = Annotated[Any, Depends(_json)]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        description="A word of your choice. The same key with the same request gives the first answer again.",
    ),
]
Named = Name
"""A name or an id in the address."""


def canonical(value: Any) -> bytes:
    """The same bytes for the same JSON value, whatever its spelling."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
