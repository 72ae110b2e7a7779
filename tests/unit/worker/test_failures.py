"""Errors by their codes."""

from __future__ import annotations

import errno
import resource
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from worker.failures import TrainingFailed, report_of


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        (TrainingFailed("non_finite_loss", "at step 3"), "non_finite_loss", False),
        (torch.OutOfMemoryError("CUDA out of memory"), "oom_cuda", False),
        (MemoryError(), "oom_host", False),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "oom_host", False),
        (OSError(errno.ENOSPC, "No space left on device"), "no_space", True),
        (OSError(errno.EACCES, "Permission denied"), "training_error", False),
        (RuntimeError("shapes differ"), "training_error", False),
    ],
)
def test_error_becomes_a_failed_message(error: Exception, code: str, retryable: bool) -> None:
    report = report_of(error)
    assert (report.code, report.retryable) == (code, retryable)
    assert report.message


def test_what_torch_raises_without_memory_is_told_as_that() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(10**15)
    assert report_of(raised.value).code == "oom_host"


def test_what_safetensors_raises_on_a_full_disk_is_told_as_that(tmp_path: Path) -> None:
    """The limit on the size of a file stands in for the disk."""
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, unlimited[1]))
    try:
        with pytest.raises(SafetensorError) as raised:
            save_file({"x": torch.zeros(1_000)}, tmp_path / "weights.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    report = report_of(raised.value)
    assert (report.code, report.retryable) == ("no_space", True)
