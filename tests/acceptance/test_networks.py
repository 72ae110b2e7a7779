"""Networks of other kinds, ragged batches, and data that float32 cannot hold the variance of: trained and served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.acceptance.stack import Stack
from tests.acceptance.twins import Data, assert_served, finished, trained_here, upload
from tests.unit.ingestion.conftest import npz

BATCH, WHOLE = 10, 6
RAGGED = BATCH * WHOLE + 1
OUTPUT = {"type": "dense", "units": "classes"}
NORM = {"type": "batch_norm", "momentum": 0.9}
RELU = {"type": "activation", "function": "relu"}

CONV1D: dict[str, Any] = {
    "layers": [
        {"type": "conv1d", "filters": 6, "kernel_size": 3, "padding": "causal", "use_bias": False},
        NORM,
        RELU,
        {"type": "max_pool"},
        {"type": "conv1d", "filters": 8, "kernel_size": 3, "strides": 2, "padding": "same", "use_bias": False},
        NORM | {"axis": 1, "virtual_batch_size": 5},
        RELU,
        {"type": "average_pool", "pool_size": 2},
        {"type": "global_average_pool"},
        OUTPUT,
    ]
}
DEPTHWISE: dict[str, Any] = {
    "layers": [
        {"type": "depthwise_conv2d", "kernel_size": 3, "depth_multiplier": 2, "padding": "same", "use_bias": False},
        NORM,
        RELU,
        {"type": "conv2d", "filters": 8, "kernel_size": 1, "use_bias": False, "kernel_regularizer": "l2"},
        NORM | {"renorm": True, "renorm_clipping": {"rmax": 2, "rmin": "1/rmax", "dmax": 1}},
        RELU,
        {"type": "global_average_pool"},
        OUTPUT,
    ]
}
MLP: dict[str, Any] = {"layers": [{"type": "dense", "units": 8, "use_bias": False}, NORM, RELU, OUTPUT]}

NETWORKS: list[tuple[str, str, dict[str, Any], int]] = [
    ("resnet of depth 20", "images", {"preset": "resnet", "depth": 20}, 21),
    ("conv1d and pooling on sequences", "sequences", CONV1D, 2),
    ("depthwise convolution", "images", DEPTHWISE, 2),
]
"""The last: how many batch norms it has."""

Splits = dict[str, Data]


@pytest.fixture(scope="module")
def splits(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Splits:
    """Each data set by its name."""
    draws, folder = np.random.default_rng(8), tmp_path_factory.mktemp("networks")
    y = draws.integers(0, 3, RAGGED)
    rows = (draws.normal(size=(RAGGED, 4)) + y[:, None]).astype(np.float32)
    huge = rows.copy()
    huge[17] = 3e38
    arrays = {
        "images": (draws.integers(0, 150, (RAGGED, 16, 16, 3)) + y[:, None, None, None] * 50).astype(np.uint8),
        "sequences": (draws.normal(size=(RAGGED, 16, 3)) + y[:, None, None]).astype(np.float32),
        "rows": rows,
        "huge": huge,
    }
    return {
        name: upload(stack, folder / name, f"networks-{name}", npz(x=x, y=y), x[:5].tolist(), format="npz")
        for name, x in arrays.items()
    }


def submitted(stack: Stack, data: Data, network: dict[str, Any], **training: Any) -> str:
    return stack.submit(
        dataset=data.name,
        model=data.name,
        network=network,
        preprocessing={"numeric": "none"},
        training={"epochs": 2, "batch_size": BATCH, "validation_fraction": 0, "seed": 1} | training,
    )


@pytest.mark.parametrize(("what", "name", "network", "norms"), NETWORKS, ids=[each[0] for each in NETWORKS])
def test_network_is_trained_and_served(
    stack: Stack, splits: Splits, tmp_path: Path, what: str, name: str, network: dict[str, Any], norms: int
) -> None:
    data = splits[name]
    got = finished(stack, submitted(stack, data, network, max_steps=5))
    assert len(got.batchnorm["layers"]) == norms
    assert {row["updates"] for row in got.batchnorm["layers"]} == {5}
    assert_served(got, data, trained_here(got, data, tmp_path / "twin"))


@pytest.mark.parametrize(("last", "single"), [("merge", 0), ("drop", 0), ("keep", 2)])
def test_one_row_too_many_trains_whatever_becomes_of_it(
    stack: Stack, splits: Splits, tmp_path: Path, last: str, single: int
) -> None:
    data = splits["rows"]
    got = finished(stack, submitted(stack, data, MLP, last_batch=last))
    assert (got.row["updates"], got.row["single"], got.row["skipped"]) == (2 * WHOLE, single, 0)
    assert got.job["progress"]["steps"] == 2 * WHOLE + single
    assert ("one_value_per_channel" in got.warnings) == (single > 0)
    assert None not in got.series()["loss"]["value"]
    assert not any(event["type"] == "batch_skipped" for event in got.events())
    assert_served(got, data, trained_here(got, data, tmp_path / "twin"))


@pytest.mark.parametrize(("last", "codes"), [("keep", ["one_value_per_channel"]), ("merge", [])])
def test_dry_run_warns_of_a_last_batch_of_one_row(stack: Stack, splits: Splits, last: str, codes: list[str]) -> None:
    training = {"epochs": 2, "batch_size": BATCH, "validation_fraction": 0, "last_batch": last}
    body = {"kind": "train", "dataset": splits["rows"].name, "model": "m", "network": MLP, "training": training}
    answer = stack.http.post("/v1/jobs", params={"dry_run": "true"}, json=body).json()
    found = [each for each in answer["messages"] if each["code"] == "one_value_per_channel"]
    assert [each["code"] for each in found] == codes
    for each in found:
        assert (each["field"], each["severity"]) == ("training.last_batch", "warning")
        assert "'batch_norm'" in each["message"]


def test_batch_that_is_not_finite_is_skipped_and_the_job_says_so(stack: Stack, splits: Splits, tmp_path: Path) -> None:
    data = splits["huge"]
    got = finished(stack, submitted(stack, data, MLP))
    assert (got.row["updates"], got.row["skipped"]) == (2 * WHOLE - 2, 2)
    assert "batches_skipped" in got.warnings
    assert [each["type"] for each in got.events()].count("batch_skipped") == 1
    assert got.series()["skipped_batches"]["value"][-1] == 2
    assert_served(got, data, trained_here(got, data, tmp_path / "twin"))


def norm(**arguments: Any) -> dict[str, Any]:
    return {"layers": [{"type": "dense", "units": 8}, {"type": "batch_norm"} | arguments, OUTPUT]}


UNIFORM = {"kind": "uniform", "scale": [0.9, 1.1]}
REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("a penalty that Keras takes for none", norm(gamma_regularizer="L1L2"), "gamma_regularizer", "0.01"),
    ("another spelling of it", norm(beta_regularizer="l1l2"), "beta_regularizer", "L1L2"),
    ("momentum above 1", norm(momentum=1.5), "momentum", "1"),
    ("epsilon of 0", norm(epsilon=0), "epsilon", "0"),
    ("axis of the batch", norm(axis=0), "axis", "batch"),
    ("rmin above rmax", norm(renorm=True, renorm_clipping={"rmax": 1, "rmin": 2}), "renorm_clipping.rmin", "rmax"),
    ("clipping without renorm", norm(renorm_clipping={"rmax": 1}), "renorm_clipping", "renorm"),
    ("ghosts that do not divide a batch", norm(virtual_batch_size=3), "virtual_batch_size", "10"),
    ("adjustment that is to be fused", norm(adjustment=UNIFORM, fused=True), "fused", "adjustment"),
    ("adjustment of ghosts", norm(adjustment=UNIFORM, virtual_batch_size=5), "adjustment", "virtual_batch_size"),
    ("too few initial values", norm(beta_initializer=[1, 2]), "beta_initializer", "8"),
    ("variance below 0", norm(moving_variance_initializer="random_normal"), "moving_variance_initializer", "negative"),
    ("name of Keras 2", norm(gamma_constraint="maxnorm"), "gamma_constraint", "max_norm"),
    ("unknown key", norm(momentun=0.9), "momentun", ""),
]


@pytest.mark.parametrize(("what", "network", "field", "word"), REFUSED, ids=[each[0] for each in REFUSED])
def test_mistake_is_answered_by_its_field_and_what_to_write(
    stack: Stack, splits: Splits, what: str, network: dict[str, Any], field: str, word: str
) -> None:
    training = {"batch_size": BATCH}
    body = {"kind": "train", "dataset": splits["rows"].name, "model": "m", "network": network, "training": training}
    answer = stack.http.post("/v1/jobs", json=body)
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    assert error["field"] == f"network.layers[1].{field}"
    assert word in error["message"]
