"""Initial values, drawn as Keras draws them: a parameter of shape `[C]` has fan_in = fan_out = C, and the "normal"
of the scaled families is cut at two standard deviations."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from gammabeta.schemas.initializers import Initializer

_FAMILY_SCALE = {"glorot": 1.0, "he": 2.0, "lecun": 1.0}
_STDDEV_OF_CUT_NORMAL = 0.87962566103423978
"""The standard deviation of a standard normal cut at +-2."""


def layer_generator(seed: int, name: str) -> torch.Generator:
    """The random numbers of one layer. They hang on its name alone, so that another layer more (a batch norm, say)
    leaves the kernels of the others as they were."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def glorot_uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A kernel `[outputs, inputs, *window]`, uniform within sqrt(6 / (fan_in + fan_out)) (Glorot & Bengio 2010)."""
    window = math.prod(shape[2:])
    limit = math.sqrt(6 / (window * (shape[0] + shape[1])))
    return torch.empty(shape).uniform_(-limit, limit, generator=generator)


def initial(spec: Initializer, channels: int, generator: torch.Generator) -> Tensor:
    """The start of a parameter: float32 `[channels]`."""
    if spec.seed is not None:
        generator = torch.Generator().manual_seed(spec.seed)
    value = torch.empty(channels)
    match spec.name:
        case "zeros":
            return value.zero_()
        case "ones":
            return value.fill_(1.0)
        case "constant":
            return value.fill_(spec.value)
        case "random_normal":
            return value.normal_(generator=generator).mul_(spec.stddev).add_(spec.mean)
        case "truncated_normal":
            return _cut_normal(value, generator).mul_(spec.stddev).add_(spec.mean)
        case "random_uniform":
            return value.uniform_(spec.minval, spec.maxval, generator=generator)
        case _:
            return _scaled(spec.name, value, generator)


def _scaled(name: str, value: Tensor, generator: torch.Generator) -> Tensor:
    """Variance scale / C: glorot_*, he_*, lecun_*."""
    family, distribution = name.split("_")
    variance = _FAMILY_SCALE[family] / len(value)
    if distribution == "uniform":
        limit = math.sqrt(3 * variance)
        return value.uniform_(-limit, limit, generator=generator)
    return _cut_normal(value, generator).mul_(math.sqrt(variance) / _STDDEV_OF_CUT_NORMAL)


def _cut_normal(value: Tensor, generator: torch.Generator) -> Tensor:
    return torch.nn.init.trunc_normal_(value, a=-2.0, b=2.0, generator=generator)
