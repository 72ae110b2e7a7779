"""Where a training runs: the device, its threads, its precision and its random numbers."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from gammabeta.schemas.layers import Conv1D, Conv2D, DepthwiseConv2D
from gammabeta.schemas.plans import LayerPlan, NetworkPlan
from gammabeta.schemas.training import TrainingSpec

PRODUCTS_PER_THREAD = 20_000_000
"""Multiplications a step below which a second thread costs more in waiting than it computes. For small networks one
thread is fastest, and two on a busy machine of two cores were seen to be 50 times slower."""


def threads_for(plan: NetworkPlan, batch_size: int, allowed: int) -> int:
    """How many CPU threads this network is worth."""
    products = batch_size * sum(_products(layer) for layer in plan.layers)
    return max(1, min(allowed, products // PRODUCTS_PER_THREAD))


def _products(layer: LayerPlan) -> int:
    slides = isinstance(layer.spec, Conv1D | Conv2D | DepthwiseConv2D)
    places = math.prod(layer.output_shape[:-1]) if slides else 1
    return layer.parameters * places


def flush_denormals() -> None:
    """Let numbers below 1.2e-38 be 0 in this thread, for the whole life of a trainer, so that all attempts round alike.

    Where an input is nearly always 0, as a pixel at the edge is, adam's averages decay into this range and stay there,
    and arithmetic on such numbers made a step on MNIST a twentieth slower.
    """
    torch.set_flush_denormal(True)


def settle(name: str, *, threads: int, seed: int) -> torch.device:
    """Choose device and threads for this process, and seed every generator."""
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(f"the worker gave this job {name}, and torch finds no GPU. Look at its driver.")
    # float32 is what was asked for, and what predictions are made in; a variable of the environment may say otherwise
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    return device


def precision_of(training: TrainingSpec, device: torch.device) -> AbstractContextManager[object]:
    """The context in which the network runs forward while it trains; parameters and buffers stay float32."""
    if training.precision == "bfloat16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The states of the generators that dropout draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_state(states: dict[str, Tensor], device: torch.device) -> None:
    """The inverse of `random_state`."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
