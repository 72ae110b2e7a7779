"""Networks of every layer type, as a training would have left them, for the tests of what predicts with them."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from hypothesis import strategies as st

from gammabeta.errors import InvalidRequest
from gammabeta.nets.batchnorm import BatchNorm
from gammabeta.nets.build import Network
from gammabeta.schemas.measuring import Shape
from tests.unit.nets.plans import plan_of

Layers: TypeAlias = list[dict[str, Any]]

FUNCTIONS = "relu sigmoid tanh softmax linear elu selu gelu silu leaky_relu softplus".split()


def lived_in(network: Network, seed: int = 3) -> Network:
    """The network in eval mode, its biases and batch norms as if batches had moved them."""
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, BatchNorm):
                module.averages.uniform_(-1, 1, generator=draws)
                module.moving_variance.uniform_(0.2, 3, generator=draws)
                for parameter in module.parameters():
                    parameter.uniform_(-1.5, 1.5, generator=draws)
            elif isinstance(bias := getattr(module, "bias", None), torch.Tensor):
                bias.uniform_(-1, 1, generator=draws)
    return network.eval()


def _norms(rank: int) -> st.SearchStrategy[dict[str, Any]]:
    axes = st.integers(1, rank) | st.lists(st.integers(1, rank), min_size=1, max_size=rank, unique=True)
    fixed: dict[str, Any] = {"type": st.just("batch_norm"), "center": st.booleans(), "scale": st.booleans()}
    return st.fixed_dictionaries({**fixed, "axis": st.just(-1) | axes})


def _windows(kind: str, **given: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"type": st.just(kind), **given})


PADDING = st.sampled_from(["valid", "same"])
FEW = st.integers(1, 3)
ANYWHERE = st.fixed_dictionaries({"type": st.just("activation"), "function": st.sampled_from(FUNCTIONS)}) | st.just(
    {"type": "dropout", "rate": 0.3}
)
OF_IMAGES = (
    _windows("conv2d", filters=st.sampled_from([2, 4]), kernel_size=st.tuples(FEW, FEW), padding=PADDING, strides=FEW)
    | _windows("conv2d", filters=st.just(4), groups=st.just(2), kernel_size=FEW, padding=PADDING, dilation_rate=FEW)
    | _windows("depthwise_conv2d", kernel_size=st.tuples(FEW, FEW), padding=PADDING, depth_multiplier=FEW)
    | _windows("max_pool", pool_size=st.tuples(FEW, FEW), strides=FEW, padding=PADDING)
    | _windows("average_pool", pool_size=st.tuples(FEW, FEW), strides=FEW, padding=PADDING)
)
OF_SEQUENCES = (
    _windows("conv1d", filters=st.sampled_from([2, 4]), kernel_size=FEW, strides=FEW,
             padding=st.sampled_from(["valid", "same", "causal"]))
    | _windows("conv1d", filters=st.just(4), groups=st.just(2), kernel_size=FEW, dilation_rate=FEW,
               padding=st.sampled_from(["valid", "same", "causal"]))
    | _windows("max_pool", pool_size=FEW, strides=FEW, padding=PADDING)
    | _windows("average_pool", pool_size=FEW, strides=FEW, padding=PADDING)
)  # fmt: skip
DENSE = st.just({"type": "dense", "units": 3}) | st.just({"type": "dense", "units": 5, "use_bias": False})


@st.composite
def _networks(draw: st.DrawFn) -> tuple[Layers, Shape]:
    rank = draw(st.integers(1, 3))
    shape: Shape = {1: (4,), 2: (9, 4), 3: (7, 8, 4)}[rank]
    body = {1: DENSE, 2: OF_SEQUENCES, 3: OF_IMAGES}[rank]
    layers = draw(st.lists(_norms(rank) | _norms(rank) | ANYWHERE | body, max_size=6))
    if rank > 1:
        layers = [*layers, *draw(st.lists(_norms(rank), max_size=1))]
        layers.append({"type": draw(st.sampled_from(["flatten", "global_average_pool"]))})
    layers = [*layers, *draw(st.lists(_norms(1) | ANYWHERE | DENSE, max_size=3)), {"type": "dense", "units": 3}]
    return layers, shape


def _fits(case: tuple[Layers, Shape]) -> bool:
    layers, shape = case
    try:
        plan_of(*layers, shape=shape, outputs=None)
    except InvalidRequest:
        return False
    return True


NETWORKS = _networks().filter(_fits)
"""Layers and the shape of a row: images, sequences and plain rows, with batch norms anywhere and of any axes."""
