"""The memory of the worker's GPUs, by NVIDIA's library of the driver (NVML). It needs neither torch nor a context on
the GPU, and it knows what other programs take there too.

    cuda:1 ─► CUDA_VISIBLE_DEVICES=2,3 ─► the GPU with the number 3 ─► NVML ─► used, total

NVML numbers GPUs by their place on the bus. So does CUDA where all are of one kind, or CUDA_DEVICE_ORDER is PCI_BUS_ID.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import pynvml
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gammabeta import logs

log = logs.get(__name__)


class Unreadable(Exception):
    """The driver tells nothing."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """In bytes."""

    used: int
    total: int


class Gpu(Protocol):
    """One of the machine."""

    @property
    def uuid(self) -> str: ...

    def memory(self) -> Memory:
        """Raises Unreadable."""


class GpuMemory(Collector):
    """Asked for whenever somebody scrapes. What cannot be read is not told, and keeps nothing else from being told."""

    def __init__(
        self, names: Sequence[str], *, visible: str | None, present: Callable[[], Sequence[Gpu]] | None = None
    ):
        """`names`: as torch has them; `visible`: CUDA_VISIBLE_DEVICES; `present`: the GPUs of the machine, or raises
        Unreadable."""
        self._names, self._visible, self._present = names, visible, present or by_nvml
        self._complained: str | None = None

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily("gammabeta_worker_gpu_memory_bytes", "Memory of GPUs.", labels=("device", "kind"))
        try:
            shown = seen_by_cuda(self._present(), self._visible)
            for name in self._names:
                memory = _named(name, shown).memory()
                family.add_metric((name, "used"), memory.used)
                family.add_metric((name, "total"), memory.total)
        except Unreadable as error:
            self._complain(str(error))
            return
        self._complained = None
        yield family

    def _complain(self, why: str) -> None:
        """Once, and not at each scrape."""
        if why != self._complained:
            self._complained = why
            log.warning("the memory of GPUs is not told", why=why)


def seen_by_cuda(present: Sequence[Gpu], visible: str | None) -> list[Gpu]:
    """The GPUs in the order in which CUDA numbers them: as CUDA_VISIBLE_DEVICES lists them, by their numbers or by how
    their UUIDs begin, up to the first that is none."""
    if visible is None:
        return list(present)
    shown: list[Gpu] = []
    for entry in map(str.strip, visible.split(",")):
        gpu = _called(entry, present)
        if gpu is None:
            break
        shown.append(gpu)
    return shown


def _called(entry: str, present: Sequence[Gpu]) -> Gpu | None:
    if entry.isdecimal():
        return present[int(entry)] if int(entry) < len(present) else None
    return next((each for each in present if entry.startswith("GPU-") and each.uuid.startswith(entry)), None)


def _named(name: str, shown: Sequence[Gpu]) -> Gpu:
    number = name.partition(":")[2] or "0"
    if not number.isdecimal() or int(number) >= len(shown):
        raise Unreadable(f"{name} is none of the {len(shown)} GPUs that NVML and CUDA_VISIBLE_DEVICES show")
    return shown[int(number)]


@dataclass(frozen=True, kw_only=True)
class NvmlGpu:
    """One that NVML told of."""

    uuid: str
    handle: object

    def memory(self) -> Memory:
        with _translated():
            found = pynvml.nvmlDeviceGetMemoryInfo(self.handle)
        return Memory(used=found.used, total=found.total)


def by_nvml() -> list[NvmlGpu]:
    """The GPUs of this machine, or of this container. Raises Unreadable."""
    with _translated():
        pynvml.nvmlInit()  # which counts how often it was called, and does nothing but the first time
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [NvmlGpu(uuid=pynvml.nvmlDeviceGetUUID(handle), handle=handle) for handle in handles]


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except pynvml.NVMLError as exc:
        raise Unreadable(str(exc)) from exc
