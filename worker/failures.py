"""Why a training cannot go on, by the codes that a job's error has."""

from __future__ import annotations

import re

import torch
from safetensors import SafetensorError

from gammabeta.files import FULL
from worker.messages import Failed


class TrainingFailed(Exception):
    """The training cannot go on; `code` says why."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


def report_of(error: Exception) -> Failed:
    """The last message of a trainer that raised."""
    match error:
        case TrainingFailed():
            return Failed(code=error.code, message=str(error))
        case torch.OutOfMemoryError():
            return Failed(
                code="oom_cuda",
                message=f"The GPU's memory did not hold the training. Write a smaller batch_size or network. {error}",
            )
        case _ if _out_of_memory(error):
            return Failed(
                code="oom_host",
                message="The machine's memory did not hold the training. Write a smaller batch_size or network.",
            )
        case _ if _errno(error) in FULL:
            return Failed(
                code="no_space",
                message="There is no space left for checkpoints and results on the worker's disk. Free some.",
                retryable=True,
            )
    return Failed(code="training_error", message=f"{type(error).__name__}: {error}")


def _out_of_memory(error: Exception) -> bool:
    """torch has no class of its own for what its CPU allocator was refused."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error))


def _errno(error: Exception) -> int | None:
    """What the kernel said. safetensors has it in its message alone."""
    if isinstance(error, SafetensorError):
        said = re.search(r"\(os error (\d+)\)", str(error))
        return int(said[1]) if said else None
    return error.errno if isinstance(error, OSError) else None
