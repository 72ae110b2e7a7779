"""The network that every peer of `bench/serve.py` serves: Dense(64) + batch norm + ReLU + Dense(10), on 784 numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FEATURES, CLASSES = 784, 10


def network() -> nn.Module:
    """In eval mode, on one thread; its weights do not matter to its speed."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(64, eps=1e-3)
    return nn.Sequential(nn.Linear(FEATURES, 64), norm, nn.ReLU(), nn.Linear(64, CLASSES)).eval()


@torch.inference_mode()
def scores(served: nn.Module, x: Tensor) -> Tensor:
    """x: [B, 784] -> [B, 10] probabilities."""
    return torch.softmax(served(x), dim=1)
