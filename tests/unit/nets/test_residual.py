"""Residual networks built and run, small as the images may be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor

from gammabeta.nets.build import Network, build_network
from gammabeta.schemas.plans import plan_network
from gammabeta.schemas.preprocessing import FittedArray
from gammabeta.schemas.presets import ResnetPreset


def resnet(shape: tuple[int, ...], **given: Any) -> Network:
    plan = plan_network(ResnetPreset.model_validate(given), input_shape=shape, outputs=10)
    return build_network(plan, FittedArray(shape=shape), task="classes")


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


def run_to(network: Network, x: Tensor, name: str) -> dict[str, Tensor]:
    """What each layer up to `name` gives."""
    values = {"input": x.permute(0, 3, 1, 2)}
    for layer, module in zip(network.plan.layers, network.layers, strict=True):
        values[layer.name] = module(*(values[each] for each in layer.inputs))
        if layer.name == name:
            break
    return values


@pytest.mark.parametrize("depth", [18, 20, 32, 34, 50, 56])
@pytest.mark.parametrize("shape", [(28, 28, 1), (8, 8, 3)])
def test_each_depth_reads_small_images(depth: int, shape: tuple[int, ...]) -> None:
    network = resnet(shape, depth=depth)
    assert sum(p.numel() for p in network.parameters()) == network.plan.parameters
    logits = network(images(2, *shape))
    assert logits.shape == (2, 10)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("batch_norm", ["none", {"momentum": 0.5, "renorm": True}, {"virtual_batch_size": 2}], ids=str)
@pytest.mark.parametrize("depth", [20, 50])
def test_batch_norm_of_resnet_is_chosen(batch_norm: Any, depth: int) -> None:
    network = resnet((8, 8, 3), depth=depth, batch_norm=batch_norm)
    loss = network(images(4, 8, 8, 3)).square().mean()
    loss.backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize(("depth", "blocks"), [(20, 9), (50, 16)])
def test_block_starts_as_its_shortcut_where_the_last_gamma_is_zero(depth: int, blocks: int) -> None:
    network, plain = (resnet((8, 8, 3), depth=depth, zero_init_residual=zero) for zero in (True, False))
    x = images(4, 8, 8, 3)
    added = [layer for layer in network.plan.layers if layer.spec.type == "add"]
    values, others = (run_to(each, x, "output") for each in (network, plain))
    assert len(added) == blocks
    for layer in added:
        _, shortcut = layer.inputs
        assert_allclose(values[layer.name].detach(), values[shortcut].detach(), atol=1e-6)
        assert not torch.allclose(others[layer.name], others[shortcut], atol=1e-2)
