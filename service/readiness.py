"""Whether database, keys and blobs can be worked with. Anybody may ask, without a key: so it is found out once a second
at most, for all who ask, and never in a thread that the routes need."""

from __future__ import annotations

from gammabeta.errors import NoSpace, NotReady
from gammabeta.store import migrations
from gammabeta.store.engine import Database
from gammabeta.store.stored import Blobs
from service.keyring import Keyring
from service.remembered import PATIENCE_SECONDS, Remembered


class Readiness:
    """Of one service, for the event loop."""

    def __init__(
        self, database: Database, blobs: Blobs, keyring: Keyring, *, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._database, self._blobs, self._keyring = database, blobs, keyring
        self.found = Remembered(self._look, otherwise="readiness not known", patience_seconds=patience_seconds)

    async def complaints(self) -> list[str]:
        """What is not fine; empty where all is."""
        found = await self.found.newest()
        if found is not None:
            return found
        silent = f"Database and blobs must answer within {self.found.patience_seconds:g} s, and did not."
        return [silent, *(self.found.last or [])]

    def _look(self) -> list[str]:
        return [*(self._of_database() or self._of_keys()), *self._of_blobs()]

    def _of_database(self) -> list[str]:
        try:
            complaint = migrations.complaint(self._database)
        except NotReady as error:
            return [error.message]
        return [] if complaint is None else [complaint]

    def _of_keys(self) -> list[str]:
        try:
            self._keyring.check()
        except NotReady as error:
            return [error.message]
        return []

    def _of_blobs(self) -> list[str]:
        try:
            self._blobs.check()
        except (NoSpace, NotReady) as error:
            return [error.message]
        except OSError as error:
            return [f"The blob folder {self._blobs.location} must be writable. Received: {error.strerror}."]
        return []
