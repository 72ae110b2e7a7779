"""API keys.

    gb_Ab12Cd34_<43 characters>_<6>       the id, 256 random bits, CRC-32 of what is before: all in base62
       └─ key_Ab12Cd34 ─► api_keys         with the SHA-256 of the whole text, which is shown once and not kept

256 random bits need no slow hash: nobody can try them. The prefix lets scanners of repositories find a key, and the
checksum tells a mistyped key from an unknown one without asking anybody.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import zlib
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, insert, or_, select, update
from sqlalchemy.orm import Session

from gammabeta.errors import KeyNotFound
from gammabeta.schemas.keys import Key, KeyRequest, NewKey, Scope, lifetime_ms
from gammabeta.store.tables import KeyRow, moment, now_ms

BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
ID, SECRET, CHECKSUM = 8, 43, 6
"""Characters of each part."""
_TEXT = re.compile(rf"gb_[0-9A-Za-z]{{{ID}}}_[0-9A-Za-z]{{{SECRET}}}_[0-9A-Za-z]{{{CHECKSUM}}}", re.ASCII)
_ID_AT = slice(3, 3 + ID)


def is_intact(text: str) -> bool:
    """Whether this has the form of a key, and its checksum fits: if not, it was mistyped or cut."""
    return _TEXT.fullmatch(text) is not None and text.endswith(_checksum(text[: -CHECKSUM - 1]))


def id_of(text: str) -> str:
    """The id of the key that this is, if it is one."""
    return f"key_{text[_ID_AT]}"


def digest(text: str) -> bytes:
    """What is stored of a key."""
    return hashlib.sha256(text.encode()).digest()


def _text(key_id: str) -> str:
    """A new key."""
    begin = f"gb_{key_id}_{_base62(secrets.randbits(256), SECRET)}"
    return f"{begin}_{_checksum(begin)}"


def _checksum(begin: str) -> str:
    return _base62(zlib.crc32(begin.encode()), CHECKSUM)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(BASE62))
        digits.append(BASE62[digit])
    return "".join(reversed(digits))


def create(session: Session, project_id: str, request: KeyRequest) -> NewKey:
    """A key. Its text is in the answer and nowhere else."""
    text = _text("".join(secrets.choice(BASE62) for _ in range(ID)))
    values = {
        "id": id_of(text),
        "project_id": project_id,
        "owner_id": request.owner or id_of(text),
        "name": request.name,
        "secret_sha256": digest(text),
        "scopes": [scope.value for scope in Scope if scope in request.scopes],
        "created_ms": now_ms(),
        "expires_ms": None if request.expires is None else now_ms() + lifetime_ms(request.expires),
    }
    session.execute(insert(KeyRow).values(**values))
    shown = to_schema(_get(session, project_id, id_of(text)), now=0)
    return NewKey(**dict(shown), key=text)


def _get(session: Session, project_id: str | None, key_id: str) -> KeyRow:
    row = session.scalar(select(KeyRow).where(KeyRow.id == key_id, *_of(project_id)))
    if row is None:
        raise KeyNotFound(f"There is no key '{key_id}'. GET /v1/keys or `gammabeta keys list` lists those that exist.")
    return row


def _of(project_id: str | None) -> list[ColumnElement[bool]]:
    return [] if project_id is None else [KeyRow.project_id == project_id]


def find(session: Session, project_id: str | None) -> list[Key]:
    """All keys of the project, the newest first, those too that do not work any more. None: of all projects."""
    now = session.scalars(now_ms().select()).one()
    query = select(KeyRow).where(*_of(project_id))
    return [to_schema(row, now=now) for row in session.scalars(query.order_by(KeyRow.created_ms.desc(), KeyRow.id))]


def revoke(session: Session, project_id: str | None, key_id: str) -> None:
    """End the key of the project (None: of any) for ever. One that was revoked before keeps its time.

    Raises:
        KeyNotFound.
    """
    row = _get(session, project_id, key_id)
    if row.revoked_ms is None:
        own = (KeyRow.id == row.id, KeyRow.revoked_ms.is_(None))
        session.execute(update(KeyRow).where(*own).values(revoked_ms=now_ms()), execution_options=_PLAIN)


def to_schema(row: KeyRow, *, now: int) -> Key:
    """The key as it is shown. `now`: by the database's clock."""
    expired = row.expires_ms is not None and row.expires_ms <= now
    return Key(
        id=row.id,
        name=row.name,
        project=row.project_id,
        owner=row.owner_id,
        scopes=tuple(map(Scope, row.scopes)),
        state="revoked" if row.revoked_ms is not None else "expired" if expired else "active",
        created_at=moment(row.created_ms),
        expires_at=None if row.expires_ms is None else moment(row.expires_ms),
        revoked_at=None if row.revoked_ms is None else moment(row.revoked_ms),
        last_used_at=None if row.last_used_ms is None else moment(row.last_used_ms),
    )


_PLAIN = {"synchronize_session": False}


# ── for who checks them ──


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """What a check needs of a key."""

    id: str
    project_id: str
    owner_id: str
    sha256: bytes
    scopes: frozenset[str]
    revoked: bool
    left_ms: int | None
    """Until it expires, from when it was read; below 0: since it has. None: it never does."""


def stored(session: Session) -> list[Stored]:
    """All keys of all projects, those too that do not work any more, so that their holders can be told."""
    return [
        Stored(
            id=row.id,
            project_id=row.project_id,
            owner_id=row.owner_id,
            sha256=bytes(row.secret_sha256),
            scopes=frozenset(row.scopes),
            revoked=row.revoked_ms is not None,
            left_ms=None if row.expires_ms is None else row.expires_ms - now,
        )
        for row, now in session.execute(select(KeyRow, now_ms()))
    ]


def changes(session: Session) -> int:
    """Moves whenever `stored` may have changed: keys are only ever made and revoked, each once."""
    return session.scalars(select(func.count() + func.count(KeyRow.revoked_ms)).select_from(KeyRow)).one()


def any_was_made(session: Session) -> bool:
    """Whether there ever was a key, be it one that does not work any more."""
    return session.scalar(select(KeyRow.id).limit(1)) is not None


def any_works(session: Session) -> bool:
    """Whether there is a key with which the service can be asked for anything."""
    alive = or_(KeyRow.expires_ms.is_(None), KeyRow.expires_ms > now_ms())
    return session.scalar(select(KeyRow.id).where(KeyRow.revoked_ms.is_(None), alive).limit(1)) is not None


def note_use(session: Session, key_ids: Collection[str]) -> None:
    """These keys were used just now."""
    statement = update(KeyRow).where(KeyRow.id.in_(key_ids)).values(last_used_ms=now_ms())
    session.execute(statement, execution_options=_PLAIN)
