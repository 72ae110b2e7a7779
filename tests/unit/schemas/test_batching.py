"""Cutting an epoch into batches."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gammabeta.schemas.batching import Batching, batching_of, ghost_of, values_per_channel
from gammabeta.schemas.normalization import BatchNorm
from gammabeta.schemas.training import LastBatch
from tests.unit.schemas.manifests import manifest, resolved

POLICIES: tuple[LastBatch, ...] = ("merge", "drop", "keep")


def sizes(batching: Batching, n: int) -> list[int]:
    bounds = [batching.bounds(n, number) for number in range(batching.steps(n))]
    return [end - start for start, end in bounds]


@pytest.mark.parametrize(
    ("last", "multiple", "n", "expected"),
    [
        ("merge", 1, 10, [4, 6]),
        ("drop", 1, 10, [4, 4]),
        ("keep", 1, 10, [4, 4, 2]),
        ("merge", 1, 8, [4, 4]),
        ("keep", 1, 8, [4, 4]),
        ("keep", 1, 9, [4, 4, 1]),
        ("merge", 1, 5, [5]),
        ("merge", 2, 11, [4, 6]),
        ("keep", 2, 11, [4, 4, 2]),
        ("keep", 2, 9, [4, 4]),
        ("merge", 4, 11, [4, 4]),
    ],
)
def test_last_batch_is_what_the_policy_says(last: LastBatch, multiple: int, n: int, expected: list[int]) -> None:
    assert sizes(Batching(size=4, last=last, multiple=multiple), n) == expected


@given(ghost=st.integers(1, 9), ghosts=st.integers(1, 9), more=st.integers(0, 200), last=st.sampled_from(POLICIES))
def test_batches_follow_each_other_and_leave_out_what_is_said(
    ghost: int, ghosts: int, more: int, last: LastBatch
) -> None:
    batching = Batching(size=ghost * ghosts, last=last, multiple=ghost)
    n = batching.size + more
    bounds = [batching.bounds(n, number) for number in range(batching.steps(n))]
    assert bounds[0][0] == 0
    assert all(end == start for (_, end), (start, _) in pairwise(bounds))
    assert bounds[-1][1] == n - batching.left_out(n)
    assert all(size > 0 and size % ghost == 0 for size in sizes(batching, n))
    assert all(size == batching.size for size in sizes(batching, n)[:-1])
    assert batching.last_rows(n) == sizes(batching, n)[-1]


def test_batches_are_whole_ghost_batches_of_every_trained_layer() -> None:
    layers = [{"type": "batch_norm", "virtual_batch_size": each} for each in (4, 6)]
    frozen = {"type": "batch_norm", "virtual_batch_size": 5, "trainable": False}
    network = {"layers": [*layers, frozen, {"type": "dense", "units": "classes"}]}
    got = resolved(manifest(), network=network, training={"batch_size": 24})
    assert [ghost_of(layer) for layer in got.plan.layers] == [4, 6, None, None]
    assert batching_of(got.request.training, got.plan) == Batching(size=24, last="merge", multiple=12)


@pytest.mark.parametrize(
    ("norm", "shape", "n"),
    [
        (BatchNorm(axis=1), (7,), 8),
        (BatchNorm(axis=3), (4, 5, 3), 8 * 20),
        (BatchNorm(axis=1), (4, 5, 3), 8 * 15),
        (BatchNorm(axis=(1, 3)), (4, 5, 3), 8 * 5),
        (BatchNorm(axis=(1, 2, 3)), (4, 5, 3), 8),
        (BatchNorm(axis=2, virtual_batch_size=2), (6, 3), 2 * 6),
    ],
)
def test_values_per_channel_are_rows_times_the_places_that_are_averaged(
    norm: BatchNorm, shape: tuple[int, ...], n: int
) -> None:
    assert values_per_channel(norm, shape, 8) == n
