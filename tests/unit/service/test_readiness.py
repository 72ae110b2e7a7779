from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gammabeta.errors import NotReady
from gammabeta.store import migrations
from gammabeta.store.blobs import FolderBlobs
from gammabeta.store.engine import Database
from service.keyring import Keyring
from service.readiness import Readiness


class Slow(FolderBlobs):
    """Checks are counted, take as long as the gate is shut, and end as the test wants it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.checks, self.gate = 0, threading.Event()
        self.error: Exception | None = None

    def check(self) -> None:
        self.checks += 1
        assert self.gate.wait(10)
        if self.error is not None:
            raise self.error


@pytest.fixture
def blobs(tmp_path: Path) -> Iterator[Slow]:
    found = Slow(tmp_path / "blobs")
    yield found
    found.gate.set()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path / 'gammabeta.db'}"
    migrations.upgrade(url)
    found = Database(url)
    yield found
    found.dispose()


def keyring(database: Database) -> Keyring:
    """That has read its keys."""
    found = Keyring(database, open_without=True)
    found.refresh()
    return found


def test_one_check_is_under_way_for_all_who_ask_and_nobody_waits_for_its_end(database: Database, blobs: Slow) -> None:
    async def scenario() -> None:
        readiness = Readiness(database, blobs, keyring(database), patience_seconds=0.05)
        several = await asyncio.gather(*(readiness.complaints() for _ in range(50)))
        assert several == [["Database and blobs must answer within 0.05 s, and did not."]] * 50
        assert blobs.checks == 1

    asyncio.run(scenario())


def test_an_answer_holds_for_all_who_ask_soon_after_it(database: Database, blobs: Slow) -> None:
    async def scenario() -> None:
        blobs.gate.set()
        readiness = Readiness(database, blobs, keyring(database), patience_seconds=10)
        assert [await readiness.complaints() for _ in range(5)] == [[]] * 5
        assert blobs.checks == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [NotReady("The bucket sleeps."), PermissionError(13, "The bucket sleeps.")])
def test_what_a_store_says_is_said_and_still_known_while_it_is_silent(
    database: Database, blobs: Slow, error: Exception
) -> None:
    async def scenario() -> None:
        blobs.gate.set()
        blobs.error = error
        readiness = Readiness(database, blobs, keyring(database), patience_seconds=10)
        (told,) = await readiness.complaints()
        assert "The bucket sleeps." in told
        blobs.gate.clear()
        readiness.found.fresh_seconds, readiness.found.patience_seconds = -1, 0.05
        silent, before = await readiness.complaints()
        assert "within 0.05 s" in silent
        assert before == told

    asyncio.run(scenario())
