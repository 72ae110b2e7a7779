"""A network's numbers, taken out and put in: weights here, batch-norm state there. No other file knows their keys.

    weights   "<layer>.kernel", "<layer>.bias", and what training alone needs           a blob
    state     gamma, beta, moving_mean, moving_variance of each batch-norm layer        rows
    joined    both: "<layer>.kernel", …, "<layer>.gamma", … "<layer>.moving_variance"   the file that a user downloads

All is float32. `kernel` is [units, inputs] of a dense layer, [filters, channels, height, width] of a convolution. What
training alone needs are renorm's averages, "<layer>.renorm_mean" and its like: a job that goes on must have them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gammabeta.errors import ArtifactCorrupt
from gammabeta.nets.batchnorm import BatchNorm
from gammabeta.nets.build import Network
from gammabeta.schemas.batchnorm import ARRAYS, BatchNormState, LayerState


def weights_of(network: Network) -> dict[str, Tensor]:
    """Contiguous copies on the CPU of all that is trained but gamma and beta, and of renorm's averages."""
    return {key: _copied(tensor) for key, tensor in _weights(network)}


def state_of(network: Network) -> BatchNormState:
    """A copy of the batch-norm state, as the module has it now."""
    return BatchNormState(tuple(_layer_state(layer) for layer in _batch_norms(network)))


def live_weights(network: Network) -> dict[str, Tensor]:
    """What `weights_of` copies, itself: another network of the same weights may have these very tensors, by `load`."""
    return dict(_weights(network))


def load(network: Network, weights: Mapping[str, Tensor], state: BatchNormState, *, shared: bool = False) -> None:
    """Put weights and state into the network, wherever it is.

    Args:
        shared: take the tensors of kernels and biases as they are instead of copying them, so that several networks of
            the same weights, which nobody trains, have them in memory once.

    Raises:
        ArtifactCorrupt: a key is missing or unknown, or a shape, dtype or layer is another than the network's; nothing
            has been changed then.
    """
    tensors, layers = dict(_weights(network)), _batch_norms(network)
    _check_weights(tensors, weights)
    _check_state(layers, state)
    with torch.no_grad():
        for key, tensor in tensors.items():
            if shared and isinstance(tensor, nn.Parameter):
                tensor.data = weights[key].detach()
            else:
                tensor.copy_(weights[key])
        for layer, stored in zip(layers, state.layers, strict=True):
            for key in _arrays(layer):
                getattr(layer, key).copy_(torch.from_numpy(np.array(getattr(stored, key))))
            layer.restore(updates=stored.updates, skipped=stored.skipped, single=stored.single)


def joined(weights: Mapping[str, Tensor], state: BatchNormState) -> dict[str, NDArray[Any]]:
    """Weights and state under one roof, as `weights.safetensors` has them."""
    arrays: dict[str, NDArray[Any]] = {key: tensor.numpy() for key, tensor in weights.items()}
    for layer in state.layers:
        arrays |= {f"{layer.name}.{key}": array for key in ARRAYS if (array := getattr(layer, key)) is not None}
    return arrays


def parameter_groups(network: Network) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The trained parameters: those that weight decay applies to (kernels), and those that it does not (biases, gamma,
    beta)."""
    trained = [(key, p) for key, p in network.named_parameters() if p.requires_grad]
    decayed = [p for key, p in trained if key.endswith(".kernel")]
    return decayed, [p for key, p in trained if not key.endswith(".kernel")]


def _weights(network: Network) -> Iterator[tuple[str, Tensor]]:
    for layer, module in zip(network.plan.layers, network.layers, strict=True):
        tensors = module.training_buffers() if isinstance(module, BatchNorm) else dict(module.named_parameters())
        for key, tensor in tensors.items():
            yield f"{layer.name}.{key}", tensor


def _batch_norms(network: Network) -> list[BatchNorm]:
    return [module for module in network.layers if isinstance(module, BatchNorm)]


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _arrays(layer: BatchNorm) -> list[str]:
    return [key for key in ARRAYS if getattr(layer, key) is not None]


def _layer_state(layer: BatchNorm) -> LayerState:
    spec = layer.spec
    arrays: dict[str, Any] = dict.fromkeys(ARRAYS)
    arrays |= {key: _copied(getattr(layer, key)).numpy() for key in _arrays(layer)}
    return LayerState(
        name=spec.name or "",
        axis=spec.axis,
        epsilon=spec.epsilon,
        momentum=spec.momentum,
        updates=layer.updates,
        skipped=layer.skipped,
        single=layer.single,
        **arrays,
    )


def _check_weights(tensors: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    missing, unknown = sorted(tensors.keys() - weights.keys()), sorted(weights.keys() - tensors.keys())
    if missing or unknown:
        raise ArtifactCorrupt(
            f"The weights must have exactly the keys of the network. Missing: {missing or 'none'}; "
            f"unknown: {unknown or 'none'}. Restore the blob from a backup."
        )
    for key, tensor in tensors.items():
        given = weights[key]
        if given.shape != tensor.shape or given.dtype != torch.float32:
            raise ArtifactCorrupt(
                f"'{key}' must be float32 {list(tensor.shape)}. Received: {given.dtype} {list(given.shape)}. "
                "Restore the blob from a backup."
            )


def _check_state(layers: list[BatchNorm], state: BatchNormState) -> None:
    expected, received = (
        [_described(_layer_state(each)) for each in layers],
        [_described(each) for each in state.layers],
    )
    if expected != received:
        wrong = next((pair for pair in zip(expected, received, strict=False) if pair[0] != pair[1]), None)
        want, got = wrong or (f"{len(expected)} layers", f"{len(received)} layers")
        raise ArtifactCorrupt(f"The batch-norm state must fit the network: {want}. Received: {got}. Restore the rows.")
    problem = state.problem()
    if problem is not None:
        raise ArtifactCorrupt(f"The batch-norm state must be finite, and no variance negative: {problem}.")


def _described(layer: LayerState) -> str:
    shapes = {key: None if (array := getattr(layer, key)) is None else list(array.shape) for key in ARRAYS}
    return f"layer '{layer.name}', axis {layer.axis}, epsilon {layer.epsilon!r}, {shapes}"
