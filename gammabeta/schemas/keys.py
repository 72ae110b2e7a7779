"""API keys: what one may do, how it is asked for, and how it is shown."""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from gammabeta.schemas.base import Answer, Name, Request

UNITS_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}
LONGEST_DAYS = 3_650


class Scope(StrEnum):
    """What a key allows. None contains another: a key has the scopes that it was given."""

    READ = "read"
    """Look at everything: data sets, jobs, models, files, workers."""
    TRAIN = "train"
    """Upload and delete data sets; submit, cancel, pause, resume, retry and delete jobs."""
    PREDICT = "predict"
    """Ask models for predictions."""
    ADMIN = "admin"
    """Make and revoke keys, move aliases, load, unload and delete models, read the metrics of the process."""


def _checked(lifetime: str) -> str:
    if not 0 < lifetime_ms(lifetime) <= LONGEST_DAYS * UNITS_MS["d"]:
        message = "must be a number of days, hours or minutes such as 90d, 12h or 30m, and at most {days}d"
        raise PydanticCustomError("invalid", message, {"days": LONGEST_DAYS})
    return lifetime


def lifetime_ms(lifetime: str) -> int:
    """`90d` in milliseconds; 0 where it is no such text."""
    found = re.fullmatch(r"([0-9]{1,9})([mhd])", lifetime, re.ASCII)
    return int(found[1]) * UNITS_MS[found[2]] if found else 0


Lifetime = Annotated[str, AfterValidator(_checked), Field(json_schema_extra={"pattern": "^[0-9]{1,9}[mhd]$"})]


class KeyRequest(Request):
    """A key to be made."""

    name: Name
    """What it is for. Several keys may have the same name, such as an old one and the one that replaces it."""
    scopes: tuple[Scope, ...] = Field(min_length=1, max_length=len(Scope))
    expires: Lifetime | None = None
    """After how long it stops working: `90d`, `12h`, `30m`. By default never."""
    owner: Name | None = None
    """Whose jobs are counted together, where the limits are per key, and who shares Idempotency-Keys. By default each
    key is its own."""


class Key(Answer):
    """A key, without what makes it work."""

    id: str
    """Also the beginning of the key: `key_Ab12Cd34` is that of `gb_Ab12Cd34_…`."""
    name: str
    project: str
    """What it lets its holder see and change: the things of this project, and no others."""
    owner: str
    scopes: tuple[Scope, ...]
    state: Literal["active", "expired", "revoked"]
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    """Up to a minute late."""


class NewKey(Key):
    """A key that was just made."""

    key: str | None
    """The key itself. It is shown here and never again: only its hash is stored. null: it was shown before, to the same
    request under the same Idempotency-Key."""
