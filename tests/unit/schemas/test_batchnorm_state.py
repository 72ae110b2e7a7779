"""The digest of the batch-norm state: it moves with everything that a prediction depends on, and with nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gammabeta.schemas.batchnorm import BatchNormState, LayerState, from_bytes, to_bytes

LAYER = LayerState(
    name="batch_norm",
    axis=1,
    epsilon=1e-3,
    momentum=0.99,
    gamma=np.array([1.0, 2.0], np.float32),
    beta=np.array([0.0, -1.0], np.float32),
    moving_mean=np.array([0.5, 0.25], np.float32),
    moving_variance=np.array([1.0, 3.0], np.float32),
    updates=7,
)


def digest(**change: object) -> str:
    return BatchNormState((replace(LAYER, **change),)).digest  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"axis": 2},
        {"axis": (1,)},
        {"axis": (1, 2)},
        {"epsilon": 1e-5},
        {"gamma": np.array([1.0, 2.0000002], np.float32)},
        {"gamma": None},
        {"beta": None},
        {"moving_mean": np.array([0.25, 0.5], np.float32)},
        {"moving_variance": np.array([1.0, 3.0000002], np.float32)},
    ],
)
def test_digest_moves_with_what_a_prediction_depends_on(change: dict[str, object]) -> None:
    assert digest(**change) != digest()


def test_digest_does_not_depend_on_what_training_alone_needs() -> None:
    assert digest(momentum=0.5, updates=9, skipped=2) == digest()


def test_digest_is_that_of_earlier_releases() -> None:
    """Rows that are stored have it."""
    assert digest() == "sha256:3732ba37e1f869db8dffbbaae642974cc2e81c9c1018273dd277074ede29ddd4"


def test_digest_tells_arrays_apart_that_swap_places() -> None:
    swapped = digest(moving_mean=LAYER.moving_variance, moving_variance=LAYER.moving_mean)
    assert swapped != digest()
    assert digest(gamma=None, beta=LAYER.gamma) != digest(gamma=LAYER.gamma, beta=None)


def test_digest_depends_on_the_order_of_layers() -> None:
    other = replace(LAYER, name="b")
    assert BatchNormState((LAYER, other)).digest != BatchNormState((other, LAYER)).digest


def test_bytes_are_little_endian_float32_and_come_back() -> None:
    array = np.array([1.0, -2.5], np.float32)
    assert to_bytes(array) == b"\x00\x00\x80?\x00\x00 \xc0"
    assert np.array_equal(from_bytes(to_bytes(array)), array)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        ({"moving_variance": np.array([1.0, -0.1], np.float32)}, "moving_variance of layer 'batch_norm' is negative"),
        ({"moving_mean": np.array([np.nan, 0.0], np.float32)}, "moving_mean of layer 'batch_norm' is not finite"),
        ({"gamma": np.array([np.inf, 0.0], np.float32)}, "gamma of layer 'batch_norm' is not finite"),
    ],
)
def test_statistics_that_must_not_be_served_are_named(change: dict[str, object], problem: str | None) -> None:
    assert BatchNormState((replace(LAYER, **change),)).problem() == problem  # type: ignore[arg-type]


def test_initial_weight_is_what_is_left_of_the_start() -> None:
    assert LAYER.initial_weight == pytest.approx(0.99**7)
