"""Which database a store of bytes belongs to: what no row of it names is removed, so no other may take it for its own.

first sweep ──► `owner` in the store ──► every sweep compares
                                     └──► another database's: nothing is removed
"""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from gammabeta.store.tables import DEFAULT_PROJECT, ProjectRow


def identity(session: Session) -> str:
    """What tells this database from others: the millisecond in which its first migration ran. It lies in the database,
    so that it comes back with a backup, and goes along when the rows move to another server."""
    created_ms = session.scalars(select(ProjectRow.created_ms).where(ProjectRow.id == DEFAULT_PROJECT)).one()
    return f"database of {created_ms}"
