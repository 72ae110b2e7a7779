"""Row 16: hyper-parameters that would be run, or that no machine could run. Each field of a job, as its JSON schema has
it, is given each of the hostile values; what is accepted is within the bounds that the schema says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from gammabeta.schemas.jobs import JobRequest
from tests.threats.conftest import Stocked

SCHEMA = TypeAdapter(JobRequest).json_schema()
CANARY = Path("/tmp/canary-of-the-hyperparameters")
CODE = [
    f"__import__('os').mkdir('{CANARY}')",
    f"${{jndi:ldap://127.0.0.1/{CANARY.name}}}",
    f"{{{{ self.__init__.__globals__.__builtins__.open('{CANARY}', 'w') }}}}",
    f"!!python/object/apply:os.mkdir ['{CANARY}']",
    "os.system", "torch.nn.Linear", "builtins:eval", "lambda x: x", "../../etc/passwd", "relu\0", "",
]  # fmt: skip
NUMBERS: list[Any] = [10**18, -(10**18), 10**400, -1, 0, 1e308, -1e308, 1e-320, True, "1", "1e3"]
VALUES: list[Any] = [*CODE, *NUMBERS, None, [], {}, [[]], {"class": "torch.nn.Linear"}, ["x"] * 100]
LAYERS: list[dict[str, Any]] = [
    {"type": "dense", "units": 4, "name": "first"},
    {"type": "batch_norm", "momentum": 0.9, "renorm": True, "renorm_clipping": {"rmax": 3, "rmin": 0.3, "dmax": 5}},
    {"type": "activation", "function": "relu"},
    {"type": "dropout", "rate": 0.5},
    {"type": "dense", "units": "classes", "name": "last"},
]
JOB: dict[str, Any] = {
    "kind": "train",
    "dataset": "people",
    "model": "m",
    "network": {"layers": LAYERS},
    "training": {
        "epochs": 1,
        "batch_size": 4,
        "max_steps": 10,
        "seed": 1,
        "validation_fraction": 0.2,
        "clip_norm": 1.0,
        "last_batch": "merge",
        "precision": "float32",
        "loss": "auto",
        "optimizer": {"name": "adam", "learning_rate": 0.001, "weight_decay": 0.0},
        "schedule": {"name": "cosine", "warmup_steps": 2, "final_fraction": 0.1},
        "early_stopping": {"metric": "val_loss", "patience": 2, "min_delta": 0.0},
    },
    "resources": {"devices": 1},
    "priority": 0,
    "max_seconds": 60,
    "metadata": {"team": "a"},
}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a job."""
    inside: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inside:
        yield (*path, key)
        yield from places(each, (*path, key))


