"""The engines of predictions beside each other: torch as the network is stored, torch folded, ONNX Runtime folded.

Each is made and proven by `service.runtime.engines.prepare`, as when the service loads a version, and has a thread for
every core of the machine. They compute the same pictures in turn. A ratio is to the network as it is stored, in the
same turn; a difference is to its logits.

The network is ResNet-18 on 224 x 224 x 3, with random weights, gammas and betas. A few batches in training mode have
moved its statistics: with the initial ones, there would be next to nothing to fold.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np
import torch

from gammabeta.nets.build import Network, build_network
from gammabeta.schemas.initializers import Initializer
from gammabeta.schemas.plans import plan_network
from gammabeta.schemas.preprocessing import FittedImage
from gammabeta.schemas.presets import BatchNormOptions, ResnetPreset
from service.runtime.engines import Choice, Engine, Floats, Logits, Measured, compared, prepare

PICTURE, CLASSES = FittedImage(shape=(224, 224, 3), scale=255.0), 1_000
BATCHES = (1, 8)
TURNS = 9
BLOCK_SECONDS = 0.5
"""How long an engine computes in each turn, at least: one call or many."""
LEARNING, LEARNT_ROWS = 5, 8
"""Batches in training mode, and their rows."""


@dataclass(frozen=True)
class Variant:
    """An engine to measure."""

    name: str
    choice: Choice
    folded: bool


VARIANTS = (
    Variant("torch, as stored", "torch", False),
    Variant("torch, folded", "torch", True),
    Variant("ONNX Runtime, folded", "onnxruntime", True),
)


def side_by_side(turns: int) -> None:
    """Measure and print."""
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    draws = np.random.default_rng(0)
    network = _learnt(draws)
    engines = {variant.name: _engine(network, variant, threads) for variant in VARIANTS}
    for rows in BATCHES:
        x = _pictures(draws, rows)
        given = {name: engine.logits(x) for name, engine in engines.items()}
        found = {name: _agreeing(network, name, next(iter(given.values())), logits) for name, logits in given.items()}
        took: dict[str, list[float]] = {name: [] for name in engines}
        for _ in range(turns):
            for name, engine in engines.items():
                took[name].append(_milliseconds(engine, x))
        print(f"\nResNet-18, 224 x 224 x 3, batch {rows}, {threads} threads, n={turns}: median (lowest to highest)")
        _print(took, found)


def _learnt(draws: np.random.Generator) -> Network:
    """The network, in eval mode. Its momentum is low, so that few batches move the statistics to what they are."""
    normal = {"name": "random_normal", "stddev": 0.2}
    norm = BatchNormOptions(
        momentum=0.5,
        gamma_initializer=Initializer.model_validate(normal | {"mean": 1.0}),
        beta_initializer=Initializer.model_validate(normal),
    )
    preset = ResnetPreset(depth=18, batch_norm=norm)
    plan = plan_network(preset, input_shape=PICTURE.input_shape, outputs=CLASSES)
    network = build_network(plan, PICTURE, task="classes")
    with torch.no_grad():
        for _ in range(LEARNING):
            network(torch.from_numpy(_pictures(draws, LEARNT_ROWS)))
    network.eval()
    return network


def _pictures(draws: np.random.Generator, rows: int) -> Floats:
    """[rows, height, width, channels], float32, as the service reads them from a request."""
    return draws.integers(0, 256, size=(rows, *PICTURE.shape)).astype(np.float32)


def _engine(network: Network, variant: Variant, threads: int) -> Engine:
    prepared = prepare(network, PICTURE, choice=variant.choice, folded=variant.folded, threads=threads)
    folded = [each.into is not None for each in prepared.foldings]
    if prepared.engine.name != variant.choice or folded != [variant.folded] * len(folded):
        raise SystemExit(
            f"'{variant.name}' must be served by {variant.choice}, with {'every' if variant.folded else 'no'} batch "
            f"norm folded. Received: {prepared.engine.name}, {sum(folded)} of {len(folded)} folded; "
            f"{'; '.join(f'{each.engine}: {each.reason}' for each in prepared.refusals) or 'none refused'}"
        )
    return prepared.engine


def _agreeing(network: Network, name: str, expected: Logits, given: Logits) -> Measured:
    found = compared(network.task, expected, given)
    if found.mismatch is not None:
        raise SystemExit(f"'{name}' must give the logits of the network as it is stored. Received: {found}")
    return found


def _milliseconds(engine: Engine, x: Floats) -> float:
    """Of a call. The first is not counted: threads of the engine before it may still spin for more."""
    engine.logits(x)
    began, calls = perf_counter(), 0
    while (spent := perf_counter() - began) < BLOCK_SECONDS:
        engine.logits(x)
        calls += 1
    return 1_000 * spent / calls


def _print(took: dict[str, list[float]], found: dict[str, Measured]) -> None:
    beside = next(iter(took.values()))
    for name, times in took.items():
        ratios = [ours / theirs for ours, theirs in zip(times, beside, strict=True)]
        print(
            f"  {name:20} {median(times):7.1f} ms ({min(times):.1f} to {max(times):.1f})   "
            f"x as stored {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})   "
            f"max|difference| {found[name].max_difference:.1e}, at most {found[name].tolerance:.1e}",
            flush=True,
        )
