"""The program: `python -P -m service` serves, `python -P -m service openapi` prints what it says of itself.

Settings come from the environment, see `settings.py`. Exit 78: with these settings it must not serve.
"""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import socket
import sys

import uvicorn
from pydantic import ValidationError

from gammabeta import exposition, logs
from gammabeta.confinement import conceal
from gammabeta.errors import GammabetaError, NotReady
from gammabeta.store import keys, migrations
from gammabeta.store.blobs import open_blobs
from gammabeta.store.engine import Database
from service import metrics
from service.app import Application, create_app
from service.connections import Connection
from service.settings import ServiceSettings

EX_CONFIG = 78
NEEDS_KEY = (
    "There must be an API key before GAMMABETA_HOST may be an address that others reach. Received: {host}, and no key "
    "that works. Run: gammabeta keys create --name admin --scope admin --scope read --scope train --scope predict"
)


class Server(uvicorn.Server):
    """uvicorn, which before it waits for the requests in progress ends the streams that would never end, and which
    tells metrics at a port of their own for as long as it runs."""

    def __init__(self, app: Application, settings: ServiceSettings) -> None:
        self.app, self.settings = app, settings
        config = uvicorn.Config(
            app,
            http=Connection,
            host=settings.host.strip("[]"),
            port=settings.port,
            log_config=None,
            access_log=settings.access_log,
            server_header=False,
            timeout_graceful_shutdown=settings.drain_seconds,
        )
        super().__init__(config)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Raises CannotListen: metrics cannot be told where the settings say."""
        loop, settings = asyncio.get_running_loop(), self.settings

        def tell() -> metrics.Exposed | None:
            return metrics.seen_from_outside(self.app.api.state.context, loop) if self.started else None

        with exposition.listening(tell, host=settings.metrics_host, port=settings.metrics_port):
            await super().serve(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.app.api.state.context.tailer.stop()
        await super().shutdown(sockets)


def main() -> int:
    """The exit status."""
    if sys.argv[1:] == ["openapi"]:
        print(described())
        return 0
    if sys.argv[1:]:
        return _refuse(f"Usage: python -P -m service [openapi]. Received: {' '.join(sys.argv[1:])}.")
    try:
        settings = ServiceSettings()
        complaint = _complaint(settings)
    except (ValidationError, ValueError, GammabetaError) as error:
        complaint = str(error)
    if complaint is not None:
        return _refuse(complaint)
    conceal()
    logs.set_up(level=settings.log_level)
    try:
        _serve(settings)
    except exposition.CannotListen as error:
        return _refuse(str(error))
    return 0


def described() -> str:
    """The OpenAPI document, as `docs/openapi.json` keeps it."""
    return json.dumps(create_app(ServiceSettings()).api.openapi(), indent=2, ensure_ascii=False)


def _complaint(settings: ServiceSettings) -> str | None:
    if (complaint := open_blobs(settings).complaint()) is not None:
        return complaint
    database = Database(settings.resolved_database_url)
    try:
        return migrations.complaint(database) or _keyless(database, settings)
    except NotReady:
        return None  # it may come up later; until then /readyz says so, and nobody is let in
    finally:
        database.dispose()


def _keyless(database: Database, settings: ServiceSettings) -> str | None:
    if settings.on_loopback:
        return None
    with database.read() as session:
        return None if keys.any_works(session) else NEEDS_KEY.format(host=settings.host)


def _serve(settings: ServiceSettings) -> None:
    # uvicorn sends itself again what stopped it; by the default of SIGTERM a clean stop would look like a kill.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server = Server(create_app(settings), settings)
    gc.freeze()  # what was imported stays; to go through all of it now and then held every request up for 0.15 s
    server.run()


def _refuse(message: str) -> int:
    sys.stderr.write(f"{message}\n")
    return EX_CONFIG


if __name__ == "__main__":
    sys.exit(main())
