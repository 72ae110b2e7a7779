from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gammabeta.errors import NotReady
from gammabeta.store import migrations
from gammabeta.store.engine import Database, Session
from service.backlog import Backlog, backlog


class Watched(Database):
    """Counts who reads, and lets them through as long as the gate is open."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.reads, self.gate, self.error = 0, threading.Event(), None
        self.gate.set()

    error: Exception | None

    @contextmanager
    def read(self) -> Iterator[Session]:
        self.reads += 1
        assert self.gate.wait(10)
        if self.error is not None:
            raise self.error
        with super().read() as session:
            yield session


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Watched]:
    url = f"sqlite:///{tmp_path / 'gammabeta.db'}"
    migrations.upgrade(url)
    found = Watched(url)
    yield found
    found.gate.set()
    found.dispose()


def asked(database: Database, *, fresh: float, patience: float = 10) -> Backlog:
    made = backlog(database)
    made.fresh_seconds, made.patience_seconds = fresh, patience
    return made


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def test_those_who_ask_soon_after_each_other_get_the_same_answer(database: Watched) -> None:
    async def scenario() -> None:
        queue = asked(database, fresh=60)
        together = await asyncio.gather(queue.newest(), queue.newest())
        assert together[0] is together[1] is await queue.newest() is not None
        assert database.reads == 1

    run(scenario)


def test_later_it_is_asked_anew(database: Watched) -> None:
    async def scenario() -> None:
        queue = asked(database, fresh=0)
        assert await queue.newest() == await queue.newest()
        assert database.reads == 2

    run(scenario)


def test_a_database_that_hangs_is_away_and_is_asked_once(database: Watched) -> None:
    async def scenario() -> None:
        queue = asked(database, fresh=60, patience=0.01)
        database.gate.clear()
        assert [await queue.newest() for _ in range(3)] == [None] * 3
        database.gate.set()
        queue.patience_seconds = 10
        assert await queue.newest() == await backlog(database).newest() is not None
        assert database.reads == 2  # one of each

    run(scenario)


@pytest.mark.parametrize("error", [NotReady(), ZeroDivisionError()])
def test_a_database_that_refuses_is_away_until_it_answers(database: Watched, error: Exception) -> None:
    async def scenario() -> None:
        queue = asked(database, fresh=0)
        database.error = error
        assert await queue.newest() is None
        database.error = None
        assert await queue.newest() is not None

    run(scenario)
