"""Places at which a program may be made to die, so that each of them can be shown to be harmless.

    code ──► reached(CHECKPOINT_STORED) ──► nothing, unless a rig has armed this process ──► SIGKILL, for instance

No setting arms them: only a program that was written to look for faults calls `arm`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class Failpoint(StrEnum):
    """Every place, program by program, in the order in which a job comes by."""

    # the service
    UPLOAD_PARTIAL = "upload_partial"
    UPLOAD_RECEIVED = "upload_received"
    UPLOAD_KEPT = "upload_kept"
    UPLOAD_COMMITTED = "upload_committed"
    SUBMIT_BEFORE_COMMIT = "submit_before_commit"
    SUBMIT_AFTER_COMMIT = "submit_after_commit"
    CANCEL_BEFORE_COMMIT = "cancel_before_commit"
    CANCEL_AFTER_COMMIT = "cancel_after_commit"

    # the worker
    CLAIM_BEGUN = "claim_begun"
    CLAIM_BEFORE_COMMIT = "claim_before_commit"
    AFTER_CLAIM = "after_claim"
    LEASE_BEGUN = "lease_begun"
    CHILD_STARTED = "child_started"
    ORDER_SENT = "order_sent"
    STARTED_WRITTEN = "started_written"
    LEASE_BEFORE_COMMIT = "lease_before_commit"
    CHECKPOINT_HEARD = "checkpoint_heard"
    CHECKPOINT_STORED = "checkpoint_stored"
    CHECKPOINT_ROW_BEFORE_COMMIT = "checkpoint_row_before_commit"
    CHECKPOINT_ROW_COMMITTED = "checkpoint_row_committed"
    OLDER_ROWS_DROPPED = "older_rows_dropped"
    RESULT_HEARD = "result_heard"
    WEIGHTS_STORED = "weights_stored"
    PUBLISH_BEFORE_COMMIT = "publish_before_commit"
    PUBLISH_AFTER_COMMIT = "publish_after_commit"
    CLEANUP_MID = "cleanup_mid"
    STOP_BEFORE_COMMIT = "stop_before_commit"
    STOP_AFTER_COMMIT = "stop_after_commit"
    REAP_BEFORE_COMMIT = "reap_before_commit"
    REAP_AFTER_COMMIT = "reap_after_commit"
    DRAIN_BEGUN = "drain_begun"
    DRAINED = "drained"

    # whoever stores a file
    FILE_COPIED = "file_copied"
    FILE_RENAMED = "file_renamed"

    # the trainer
    JOB_RECEIVED = "job_received"
    FIRST_STEP = "first_step"
    LATER_STEP = "later_step"
    EPOCH_CLOSED = "epoch_closed"
    CHECKPOINT_PARTIAL = "checkpoint_partial"
    CHECKPOINT_UNRENAMED = "checkpoint_unrenamed"
    CHECKPOINT_UNREPORTED = "checkpoint_unreported"
    RESULT_PARTIAL = "result_partial"
    RESULT_UNREPORTED = "result_unreported"


Action = Callable[[Failpoint], None]

_armed: list[Action] = []


def arm(action: Action) -> None:
    """Have `action` called at each place that this process, or one forked from it, comes to from here on."""
    _armed[:] = [action]


def reached(place: Failpoint) -> None:
    """The program is at this place."""
    for action in _armed:
        action(place)
