"""Residual networks (He et al. 2015, arXiv:1512.03385), written out as a graph.

    x ──conv──norm──relu──conv──norm──(+)──relu──►        "basic": 18, 20, 32, 34, 56
    └───────────[1x1 conv──norm]───────┘
    x ──1x1 conv──norm──relu──conv──norm──relu──1x1 conv──norm──(+)──relu──►      "bottleneck": 50
    └────────────────────────[1x1 conv──norm]───────────────────┘

The 1x1 convolution of a shortcut stands where the block changes the shape (option B). The bottleneck has its stride in
the 3x3 convolution, as most implementations since have (the paper: in the first).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gammabeta.schemas.initializers import Initializer
from gammabeta.schemas.layers import INPUT, Activation, Add, Conv2D, Dense, GlobalAveragePool, MaxPool
from gammabeta.schemas.networks import AnyLayer
from gammabeta.schemas.presets import ResnetPreset


@dataclass(frozen=True)
class Stages:
    """Of a network: the blocks of each, and their filters."""

    blocks: tuple[int, ...]
    filters: tuple[int, ...]
    bottleneck: bool = False
    large: bool = True
    """Whether it begins as for ImageNet: a 7x7 convolution and a pooling, both with stride 2."""


_CIFAR, _IMAGENET = (16, 32, 64), (64, 128, 256, 512)
STAGES = {
    20: Stages((3, 3, 3), _CIFAR, large=False),
    32: Stages((5, 5, 5), _CIFAR, large=False),
    56: Stages((9, 9, 9), _CIFAR, large=False),
    18: Stages((2, 2, 2, 2), _IMAGENET),
    34: Stages((3, 4, 6, 3), _IMAGENET),
    50: Stages((3, 4, 6, 3), _IMAGENET, bottleneck=True),
}
EXPANSION = 4
"""How many times the filters of its 3x3 convolution a bottleneck gives."""


def resnet(preset: ResnetPreset) -> Iterator[AnyLayer]:
    """The layers of a preset, each named after its stage and block."""
    stages, write = STAGES[preset.depth], Writer(preset)
    yield from write.convolution(
        "stem", INPUT, stages.filters[0], kernel=7 if stages.large else 3, stride=1 + stages.large
    )
    if stages.large:
        yield MaxPool(name="stem_pool", pool_size=3, strides=2, padding="same")
    before, channels = "stem_pool" if stages.large else "stem_activation", stages.filters[0]
    for stage, (count, filters) in enumerate(zip(stages.blocks, stages.filters, strict=True), start=1):
        for number in range(1, count + 1):
            name, stride = f"stage{stage}_block{number}", 2 if stage > 1 and number == 1 else 1
            given = filters * (EXPANSION if stages.bottleneck else 1)
            projected = stride > 1 or channels != given
            yield from write.block(name, before, filters, stride, projected=projected, bottleneck=stages.bottleneck)
            before, channels = f"{name}_activation", given
    yield GlobalAveragePool(name="pool")
    yield Dense(name="output", units="classes", **preset.kernel)


class Writer:
    """Writes the blocks of a preset."""

    def __init__(self, preset: ResnetPreset) -> None:
        self.preset = preset
        self.norm, _ = preset.norm_at(0)

    def block(
        self, name: str, before: str, filters: int, stride: int, *, projected: bool, bottleneck: bool
    ) -> Iterator[AnyLayer]:
        """A residual block that reads the layer `before` and ends in the layer `{name}_activation`."""
        if bottleneck:
            yield from self.convolution(f"{name}_1", before, filters, kernel=1)
            yield from self.convolution(f"{name}_2", f"{name}_1_activation", filters, kernel=3, stride=stride)
            last, kernel, given, step = f"{name}_3", 1, filters * EXPANSION, 1
            follows = f"{name}_2_activation"
        else:
            yield from self.convolution(f"{name}_1", before, filters, kernel=3, stride=stride)
            last, kernel, given, step = f"{name}_2", 3, filters, 1
            follows = f"{name}_1_activation"
        yield from self.normalized(last, follows, given, kernel=kernel, stride=step, ends_block=True)
        shortcut = before
        if projected:
            yield from self.normalized(f"{name}_shortcut", before, given, kernel=1, stride=stride)
            shortcut = self.end_of(f"{name}_shortcut")
        yield Add(name=f"{name}_add", inputs=(self.end_of(last), shortcut))
        yield Activation(name=f"{name}_activation", function=self.preset.activation)

    def convolution(self, name: str, before: str, filters: int, *, kernel: int, stride: int = 1) -> Iterator[AnyLayer]:
        """Convolution, batch norm, activation."""
        yield from self.normalized(name, before, filters, kernel=kernel, stride=stride)
        yield Activation(name=f"{name}_activation", function=self.preset.activation)

    def normalized(
        self, name: str, before: str, filters: int, *, kernel: int, stride: int = 1, ends_block: bool = False
    ) -> Iterator[AnyLayer]:
        """Convolution and batch norm."""
        yield Conv2D(
            name=f"{name}_conv",
            inputs=(before,),
            filters=filters,
            kernel_size=kernel,
            strides=stride,
            padding="same",
            use_bias=self.norm is None or not self.norm.makes_bias_redundant,
            **self.preset.kernel,
        )
        if self.norm is not None:
            zero = {"gamma_initializer": Initializer(name="zeros")}
            own = zero if ends_block and self.preset.zero_init_residual else {}
            yield self.norm.model_copy(update={"name": f"{name}_norm", **own})

    def end_of(self, name: str) -> str:
        """The layer in which `normalized` ends."""
        return f"{name}_conv" if self.norm is None else f"{name}_norm"
