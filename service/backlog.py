"""What the queue has come to, asked of the database when somebody wants to know, and not more often than so."""

from __future__ import annotations

from functools import partial
from typing import TypeAlias

from gammabeta.store import census
from gammabeta.store.census import Census
from gammabeta.store.engine import Database
from service.remembered import Remembered

Backlog: TypeAlias = Remembered[Census]


def backlog(database: Database) -> Backlog:
    """The queue of a database. No answer: the database is away."""
    return Remembered(partial(_count, database), otherwise="queue not counted")


def _count(database: Database) -> Census:
    with database.read() as session:
        return census.take(session)
