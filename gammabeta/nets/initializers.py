"""Initial values, drawn as Keras draws them: fans are counted on the shape that a parameter has in Keras, and a
"truncated normal" is cut at two standard deviations.

    variance = scale / fan     fan: of inputs, of outputs, or the mean of both
    [C]  fans C, C      [F, units]  fans F, units      [*window, in, out]  fans |window| in, |window| out
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from gammabeta.schemas.initializers import Initializer

_FAMILIES = {"glorot": (1.0, "fan_avg"), "he": (2.0, "fan_in"), "lecun": (1.0, "fan_in")}
"""Scale and mode."""
_STDDEV_OF_CUT_NORMAL = 0.87962566103423978
"""The standard deviation of a standard normal cut at +-2."""


def layer_generator(seed: int, name: str) -> torch.Generator:
    """The random numbers of one layer. They hang on its name alone, so that another layer more (a batch norm, say)
    leaves the kernels of the others as they were."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def initial(spec: Initializer, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """The start of a parameter whose layout is Keras': float32 of this shape."""
    value = torch.empty(shape)
    return fill(value, spec, generator, keras=value)


def fill(value: Tensor, spec: Initializer, generator: torch.Generator, *, keras: Tensor) -> Tensor:
    """Put initial numbers into `value`; `keras` is a view of it in Keras' layout."""
    if spec.seed is not None:
        generator = torch.Generator().manual_seed(spec.seed)
    match spec.name:
        case "zeros":
            return value.zero_()
        case "ones":
            return value.fill_(1.0)
        case "constant":
            return value.copy_(torch.tensor(spec.value))
        case "random_normal":
            return value.normal_(generator=generator).mul_(spec.stddev).add_(spec.mean)
        case "truncated_normal":
            return _cut_normal(value, generator).mul_(spec.stddev).add_(spec.mean)
        case "random_uniform":
            return value.uniform_(spec.minval, spec.maxval, generator=generator)
        case "orthogonal":
            keras.copy_(_orthogonal(keras.shape, generator).mul_(spec.gain))
            return value
        case "variance_scaling":
            return _scaled(value, spec.scale / _fan(keras.shape, spec.mode), spec.distribution, generator)
        case _:
            family, distribution = spec.name.split("_")
            scale, mode = _FAMILIES[family]
            return _scaled(value, scale / _fan(keras.shape, mode), distribution, generator)


def _fan(shape: torch.Size, mode: str) -> float:
    window = math.prod(shape[:-2])
    inputs, outputs = window * shape[max(-2, -len(shape))], window * shape[-1]
    return {"fan_in": float(inputs), "fan_out": float(outputs), "fan_avg": (inputs + outputs) / 2}[mode]


def _scaled(value: Tensor, variance: float, distribution: str, generator: torch.Generator) -> Tensor:
    match distribution:
        case "uniform":
            limit = math.sqrt(3 * variance)
            return value.uniform_(-limit, limit, generator=generator)
        case "untruncated_normal":
            return value.normal_(generator=generator).mul_(math.sqrt(variance))
        case _:
            return _cut_normal(value, generator).mul_(math.sqrt(variance) / _STDDEV_OF_CUT_NORMAL)


def _cut_normal(value: Tensor, generator: torch.Generator) -> Tensor:
    return torch.nn.init.trunc_normal_(value, a=-2.0, b=2.0, generator=generator)


def _orthogonal(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Flattened to `[…, out]` its rows or its columns, whichever are fewer, are orthonormal (Saxe et al. 2014)."""
    rows, columns = math.prod(shape[:-1]), shape[-1]
    drawn = torch.empty(max(rows, columns), min(rows, columns)).normal_(generator=generator)
    q, r = torch.linalg.qr(drawn)
    q *= r.diagonal().sign()  # or Q would not be uniform over the orthogonal matrices
    flat: Tensor = q if rows >= columns else q.T
    return flat.reshape(shape)
