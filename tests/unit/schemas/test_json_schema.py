"""The JSON schema of a job, which clients read from the API: it takes what the pages teach."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from gammabeta.schemas.constraints import Constraint
from gammabeta.schemas.initializers import Initializer
from gammabeta.schemas.jobs import EXAMPLE, TrainRequest
from gammabeta.schemas.presets import PRESETS
from gammabeta.schemas.problems import invalid
from tests.unit.schemas.test_batch_norm_spec import TAKEN

ROOT = Path(__file__).resolve().parents[3]
README, TRAINING, BATCHNORM = (
    (ROOT / name).read_text() for name in ("README.md", "docs/training.md", "docs/batchnorm.md")
)
SCHEMA = TrainRequest.model_json_schema()
VALIDATOR = Draft202012Validator(SCHEMA)


def complaints(**changed: Any) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(json.loads(json.dumps({**EXAMPLE, **changed})))]


def of_layer(**layer: Any) -> list[str]:
    return complaints(network={"layers": [layer]})


def of_options(**options: Any) -> list[str]:
    return complaints(network={"preset": "mlp", "batch_norm": options})


def inline(start: str) -> list[dict[str, Any]]:
    """Objects within the text of the training page."""
    return [yaml.safe_load(found) for found in re.findall(rf"`(\{{{start}[^`]+\}})`", TRAINING)]


REQUESTS = [
    EXAMPLE,
    *map(yaml.safe_load, re.findall(r"^```yaml.*?\n(.*?)^```", README + TRAINING, re.MULTILINE | re.DOTALL)),
    *map(json.loads, re.findall(r"-d '(\{\n.*?\n\})'", README, re.DOTALL)),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=range(len(REQUESTS)))
def test_requests_of_the_pages_are_taken(request_: dict[str, Any]) -> None:
    assert len(REQUESTS) == 4
    assert not list(VALIDATOR.iter_errors(request_))


UNTAUGHT = {"beta_regularizer": {"l1": 0.5}}
"""The flat form of our own classes."""


@pytest.mark.parametrize("given", TAKEN, ids=str)
def test_arguments_of_batch_norm_are_taken(given: dict[str, Any]) -> None:
    told = {key: each for key, each in given.items() if UNTAUGHT.get(key) != each}
    assert not of_layer(type="batch_norm", **told)
    told.pop("name", None)
    assert not of_options(placement="after_activation", **told)


def test_objects_within_the_pages_are_taken() -> None:
    blocks = [json.loads(line) for line in re.findall(r"^(\{.*\})$", BATCHNORM, re.MULTILINE)]
    assert len(blocks) == 6
    assert not [each for each in blocks if "type" in each and of_layer(**each)]
    for each in (each for each in blocks if "type" not in each):
        given = {"adjustment": each} if "kind" in each else {"renorm": True, "renorm_clipping": each}
        assert not of_options(**given)
    classes = inline("class_name")
    assert len(classes) == 3
    for each in classes:
        key = "regularizer" if each["class_name"].startswith("L") else "initializer"
        assert not of_layer(type="dense", units=4, **{f"kernel_{key}": each})
    options = inline("momentum")
    assert options
    assert not [each for each in options if of_options(**each)]


def test_names_are_taken() -> None:
    for kind, cls in (("initializer", Initializer), ("constraint", Constraint)):
        for name in set(get_args(cls.model_fields["name"].annotation)) - {"constant"}:
            assert not of_layer(type="batch_norm", **{f"gamma_{kind}": name})


@pytest.mark.parametrize(
    "given",
    [
        {"momentum": "0.9"},
        {"center": 1},
        {"gamma_initializer": "identity"},
        {"gamma_initializer": "constant"},
        {"gamma_initializer": []},
        {"gamma_initializer": [1, "2"]},
        {"gamma_initializer": {"class_name": "RandomNormal", "config": {"std": 1}}},
        {"gamma_initializer": {"class_name": "RandomNormal", "stddev": 1}},
        {"gamma_regularizer": "L1L2"},
        {"gamma_constraint": "maxnorm"},
        {"renorm_clipping": "papers"},
        {"renorm_clipping": {"rmax": []}},
        {"renorm_clipping": {"rmx": 3}},
        {"momentun": 0.9},
    ],
    ids=str,
)
def test_what_the_service_refuses_is_refused(given: dict[str, Any]) -> None:
    assert of_layer(type="batch_norm", **given)
    assert of_options(**given)


def parts(schema: Any) -> Iterator[dict[str, Any]]:
    for each in schema.values() if isinstance(schema, dict) else schema:
        if isinstance(each, dict | list):
            yield from parts(each)
    if isinstance(schema, dict):
        yield schema


@pytest.mark.parametrize("schema", [SCHEMA, *(preset.model_json_schema() for preset in PRESETS.values())])
def test_defaults_are_of_their_own_types(schema: dict[str, Any]) -> None:
    defaults = [part for part in parts(schema) if "default" in part and not isinstance(part["default"], dict)]
    assert len(defaults) > 50
    for part in defaults:
        Draft202012Validator({**part, "$defs": schema["$defs"]}).validate(part["default"])


def test_lists_have_bounds_of_lists() -> None:
    lists = [part for part in parts(SCHEMA) if part.get("type") == "array"]
    assert lists
    assert not [part for part in lists if part.keys() & {"minLength", "maxLength"}]


def lenient(schema: Any, path: str = "") -> Iterator[str]:
    """Numbers and truth values of a core schema that take text."""
    if isinstance(schema, dict):
        if schema.get("type") in ("int", "float", "bool") and not schema.get("strict"):
            yield path
        for key, each in schema.items():
            if key not in ("serialization", "metadata"):
                yield from lenient(each, f"{path}.{key}")
    elif isinstance(schema, list | tuple):
        for each in schema:
            yield from lenient(each, path)


def test_no_number_of_a_job_is_read_from_text() -> None:
    assert not list(lenient(TrainRequest.__pydantic_core_schema__))


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"epochs": "10"}, "whole number"),
        ({"batch_size": 32.0}, "whole number"),
        ({"seed": True}, "whole number"),
        ({"clip_norm": True}, "a number"),
        ({"optimizer": {"name": "adam", "learning_rate": True}}, "a number"),
        ({"optimizer": {"name": "sgd", "nesterov": "no"}}, "true or false"),
        ({"optimizer": {"name": "adam", "epsilon": 1e-60}}, "at least 1e-37"),
        ({"schedule": {"name": "cosine", "warmup_steps": "5"}}, "whole number"),
    ],
    ids=str,
)
def test_training_takes_no_other_types(training: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TrainRequest.model_validate({**EXAMPLE, "training": training})
    assert message in invalid(caught.value).errors[0].message
