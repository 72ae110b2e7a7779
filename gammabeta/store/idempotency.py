"""The first answer under an Idempotency-Key, given again to a request that is sent again.

    with db.write() as session:
        stored = idempotency.find(session, project_id, owner_id, key, request_hash)
        if stored is None:
            …create the thing…
            idempotency.remember(session, project_id, owner_id, key, status=202, body=…)

One transaction, so that the thing and its answer exist together or not at all. `find` reserves the key: the same
request sent twice at once waits there for the first to end, and then gets its answer. `peek`, which only reads, spares
most of those that are sent again the transaction that writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, bindparam, select, update
from sqlalchemy.orm import Session

from gammabeta.errors import IdempotencyConflict
from gammabeta.store.tables import AnswerRow, core, now_ms
from gammabeta.store.together import inserting_if_absent

_ANSWERS = core(AnswerRow)
_KEYED = (
    _ANSWERS.c.project_id == bindparam("of_project"),
    _ANSWERS.c.owner_id == bindparam("of_owner"),
    _ANSWERS.c.key == bindparam("under"),
)
_RESERVE = inserting_if_absent(_ANSWERS, created_ms=now_ms())
_READ = select(_ANSWERS.c.request_hash, _ANSWERS.c.status, _ANSWERS.c.body).where(*_KEYED)
_LOCK = _READ.with_for_update()
_REMEMBER = (
    update(_ANSWERS)
    .where(*_KEYED, _ANSWERS.c.status.is_(None))
    .values(status=bindparam("answered"), body=bindparam("answer"))
    .returning(_ANSWERS.c.key)
)


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
    place = {"project_id": project_id, "owner_id": owner_id, "key": key}
    if _RESERVE(session, place | {"request_hash": request_hash}):
        return None
    return _stored(session.execute(_LOCK, _keyed(project_id, owner_id, key)).one(), request_hash)


def peek(session: Session, project_id: str, owner_id: str, key: str, request_hash: str) -> Stored | None:
    """As `find`, and reserves nothing and waits for nobody: None may as well mean that the first request is not done.

    Raises:
        IdempotencyConflict: the key was used with another request.
    """
    row = session.execute(_READ, _keyed(project_id, owner_id, key)).one_or_none()
    return None if row is None else _stored(row, request_hash)


def is_answered(session: Session, project_id: str, owner_id: str, key: str, *, prefix: str) -> bool:
    """Whether a request under this key was answered, be it the same or another, with a thing whose id has this prefix:
    `ds` of an upload."""
    row = session.execute(_READ, _keyed(project_id, owner_id, key)).one_or_none()
    return row is not None and str((row.body or {}).get("id")).startswith(f"{prefix}_")


def _stored(row: Row[Any, Any, Any], request_hash: str) -> Stored | None:
    if row.request_hash != request_hash:
        raise IdempotencyConflict
    return None if row.status is None else Stored(status=row.status, body=row.body or {})


def remember(session: Session, project_id: str, owner_id: str, key: str, *, status: int, body: dict[str, Any]) -> None:
    """Keep the answer with the thing that the same transaction created.

    Raises:
        IdempotencyConflict: another request with the key was answered in the meantime.
    """
    answer = {"answered": status, "answer": body}
    if session.scalar(_REMEMBER, _keyed(project_id, owner_id, key) | answer) is None:
        raise IdempotencyConflict("A request with this Idempotency-Key was answered in the meantime. Send it again.")


def _keyed(project_id: str, owner_id: str, key: str) -> dict[str, Any]:
    return {"of_project": project_id, "of_owner": owner_id, "under": key}
