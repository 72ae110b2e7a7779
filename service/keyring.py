"""Who asks: the API keys, in memory.

    Authorization: Bearer gb_Ab12Cd34_… ──id──► Held ──SHA-256──► Caller
                                                 ▲
    api_keys ──Keyring.watch, every 250 ms───────┘   a request asks no database

There is nothing to ask for as long as there has never been a key, and only on loopback. From the first key on each
request needs one, even if all were revoked since: whoever revokes a stolen key does not open the service by that.
While the database does not answer, the keys that were read last hold; before they were read, nobody is let in.
"""

from __future__ import annotations

import asyncio
import hmac
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import anyio
import anyio.to_thread

from gammabeta import logs
from gammabeta.errors import Forbidden, NoSpace, NotReady, Unauthorized
from gammabeta.schemas.keys import Scope
from gammabeta.store import keys, migrations
from gammabeta.store.engine import Database
from gammabeta.store.tables import DEFAULT_PROJECT

SCHEME = "bearer"
NOTED_SECONDS = 60.0
"""How often the use of a key is written down, at most."""

log = logs.get(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Who sent a request, and what he may do."""

    project_id: str
    owner_id: str
    scopes: frozenset[str]
    key_id: str | None
    """None: no key was asked for."""

    def check(self, allowed: frozenset[str]) -> None:
        """Go on if the caller has one of these scopes.

        Raises:
            Forbidden
        """
        if self.scopes.isdisjoint(allowed):
            needed = " or ".join(scope for scope in Scope if scope in allowed)
            has = ", ".join(scope for scope in Scope if scope in self.scopes)
            raise Forbidden(
                f"This needs a key with the scope {needed}. Received: {self.key_id}, which has {has}. Use another key, "
                "or make one: gammabeta keys create."
            )


ANYONE = Caller(project_id=DEFAULT_PROJECT, owner_id="local", scopes=frozenset(Scope), key_id=None)
"""Whoever asks while there is no key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A key in memory."""

    sha256: bytes
    caller: Caller
    revoked: bool
    until: float | None
    """On the clock of time.monotonic. None: it does not expire."""

    @property
    def ended(self) -> str | None:
        """How it did; None: it works."""
        if self.revoked:
            return "revoked"
        return "expired" if self.until is not None and time.monotonic() >= self.until else None


class Keyring:
    """All keys of the database. `open_without`: nobody is asked for a key before there is one. `on_change` is called on
    the event loop after keys were made or revoked. `caller`, `works`, `watch` and `watch_use` belong to the
    event loop."""

    def __init__(self, database: Database, *, open_without: bool, on_change: Callable[[], None] = lambda: None) -> None:
        self._database, self._open, self._on_change = database, open_without, on_change
        self._held: dict[str, Held] | None = None
        self._why = "Try again in a moment."
        self._changes: int | None = None
        self._told: int | None = None
        self._used: set[str] = set()
        self._noted: dict[str, float] = {}
        self._lock = threading.Lock()
        """Held while they are read, so that what was read earlier never takes the place of what was read later."""
        self._threads, self._noting = anyio.CapacityLimiter(1), anyio.CapacityLimiter(1)

    def caller(self, authorization: str | None) -> Caller:
        """Who sends this header.

        Raises:
            Unauthorized: nobody, or by a key that does not work.
            NotReady: the keys could not be read yet.
        """
        held = self._known()
        if not held and self._open:
            return ANYONE
        if authorization is None:
            raise Unauthorized
        scheme, _, text = authorization.partition(" ")
        found = held.get(keys.id_of(text))
        # An id is no secret: that it is looked up in another time than one that there is not tells nothing.
        if found is None or scheme.lower() != SCHEME or not hmac.compare_digest(found.sha256, keys.digest(text)):
            raise Unauthorized(_refusal(scheme, text))
        if ended := found.ended:
            raise Unauthorized(f"The key {found.caller.key_id} is {ended}. Use another one.")
        self._used.add(found.caller.key_id or "")
        return found.caller

    def works(self, caller: Caller) -> bool:
        """Whether this caller would be let in now."""
        held = self._known()
        if caller.key_id is None:
            return self._open and not held
        found = held.get(caller.key_id)
        return found is not None and found.ended is None

    def check(self) -> None:
        """Go on if it is known who may be let in.

        Raises:
            NotReady: the keys could not be read yet.
        """
        self._known()

    def _known(self) -> dict[str, Held]:
        if self._held is None:
            raise NotReady(f"The keys could not be read yet, and nobody is let in. {self._why}")
        return self._held

    def refresh(self) -> None:
        """Read the keys if they have changed. For any thread; the next request knows them.

        Raises:
            NotReady: the database cannot be reached, or must not be used.
        """
        if self._held is None and (complaint := migrations.complaint(self._database)):
            self._why = complaint
            raise NotReady(complaint)
        with self._lock, self._database.read() as session:
            changes = keys.changes(session)
            if changes != self._changes:
                self._held = {each.id: _held(each) for each in keys.stored(session)}
                self._changes = changes

    def learn(self) -> None:
        """Read the keys after a change that is committed: what it was has to be told whether they can be read or not,
        and else the watch finds it. For any thread."""
        try:
            self.refresh()
        except NotReady as error:
            log.warning("keys not read after a change, the watch will", error=error.message)

    async def watch(self, *, every: float) -> None:
        """Follow what any process does to the keys, for as long as the service runs."""
        while True:
            try:
                await anyio.to_thread.run_sync(self.refresh, limiter=self._threads)
                self._tell()
            except NotReady as error:
                log.warning("keys not read, those that were read before hold", error=error.message)
            await asyncio.sleep(every)

    async def watch_use(self, *, every: float) -> None:
        """Note when keys were used last. Apart from `watch`: a write may have to wait, and a revocation must not."""
        while True:
            try:
                await self._note_use()
            except (NotReady, NoSpace) as error:
                log.warning("the use of keys was not noted", error=error.message)
            await asyncio.sleep(every)

    def _tell(self) -> None:
        if self._told != self._changes:
            self._told = self._changes
            self._on_change()

    async def _note_use(self) -> None:
        now = time.monotonic()
        due = {each for each in self._used if now - self._noted.get(each, -NOTED_SECONDS) >= NOTED_SECONDS}
        if not due:
            return
        await anyio.to_thread.run_sync(self._write_use, due, limiter=self._noting)
        self._used -= due
        self._noted.update(dict.fromkeys(due, now))

    def _write_use(self, key_ids: set[str]) -> None:
        with self._database.write() as session:
            keys.note_use(session, key_ids)


def _held(stored: keys.Stored) -> Held:
    return Held(
        sha256=stored.sha256,
        caller=Caller(project_id=stored.project_id, owner_id=stored.owner_id, scopes=stored.scopes, key_id=stored.id),
        revoked=stored.revoked,
        until=None if stored.left_ms is None else time.monotonic() + stored.left_ms / 1_000,
    )


def _refusal(scheme: str, text: str) -> str:
    """Without what was received, which may be a key all but for a letter."""
    if scheme.lower() != SCHEME:
        return "The header Authorization must be `Bearer KEY`. Received: another scheme."
    if not keys.is_intact(text):
        return "The key must be as it was printed, gb_ and all. Received: one that was cut or mistyped."
    return "The key must be one of this service. Received: one that it does not know."
