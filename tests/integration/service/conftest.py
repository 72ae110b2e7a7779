"""A service as it runs: uvicorn in a thread, a random port, a home of its own."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from gammabeta.store import migrations
from gammabeta.store.blobs import FolderBlobs
from gammabeta.store.engine import Database
from service.__main__ import Server
from service.app import create_app
from service.settings import ServiceSettings
from tests.integration.service.shelf import Shelf


@dataclass(frozen=True, kw_only=True)
class Service:
    """A running service, a client of it, and the store beneath it."""

    url: str
    http: httpx.Client
    shelf: Shelf
    server: Server
    settings: ServiceSettings


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file that every home begins with."""
    path = tmp_path_factory.mktemp("migrated") / "gammabeta.db"
    migrations.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="module")
def start(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """`with start(max_json_bytes=…) as service:`"""

    @contextmanager
    def started(home: Path | None = None, **settings: Any) -> Iterator[Service]:
        if home is None:
            home = tmp_path_factory.mktemp("home")
            shutil.copy(migrated, home / "gammabeta.db")
        with running(ServiceSettings(home=home, port=0, watch_seconds=0.05, **settings)) as service:
            yield service

    return started


@pytest.fixture(scope="module")
def service(start: Callable[..., Any]) -> Iterator[Service]:
    with start() as running:
        yield running


@contextmanager
def running(settings: ServiceSettings) -> Iterator[Service]:
    server = Server(create_app(settings), settings)
    thread = threading.Thread(target=server.run)
    thread.start()
    eventually(lambda: server.started or not thread.is_alive())
    port = server.servers[0].sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    database = Database(settings.resolved_database_url)
    blobs = FolderBlobs(Path(settings.resolved_blobs))
    scratch = settings.home / "scratch"
    scratch.mkdir(exist_ok=True)
    try:
        with httpx.Client(base_url=url, timeout=20) as http:
            shelf = Shelf(database=database, blobs=blobs, scratch=scratch)
            yield Service(url=url, http=http, shelf=shelf, server=server, settings=settings)
    finally:
        server.should_exit = True
        thread.join(30)
        database.dispose()
    assert not thread.is_alive()


def eventually(condition: Callable[[], Any], *, seconds: float = 10) -> Any:
    """The first true value of the condition."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError("the condition did not come true")
        time.sleep(0.01)
    return value
