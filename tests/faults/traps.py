"""Traps: a thread that comes to a place where one was laid waits there until it is let go.

lay(PLACE) ──► file `place` ──► who comes first renames it to `place.<pid>`, and waits for as long as that is there
"""

from __future__ import annotations

from pathlib import Path

from gammabeta.failpoints import Failpoint
from tests.integration.workshop import until


class Traps:
    """Those of one workshop; its rigged workers walk into them."""

    def __init__(self, home: Path) -> None:
        self._folder = home / "traps"
        self._folder.mkdir(exist_ok=True)

    def lay(self, place: Failpoint) -> None:
        """Catch the next thread that comes by."""
        (self._folder / place).touch()

    def caught(self, place: Failpoint) -> int:
        """The process id of who was, once somebody is."""
        found = until(lambda: next(self._folder.glob(f"{place}.*"), None), f"somebody to come to {place}")
        return int(found.suffix.removeprefix("."))

    def let_go(self) -> None:
        """All that were caught, and whatever would still catch one."""
        for path in self._folder.iterdir():
            path.unlink()
