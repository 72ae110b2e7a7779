"""How many threads a network is worth."""

from __future__ import annotations

from typing import Any

import pytest

from gammabeta.schemas.networks import LayersNetwork
from gammabeta.schemas.plans import plan_network
from worker.device import PRODUCTS_PER_THREAD, threads_for


@pytest.mark.parametrize(
    ("layer", "shape", "products"),
    [
        ({"type": "dense", "units": 100}, (200,), 200 * 100),
        ({"type": "conv1d", "filters": 16, "kernel_size": 5, "padding": "same"}, (400, 8), 5 * 8 * 16 * 400),
        ({"type": "conv2d", "filters": 16, "kernel_size": 3, "padding": "same"}, (28, 30, 8), 9 * 8 * 16 * 28 * 30),
        ({"type": "depthwise_conv2d", "kernel_size": 3, "padding": "same"}, (28, 30, 8), 9 * 8 * 28 * 30),
    ],
)
def test_kernel_that_slides_counts_at_each_place(layer: dict[str, Any], shape: tuple[int, ...], products: int) -> None:
    network = LayersNetwork.model_validate({"layers": [{**layer, "use_bias": False}, {"type": "flatten"}]})
    plan = plan_network(network, input_shape=shape, outputs=None)
    rows = -(-3 * PRODUCTS_PER_THREAD // products)
    assert threads_for(plan, rows, 16) == 3
    assert threads_for(plan, rows - 1, 16) == 2
    assert threads_for(plan, rows, 2) == 2
    assert threads_for(plan, 1, 16) == 1
