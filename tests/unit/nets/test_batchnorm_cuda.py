"""The layer on a GPU gives what it gives on the CPU, and never waits for the GPU to look at a batch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from gammabeta.nets.batchnorm import BatchNorm
from gammabeta.schemas.normalization import BatchNorm as Spec

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

CLIPPING = {"rmax": 3, "rmin": "1/rmax", "dmax": 5}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "biased": {"fused": False},
    "ghost": {"virtual_batch_size": 4},
    "renorm": {"renorm": True, "renorm_clipping": CLIPPING},
    "renorm and ghost": {"renorm": True, "renorm_clipping": CLIPPING, "virtual_batch_size": 4},
    "adjustment": {"adjustment": {"kind": "uniform", "scale": [0.9, 1.1]}},
    "two axes": {"axis": [1, 3]},
}
every_kind = pytest.mark.parametrize("arguments", KINDS.values(), ids=KINDS)


def pair(arguments: dict[str, Any]) -> tuple[BatchNorm, BatchNorm]:
    norm = BatchNorm(Spec(**arguments), (6, 5, 8))
    return norm, copy.deepcopy(norm).cuda()


def batch(seed: int) -> Tensor:
    return torch.randn(16, 8, 6, 5, generator=torch.Generator().manual_seed(seed)) * 2 + 1


@every_kind
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_outputs_gradients_and_statistics_are_those_of_the_cpu(
    arguments: dict[str, Any], memory_format: torch.memory_format
) -> None:
    norm, twin = pair(arguments)
    for step in range(3):
        x = batch(step).contiguous(memory_format=memory_format).requires_grad_()
        copied = x.detach().cuda().requires_grad_()
        y, other = norm(x), twin(copied)
        (y**3).sum().backward()
        (other**3).sum().backward()
        torch.testing.assert_close(other.cpu(), y, rtol=1e-4, atol=1e-5)
        assert x.grad is not None
        assert copied.grad is not None
        torch.testing.assert_close(copied.grad.cpu(), x.grad, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(twin.averages.cpu(), norm.averages, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(twin.eval()(batch(9).cuda()).cpu(), norm.eval()(batch(9)), rtol=1e-4, atol=1e-5)


@every_kind
def test_batch_that_is_not_finite_is_skipped_and_counted(arguments: dict[str, Any]) -> None:
    _, twin = pair(arguments)
    twin(batch(0).cuda())
    before = twin.averages.clone()
    spoilt = batch(1)
    spoilt[2, 1, 0, 0] = float("nan")
    twin(spoilt.cuda())
    assert torch.equal(twin.averages, before)
    assert (twin.updates, twin.skipped) == (1, 1)
    twin(batch(2).cuda())
    assert torch.isfinite(twin.averages).all()
    assert (twin.updates, twin.skipped) == (2, 1)


@pytest.mark.parametrize("name", ["plain", "ghost", "renorm", "adjustment", "two axes"])
def test_training_step_does_not_wait_for_the_gpu(name: str) -> None:
    _, twin = pair(KINDS[name])
    x = batch(0).cuda()
    twin(x)
    torch.cuda.set_sync_debug_mode("error")
    try:
        twin(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")
