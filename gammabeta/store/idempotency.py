"""The first answer under an Idempotency-Key, given again to a request that is sent again.

    with db.write() as session:
        stored = idempotency.find(session, project_id, owner_id, key, request_hash)
        if stored is None:
            …create the thing…
            idempotency.remember(session, project_id, owner_id, key, status=202, body=…)

One transaction, so that the thing and its answer exist together or not at all. `find` reserves the key: the same
request sent twice at once waits there for the first to end, and then gets its answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from gammabeta.errors import IdempotencyConflict
from gammabeta.store.tables import AnswerRow, now_ms


@dataclass(frozen=True, kw_only=True)
class Stored:
    """An answer that was given."""

    status: int
    body: dict[str, Any]


def find(session: Session, project_id: str, owner_id: str, key: str, request_hash: str) -> Stored | None:
    """The answer to give again. None: this request is the first with the key, which is now reserved for it.

    Raises:
        IdempotencyConflict: the key was used with another request.
    """
    row = _read(session, project_id, owner_id, key)
    if row is None and not _reserve(session, project_id, owner_id, key, request_hash):
        row = _read(session, project_id, owner_id, key)
    if row is None:
        return None
    if row.request_hash != request_hash:
        raise IdempotencyConflict
    return None if row.status is None else Stored(status=row.status, body=row.body or {})


def remember(session: Session, project_id: str, owner_id: str, key: str, *, status: int, body: dict[str, Any]) -> None:
    """Keep the answer with the thing that the same transaction created.

    Raises:
        IdempotencyConflict: another request with the key was answered in the meantime.
    """
    statement = (
        update(AnswerRow)
        .where(*_keyed(project_id, owner_id, key), AnswerRow.status.is_(None))
        .values(status=status, body=body)
        .returning(AnswerRow.key)
        .execution_options(synchronize_session=False)
    )
    if session.scalar(statement) is None:
        raise IdempotencyConflict("A request with this Idempotency-Key was answered in the meantime. Send it again.")


def _read(session: Session, project_id: str, owner_id: str, key: str) -> AnswerRow | None:
    query = select(AnswerRow).where(*_keyed(project_id, owner_id, key)).with_for_update()
    return session.scalar(query.execution_options(populate_existing=True))


def _reserve(session: Session, project_id: str, owner_id: str, key: str, request_hash: str) -> bool:
    place = {"project_id": project_id, "owner_id": owner_id, "key": key}
    try:
        with session.begin_nested():
            session.execute(insert(AnswerRow).values(**place, request_hash=request_hash, created_ms=now_ms()))
    except IntegrityError:
        return False
    return True


def _keyed(project_id: str, owner_id: str, key: str) -> tuple[Any, ...]:
    return AnswerRow.project_id == project_id, AnswerRow.owner_id == owner_id, AnswerRow.key == key
