"""Places at which a program may be made to die, so that each of them can be shown to be harmless.

    code ──► reached(CHECKPOINT_RENAMED) ──► nothing, unless a rig has armed this process ──► SIGKILL, for instance

No setting arms them: only a program that was written to look for faults calls `arm`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class Failpoint(StrEnum):
    """Every place, in the order in which a job comes by."""

    SUBMIT_BEFORE_COMMIT = "submit_before_commit"
    SUBMIT_AFTER_COMMIT = "submit_after_commit"


Action = Callable[[Failpoint], None]

_armed: list[Action] = []


def arm(action: Action) -> None:
    """Have `action` called at each place that this process, or one forked from it, comes to from here on."""
    _armed[:] = [action]


def reached(place: Failpoint) -> None:
    """The program is at this place."""
    for action in _armed:
        action(place)