def with_(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of the job with another value there."""
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return copy


PLACES = list(places(JOB))
FREE = {"metadata", "seed", "dataset", "model", "name", "team"}
"""What may be any text, or any number, within its bounds; the answer says which."""


def test_the_job_itself_is_taken(stocked: Stocked) -> None:
    answer = _dry_run(stocked, JOB)
    assert answer.status_code == 200, answer.text
    assert len(PLACES) > 45


@pytest.mark.parametrize("path", PLACES, ids=[".".join(map(str, each)) for each in PLACES])
def test_what_is_accepted_is_within_bounds_and_nothing_is_run(stocked: Stocked, path: tuple[Any, ...]) -> None:
    taken = []
    for value in VALUES:
        answer = _dry_run(stocked, with_(JOB, path, value))
        assert answer.status_code in (200, 400, 404, 409, 422), f"{value!r}: {answer.status_code} {answer.text[:300]}"
        if answer.status_code == 200:
            taken.append(value)
            _check_bounds(answer.json()["request"])
    assert not CANARY.exists()
    assert not [each for each in taken if each in CODE and path[-1] not in FREE], taken
    assert not [each for each in taken if each in (10**400, "1", "1e3") and path[-1] not in FREE], taken


def _dry_run(stocked: Stocked, job: Any) -> Any:
    return stocked.ask(
        "POST", "/v1/jobs?dry_run=true", content=json.dumps(job), headers={"Content-Type": "application/json"}
    )


def _check_bounds(request: dict[str, Any]) -> None:
    """Of what would run, as the schema says them."""
    training = request["training"]
    assert 1 <= training["epochs"] <= 100_000
    assert training["max_steps"] is None or 1 <= training["max_steps"] <= 1_000_000_000
    assert 1 <= training["batch_size"] <= 20
    assert 0 <= training["seed"] < 2**63
    assert 0 <= training["validation_fraction"] <= 0.5
    assert 0 < training["optimizer"]["learning_rate"] < float("inf")
    assert -1_000 <= request["priority"] <= 1_000
    assert request["max_seconds"] is None or 1 <= request["max_seconds"] <= 30 * 86_400
    for layer in request["network"]["layers"]:
        if layer["type"] == "dense":
            assert 1 <= layer["units"] <= 1_000_000
        if layer["type"] == "batch_norm":
            assert 0 <= layer["momentum"] <= 1


def test_every_number_of_a_job_has_bounds_or_is_known_to_need_none() -> None:
    """Of whole numbers at least: a float that is not bounded is finite, which is checked for all."""
    unbounded = {
        f"{name}.{field}"
        for name, schema in SCHEMA["$defs"].items()
        for field, said in schema.get("properties", {}).items()
        for each in (said, *said.get("anyOf", []))
        if each.get("type") == "integer" and not ({"maximum", "exclusiveMaximum", "const", "enum"} & each.keys())
    }
    assert unbounded == {"Concatenate.axis"}  # which must be an axis of what it joins: the next test


@pytest.mark.parametrize("axis", [10**18, -(10**18), 10**400, 3, -3])
def test_an_axis_is_one_that_there_is(stocked: Stocked, axis: int) -> None:
    branches = [{"type": "dense", "units": 4, "name": name, "inputs": ["input"]} for name in ("a", "b")]
    joined = {"type": "concatenate", "axis": axis, "inputs": ["a", "b"]}
    answer = _dry_run(
        stocked, JOB | {"network": {"layers": [*branches, joined, {"type": "dense", "units": "classes"}]}}
    )
    assert answer.status_code == 422
    assert "axis" in answer.text


HUGE: dict[str, Any] = {
    "units": {"layers": [{"type": "dense", "units": 1_000_000}] * 3 + [{"type": "dense", "units": "classes"}]},
    "hidden": {"preset": "mlp", "hidden": [1_000_000] * 4},
    "many layers": {"layers": [{"type": "dense", "units": 50_000}] * 999 + [{"type": "dense", "units": "classes"}]},
}


@pytest.mark.parametrize("what", HUGE)
def test_a_network_that_no_worker_could_hold_is_refused_with_what_it_needs(stocked: Stocked, what: str) -> None:
    for path in ("/v1/jobs", "/v1/jobs?dry_run=true"):
        answer = stocked.ask("POST", path, json=JOB | {"network": HUGE[what]})
        assert answer.status_code == 422
        (said,) = [each for each in answer.json()["errors"] if each["field"] == "network"]
        assert "must have at most 2,000,000,000 parameters" in said["message"]


def test_a_job_over_the_memory_that_may_be_taken_is_refused_with_what_it_needs(start: Callable[..., Any]) -> None:
    with start(max_job_memory_bytes=10_000_000) as service:
        service.shelf.dataset("people", np.zeros((20, 2)), np.arange(20) % 2)
        network = {"layers": [{"type": "dense", "units": 3_000}] * 2 + [{"type": "dense", "units": "classes"}]}
        answer = service.http.post("/v1/jobs", json=JOB | {"network": network})
        assert answer.status_code == 422
        (said,) = answer.json()["errors"]
        assert (said["field"], "GAMMABETA_MAX_JOB_MEMORY_BYTES" in said["message"]) == ("network", True)
        assert service.http.get("/v1/jobs?kind=train").json()["data"] == []


@pytest.mark.parametrize("count", [1_001, 100_000])
def test_more_layers_than_may_be_are_refused_before_they_are_looked_at(stocked: Stocked, count: int) -> None:
    layers = [{"type": "x"}] * count
    answer = stocked.ask("POST", "/v1/jobs", json=JOB | {"network": {"layers": layers}})
    assert answer.status_code in (413, 422)
    assert len(answer.content) < 2_000
