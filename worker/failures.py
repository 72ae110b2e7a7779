"""Why a training, or a prediction, cannot go on, by the codes that a job's error has."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from gammabeta.errors import ArtifactCorrupt
from gammabeta.files import FULL
from worker.messages import Failed


class _JobFailed(Exception):
    """`code` says why."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


class TrainingFailed(_JobFailed):
    """The training cannot go on."""


class PredictionFailed(_JobFailed):
    """The prediction cannot go on."""


@dataclass(frozen=True)
class Work:
    """What failed, as it is told of."""

    name: str
    remedy: str
    """Where memory ran out."""
    code: str
    """Of an error that nobody foresaw."""


TRAINING = Work("training", "Write a smaller batch_size or network.", "training_error")
PREDICTION = Work("prediction", "Run it on a machine with more of it.", "prediction_error")


def report_of(error: Exception, work: Work = TRAINING) -> Failed:
    """The last message of a child that raised."""
    match error:
        case _JobFailed():
            return Failed(code=error.code, message=str(error))
        case ArtifactCorrupt():
            return Failed(code=error.code, message=error.message)
        case torch.OutOfMemoryError():
            message = f"The GPU's memory did not hold the {work.name}. {work.remedy} {error}"
            return Failed(code="oom_cuda", message=message)
        case _ if _out_of_memory(error):
            message = f"The machine's memory did not hold the {work.name}. {work.remedy}"
            return Failed(code="oom_host", message=message)
        case _ if _errno(error) in FULL:
            return Failed(
                code="no_space",
                message="There is no space left for checkpoints and results on the worker's disk. Free some.",
                retryable=True,
            )
    return Failed(code=work.code, message=f"{type(error).__name__}: {error}")


def _out_of_memory(error: Exception) -> bool:
    """torch has no class of its own for what its CPU allocator was refused."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error))


def _errno(error: Exception) -> int | None:
    """What the kernel said. Libraries in Rust, which are safetensors and polars, have it in their messages alone."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    said = re.search(r"\(os error (\d+)\)", str(error))
    return int(said[1]) if said else None
