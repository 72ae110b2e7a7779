"""Statements that save round trips to PostgreSQL, each in the one shape that both databases have, or in two.

Together              WITH first AS (INSERT …), second AS (UPDATE …) UPDATE …     SQLite: one after the other
inserting_if_absent   INSERT … ON CONFLICT DO NOTHING RETURNING …
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import ColumnElement, Insert, Table, Update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session


class Together:
    """Statements that write and need nothing of each other. All are given the same values, by the names of their
    parameters; none sees what another writes."""

    def __init__(self, *statements: Insert | Update) -> None:
        *others, last = statements
        self._each = statements
        self._one = last.add_cte(*(each.cte(f"part_{number}") for number, each in enumerate(others)))

    def execute(self, session: Session, values: dict[str, Any]) -> None:
        """In the session's transaction."""
        for statement in (self._one,) if on_postgresql(session) else self._each:
            session.execute(statement, values)


def inserting_if_absent(table: Table, **computed: ColumnElement[Any]) -> Callable[[Session, dict[str, Any]], bool]:
    """Inserts a row. False: one with its key is there, perhaps of a transaction that had to be waited for."""
    key = next(iter(table.primary_key))
    on_sqlite = sqlite.insert(table).values(computed).on_conflict_do_nothing().returning(key)
    on_other = postgresql.insert(table).values(computed).on_conflict_do_nothing().returning(key)

    def insert(session: Session, row: dict[str, Any]) -> bool:
        return session.scalar(on_other if on_postgresql(session) else on_sqlite, row) is not None

    return insert


def on_postgresql(session: Session) -> bool:
    """Whether a statement that writes can be part of another."""
    return session.get_bind().dialect.name == "postgresql"
