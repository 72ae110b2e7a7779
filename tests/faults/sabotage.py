"""What a program does when it comes to a failpoint: `name[:nth][=deed]`, by default SIGKILL at the first time."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable

import torch

from gammabeta.failpoints import Failpoint


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def segfault() -> None:
    ctypes.string_at(0)


def leave() -> None:
    os._exit(1)


def hang() -> None:
    """Busy, and deaf to whoever asks it to stop."""
    while True:
        pass


def run_out_of_memory() -> None:
    raise MemoryError("none left")


def run_out_of_gpu_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


DEEDS: dict[str, Callable[[], None]] = {
    "kill": kill,
    "segfault": segfault,
    "exit": leave,
    "hang": hang,
    "memory": run_out_of_memory,
    "gpu_memory": run_out_of_gpu_memory,
}


def planned(plan: str) -> Callable[[Failpoint], None]:
    """The action for `gammabeta.failpoints.arm`."""
    place, _, deed = plan.partition("=")
    name, _, nth = place.partition(":")
    wanted, do, left = Failpoint(name), DEEDS[deed or "kill"], [int(nth or 1)]

    def act(place: Failpoint) -> None:
        if place is wanted:
            left[0] -= 1
            if left[0] == 0:
                do()

    return act
