"""Which database a store of bytes belongs to: what no row of it names is removed, so no other may take it for its own.

first sweep ──► `owner` in the store ──► every sweep compares
                                     └──► another database's: nothing is removed
restored    ──► a new identity, written over `owner`: from now on the world before removes nothing
"""

from __future__ import annotations

import secrets

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from gammabeta.store.engine import Database
from gammabeta.store.stored import Blobs
from gammabeta.store.tables import DEFAULT_PROJECT, ProjectRow, now_ms

DAY_MS = 86_400_000


def identity(session: Session) -> str:
    """What tells this database from others: the millisecond in which its first migration ran, or the one that was drawn
    when it was restored. It lies in the database, so that it goes along when the rows move to another server."""
    created_ms = session.scalars(select(ProjectRow.created_ms).where(ProjectRow.id == DEFAULT_PROJECT)).one()
    return f"database of {created_ms}"


def draw(session: Session) -> None:
    """Give the database an identity of its own, which nothing has that came out of the same backup: a millisecond of
    the last day, by chance, since two may be restored at one moment."""
    ours = update(ProjectRow).where(ProjectRow.id == DEFAULT_PROJECT)
    session.execute(ours.values(created_ms=now_ms() - secrets.randbelow(DAY_MS)))


def take(db: Database, blobs: Blobs) -> None:
    """Make the store this database's, whoever had it before."""
    with db.read() as session:
        ours = identity(session)
    blobs.give(ours)
