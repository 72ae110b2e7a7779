"""A rigged program that is told while it runs what to do at which failpoint.

Reins.say(plan) ──► the file that REINS names ──► looked at when the program comes to a place
                                                  `hold`: it takes no job · `name[:nth][=deed]` · nothing
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gammabeta.failpoints import Failpoint
from tests.faults.sabotage import planned

HOLD, WARM = "hold", "warm"


@dataclass(frozen=True)
class Reins:
    """The end that a scenario holds."""

    path: Path

    def say(self, plan: str) -> None:
        """From here on; what is being done is done."""
        written = self.path.with_suffix(".new")
        written.write_text(plan)
        written.rename(self.path)


class Steered:
    """The action for `gammabeta.failpoints.arm`."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._plan = ""
        self._act: Callable[[Failpoint], None] | None = None

    def __call__(self, place: Failpoint) -> None:
        while self._said() == HOLD:
            if place is not Failpoint.CLAIM_BEGUN:
                return
            time.sleep(0.005)
        with self._lock:
            act = self._newest()
        if act is not None:
            act(place)

    def _said(self) -> str:
        return self._path.read_text()

    def _newest(self) -> Callable[[Failpoint], None] | None:
        said = self._said()
        if said != self._plan:
            self._plan, self._act = said, planned(said) if said and said != HOLD else None
        return self._act
