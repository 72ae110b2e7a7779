"""What a service that was killed had begun to receive lies on this machine, where no worker may ever come by."""

from __future__ import annotations

import asyncio

from gammabeta import logs
from gammabeta.errors import NoSpace
from service.dependencies import Context

FORGOTTEN_SECONDS = 86_400.0
EVERY_SECONDS = 3_600.0

log = logs.get(__name__)


async def run(context: Context) -> None:
    """Remove what is a day old, now and every hour."""
    while True:
        try:
            await context.in_thread(lambda: context.blobs.tidy_here(seconds=FORGOTTEN_SECONDS))
        except (NoSpace, OSError) as error:
            log.warning("not tidied", why=str(error))
        await asyncio.sleep(EVERY_SECONDS)
