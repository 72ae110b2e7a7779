"""What a program does when it comes to a failpoint: `name[:nth][=deed]`, by default SIGKILL at the first time."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

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
    import torch  # noqa: PLC0415 - a rigged supervisor has no use for it

    raise torch.OutOfMemoryError("CUDA out of memory")


def devour() -> None:
    """Take memory until there is none: the address space is limited to little more than what is in use."""
    import torch  # noqa: PLC0415 - as above

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + (256 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    held = []
    while True:
        held.append(torch.ones(16 << 18))


def gorge() -> None:
    """Take memory until the kernel has enough of it, at the latest after 4 GiB."""
    held = [bytearray(os.urandom(1 << 20)) * 16 for _ in range(256)]
    os._exit(len(held) % 255)


DEEDS: dict[str, Callable[[], None]] = {
    "kill": kill,
    "segfault": segfault,
    "exit": leave,
    "hang": hang,
    "memory": run_out_of_memory,
    "gpu_memory": run_out_of_gpu_memory,
    "devour": devour,
    "gorge": gorge,
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


def trapped(folder: Path) -> Callable[[Failpoint], None]:
    """The action of a program that walks into the traps of a folder, see `tests.faults.traps`."""

    def act(place: Failpoint) -> None:
        held = folder / f"{place}.{os.getpid()}"
        with suppress(FileNotFoundError):
            (folder / place).rename(held)
            while held.exists():
                time.sleep(0.005)

    return act
