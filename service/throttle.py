"""How often one key may submit: a bucket of tokens for each, which fills at `GAMMABETA_SUBMITS_PER_SECOND`.

    POST ──Depends(paced)──► a token? ──► the route, which reads the body
                                └─ none: 429, and when there will be one

The buckets are those of this process: as many replicas take as many times more. What must be exact is counted in the
database, by `store.limits`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from fastapi import Depends, Request

from gammabeta.errors import TooOften
from service.access import By

SECONDS_AT_ONCE = 10
"""What a full bucket holds: so many seconds' worth, and at least one token."""


class Throttle:
    """The buckets of all who submit, by who they are. It belongs to the event loop."""

    def __init__(self, per_second: float | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        """None: nothing is held back."""
        self._rate, self._clock = per_second, clock
        self._buckets: dict[tuple[str, str], tuple[float, float]] = {}
        """Tokens, and when there were so many."""

    def take(self, project_id: str, owner_id: str) -> None:
        """A token for one submission.

        Raises:
            TooOften: there is none. It tells how many seconds there will be none.
        """
        if self._rate is None:
            return
        full, now = max(1.0, self._rate * SECONDS_AT_ONCE), self._clock()
        tokens, then = self._buckets.get((project_id, owner_id), (full, now))
        tokens = min(full, tokens + (now - then) * self._rate)
        if tokens < 1:
            raise _too_often(self._rate, wait=(1 - tokens) / self._rate)
        self._buckets[project_id, owner_id] = tokens - 1, now


def _too_often(rate: float, *, wait: float) -> TooOften:
    error = TooOften(f"One key may submit {rate:g} times a second. Received: more. Send it again in {wait:.1f} s.")
    error.retry_after = math.ceil(wait)  # the header has whole seconds, and a token must be there then
    return error


async def paced(request: Request, caller: By) -> None:
    """Let a submission pass if its key has not sent too many. It comes before the body is read."""
    request.app.state.context.throttle.take(caller.project_id, caller.owner_id)


PACED = Depends(paced)
