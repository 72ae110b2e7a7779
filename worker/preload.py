"""What the forkserver imports once, so that a trainer or predictor is forked with torch in memory: milliseconds, not
seconds. What a predictor needs besides, polars, it imports itself: its threads would not survive a fork either.

The one module whose import does something, since a forkserver offers no other place: it binds the forkserver's life to
the supervisor's. Nothing here may run an operation of torch: its thread pools do not survive a fork.
"""

from __future__ import annotations

import gc

import torch._dynamo  # noqa: F401 - the first optimizer of a process imports it, for a second

from worker import parentage, trainer  # noqa: F401

parentage.die_with_parent()
gc.freeze()  # a collection in a child would touch, and so copy, the pages of everything above
