"""A child that does not outlive its parent.

    supervisor ──pipe──► trainer          the pipe ends with the supervisor: `link.Link` leaves the process
         │                  ▲
         └──► forkserver ───┘             each dies by SIGKILL with the process above it: `die_with_parent`

A trainer that was forked has the forkserver for its parent and not the supervisor, so that one of the two guards alone
would let it live on.
"""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends.

    The kernel counts the *thread* that started this process as the parent, so a supervisor has to start its children
    in a thread that lives as long as itself. Elsewhere than on Linux there is no such guard, and the pipe alone tells.
    """
    parent = os.getppid()
    prctl = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)
    if prctl is None:
        return
    if prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_PDEATHSIG) failed: {os.strerror(number)}")
    if os.getppid() != parent:  # it ended before the kernel knew
        os.kill(os.getpid(), signal.SIGKILL)


def lead_own_session() -> None:
    """Leave the supervisor's session, so that Ctrl-C on its terminal is the supervisor's to handle."""
    if os.getsid(0) != os.getpid():
        os.setsid()
