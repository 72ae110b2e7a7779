"""The batch-norm layer beside torch's own, forward and backward in training, turn by turn.

    scripts/bench batchnorm [--n 15] [--channels-last]

Each figure is the time of this layer over the time of `torch.nn.BatchNorm1d` (or 2d) on the same input, of blocks of
calls that follow each other. Both keep gamma, beta and moving statistics, and give gradients to all of x, gamma, beta.
`plain` is the layer with torch's own estimator of the moving variance, `biased` with Keras'. This layer looks at each
batch's statistics before it lets them in; torch's does not, and keeps a NaN for ever.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import torch
from torch import Tensor, nn

from gammabeta.nets.batchnorm import BatchNorm
from gammabeta.schemas.adjustments import UniformAdjustment
from gammabeta.schemas.normalization import BatchNorm as Spec
from gammabeta.schemas.renorm import RenormClipping

SHAPES = ((32, 64), (256, 512), (64, 64, 32, 32))
"""As torch has them: [B, C], or [B, C, H, W]."""
BLOCK_SECONDS = 0.05


@dataclass(frozen=True)
class Variant:
    """A layer to measure; `target` is the largest ratio that it should have."""

    name: str
    spec: Spec
    target: float | None


def variants(batch: int) -> tuple[Variant, ...]:
    """For batches of so many rows."""
    clipping = RenormClipping(rmax=3.0, rmin="1/rmax", dmax=5.0)
    adjustment = UniformAdjustment(scale=(0.93, 1.07), bias=(-0.1, 0.1))
    return (
        Variant("plain", Spec(fused=True), 1.10),
        Variant("biased", Spec(fused=False), 1.15),
        Variant("ghost, 4 groups", Spec(virtual_batch_size=batch // 4), 2.5),
        Variant("renorm", Spec(renorm=True, renorm_clipping=clipping), 2.5),
        Variant("renorm and ghost", Spec(renorm=True, renorm_clipping=clipping, virtual_batch_size=batch // 4), None),
        Variant("adjustment", Spec(adjustment=adjustment), None),
    )


def main() -> None:
    """Measure and print; 1 where a target is missed."""
    options = _options()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, n={options.n}, median (lowest to highest)")
    missed = 0
    for shape in SHAPES:
        x, upstream = torch.randn(shape), torch.randn(shape)
        if options.channels_last and x.ndim == 4:
            x, upstream = (each.to(memory_format=torch.channels_last) for each in (x, upstream))
        for variant in variants(shape[0]):
            ratios, ours, torchs = measured(variant.spec, x, upstream, options.n)
            over = variant.target is not None and median(ratios) > variant.target
            missed += over
            print(
                f"{list(shape)!s:18} {variant.name:17} {median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})  "
                f"{ours * 1e6:9.1f} us, torch {torchs * 1e6:9.1f} us  "
                f"{'' if variant.target is None else f'target <= {variant.target}'}{' MISSED' if over else ''}",
                flush=True,
            )
    sys.exit(1 if missed else 0)


def measured(spec: Spec, x: Tensor, upstream: Tensor, n: int) -> tuple[list[float], float, float]:
    """Ratios of n turns, and the median seconds of a call of each."""
    row = (x.shape[2], x.shape[3], x.shape[1]) if x.ndim == 4 else (x.shape[1],)
    kind = nn.BatchNorm2d if x.ndim == 4 else nn.BatchNorm1d
    ours, theirs = (
        _step(BatchNorm(spec, row), x, upstream),
        _step(kind(x.shape[1], eps=1e-3, momentum=0.01), x, upstream),
    )
    calls = max(1, int(BLOCK_SECONDS / min(_seconds(theirs, 3) for _ in range(3))))
    times: list[tuple[float, float]] = []
    for turn in range(n):
        pair = (ours, theirs) if turn % 2 else (theirs, ours)
        first, second = (_seconds(each, calls) for each in pair)
        times.append((first, second) if turn % 2 else (second, first))
    return [a / b for a, b in times], median(a for a, _ in times), median(b for _, b in times)


def _step(layer: nn.Module, x: Tensor, upstream: Tensor) -> Callable[[], None]:
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    leaves = [x, *layer.parameters()]

    def step() -> None:
        layer(x).backward(upstream)
        for leaf in leaves:
            leaf.grad = None

    return step


def _seconds(step: Callable[[], None], calls: int) -> float:
    began = perf_counter()
    for _ in range(calls):
        step()
    return (perf_counter() - began) / calls


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=15, help="how many turns")
    parser.add_argument("--channels-last", action="store_true", help="images in the memory format that jobs train in")
    return parser.parse_args()


if __name__ == "__main__":
    main()
