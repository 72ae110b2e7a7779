"""What a worker and its children may never do, whatever runs in them: gain privileges, leave memory on the disk, or,
the children, look into the programs beside them, which have secrets that they have not.

A process cannot take it back, and what it starts inherits it: the worker confines itself, so that no thread of a child,
not one of a library that is imported first, is without it; and each child does again, whoever has started it. How much
memory and time a child may take is its own affair.
"""

from __future__ import annotations

import ctypes
import os
import resource

_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38


def confine() -> None:
    """This thread, and all threads and processes that it starts. Elsewhere than on Linux privileges are not held.

    Raises:
        OSError: the kernel refuses.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # rows of data sets would lie where nobody looks for them
    _prctl("PR_SET_NO_NEW_PRIVS", _PR_SET_NO_NEW_PRIVS, 1)


def conceal() -> None:
    """Let no other process of this user read the memory of this one, nor the environment that it was started with. A
    program that it starts is not concealed.

    Raises:
        OSError: the kernel refuses.
    """
    _prctl("PR_SET_DUMPABLE", _PR_SET_DUMPABLE, 0)


def _prctl(name: str, option: int, value: int) -> None:
    prctl = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)
    if prctl is not None and prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({name}) failed: {os.strerror(number)}")
