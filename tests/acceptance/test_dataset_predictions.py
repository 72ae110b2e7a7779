"""A data set answered in bulk by the whole product: the same numbers as one request after the other, in one file."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from gammabeta import Client, InvalidRequest
from tests.acceptance.stack import Stack, alive, running, until

PEOPLE = 600
COLOURS = np.array(["red", "green", "blue"])


def people(seed: int, *, order: tuple[str, ...] = ("age", "colour", "hours", "rich")) -> bytes:
    """A csv file; some cells are empty."""
    draws = np.random.default_rng(seed)
    age, hours = draws.normal(40, 12, PEOPLE), draws.normal(38, 9, PEOPLE)
    colour = draws.integers(0, 3, PEOPLE)
    rich = (age + hours + 9 * colour + draws.normal(0, 5, PEOPLE) > 87).astype(int)
    columns = {
        "age": [f"{each:.3f}" for each in age],
        "colour": [
            "" if empty else COLOURS[code] for code, empty in zip(colour, draws.random(PEOPLE) < 0.1, strict=True)
        ],
        "hours": [
            "" if empty else f"{each:.3f}" for each, empty in zip(hours, draws.random(PEOPLE) < 0.1, strict=True)
        ],
        "rich": [("no", "yes")[code] for code in rich],
        "note": [f"{each}" for each in range(PEOPLE)],
    }
    rows = zip(*(columns[name] for name in order), strict=True)
    return "\n".join([",".join(order), *map(",".join, rows), ""]).encode()


def cells(content: bytes) -> list[dict[str, Any]]:
    header, *lines = content.decode().splitlines()
    read = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
    numbers = {"age", "hours"}
    return [
        {
            name: (float(row[name]) if name in numbers else row[name]) if row[name] else None
            for name in ("age", "colour", "hours")
        }
        for row in read
    ]


def child_of(stack: Stack, job: str) -> int:
    def look() -> int | None:
        events = stack.http.get(f"/v1/jobs/{job}/events", params={"limit": 100}).json()["data"]
        return next((each["data"]["pid"] for each in events if each["type"] == "started"), None)

    return until(look, "the prediction to start")


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[Client]:
    """With a model of people."""
    with Client(stack.url) as client:
        client.datasets.upload(people(0), name="people", format="csv", target="rich")
        client.train("people", "people", network={"preset": "mlp", "hidden": [16]}, training={"epochs": 5}).wait()
        yield client


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_a_file_holds_what_requests_would_have_answered(client: Client, tmp_path: Path, format: Any) -> None:
    """Of a data set that the model was not trained on, with its columns in another order, and one that is not read."""
    content = people(1, order=("note", "hours", "colour", "rich", "age"))
    if format == "csv":
        client.datasets.upload(content, name="strangers", format="csv", target="rich")
    job = client.predict_dataset("people", "strangers", format=format)
    done = job.wait()
    file = job.download(tmp_path)
    found = pl.read_csv(file) if format == "csv" else pl.read_parquet(file)
    asked = client.predict("people", cells(content))
    assert asked.classes is not None
    assert found.columns == ["row", "label", *(f"score_{each}" for each in asked.classes), "target"]
    assert found["row"].to_list() == list(range(PEOPLE))
    np.testing.assert_allclose(found.select(pl.selectors.starts_with("score_")).to_numpy(), asked.scores, atol=1e-6)
    assert found["label"].to_list() == asked.labels
    assert done.result is not None
    assert (done.result["rows"], done.result["batchnorm_digest"]) == (PEOPLE, asked.digest)
    right = (found["label"] == found["target"]).mean()
    assert done.result["metrics"]["accuracy"] == pytest.approx(right)
    assert right > 0.8


def test_a_data_set_that_does_not_fit_is_refused_at_the_door(client: Client) -> None:
    client.datasets.upload(people(2, order=("age", "hours", "rich")), name="grey", format="csv", target="rich")
    with pytest.raises(InvalidRequest, match="'colour'"):
        client.predict_dataset("people", "grey")


def test_a_killed_prediction_is_made_again_and_is_the_same_once(client: Client, tmp_path: Path) -> None:
    with running(tmp_path / "home") as own, Client(own.url) as mine:
        x = np.random.default_rng(0).normal(size=(400_000, 8)).astype(np.float32)
        y = (x.sum(axis=1) > 0).astype(np.int64)
        mine.datasets.upload((x, y), name="many")
        network = {"preset": "mlp", "hidden": [256, 256, 256]}
        mine.train("many", "many", network=network, training={"epochs": 1, "max_steps": 50, "batch_size": 64}).wait()
        undisturbed = mine.predict_dataset("many", "many", format="parquet")
        undisturbed.wait()
        job = mine.predict_dataset("many", "many", format="parquet")
        victim = child_of(own, job.id)
        os.kill(victim, signal.SIGKILL)
        until(lambda: not alive(victim), "the child to die")
        done = job.wait()
        assert done.attempt == 2
        assert [each.id for each in mine.jobs.list(kind="predict", status="succeeded")] == [job.id, undisturbed.id]
        found, expected = (pl.read_parquet(each.download(tmp_path / each.id)) for each in (job, undisturbed))
        assert len(found) == len(x)
        assert found.equals(expected)
