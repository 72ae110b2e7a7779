"""What the pages promise of the code: settings, reasons for a refusal, links."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic import TypeAdapter

from bench import reliability
from gammabeta.cli.main import app
from gammabeta.client.client import Client
from gammabeta.client.resources import Datasets, Jobs, Keys, Models
from gammabeta.client.waiting import JobHandle
from gammabeta.nets.state import weights_of
from gammabeta.schemas.jobs import JobRequest
from gammabeta.schemas.normalization import BATCH_NORM_ARGUMENTS, BatchNorm
from gammabeta.schemas.renorm import RenormClipping
from tests.faults.matrix import MATRIX
from tests.unit.nets.plans import network_of
from tests.unit.settings_page import page

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def test_settings_page_is_what_the_declarations_say() -> None:
    told = (ROOT / "docs/settings.md").read_text()
    assert told == page(), "renew it: .venv/bin/python -m tests.unit.settings_page > docs/settings.md"


def test_each_setting_has_a_help_text() -> None:
    assert not re.findall(r"^\| `\w+` \| .* \|  \|$", page(), re.MULTILINE)


def _codes(name: str) -> set[str]:
    """First arguments of all calls of `name` in the worker."""
    found = set()
    for path in (ROOT / "worker").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
            if called and node.args and isinstance(node.args[0], ast.Constant):
                found.add(str(node.args[0].value))
    return found


@pytest.mark.parametrize(("raised", "document"), [("DatasetInvalid", "data.md"), ("TrainingFailed", "jobs.md")])
def test_each_reason_is_explained(raised: str, document: str) -> None:
    codes = _codes(raised)
    assert len(codes) > 2
    told = set(re.findall(r"`(\w+)`", (ROOT / "docs" / document).read_text()))
    assert not codes - told


@pytest.mark.parametrize("document", PAGES, ids=[path.name for path in PAGES])
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


@pytest.mark.parametrize("document", PAGES, ids=[path.name for path in PAGES])
def test_tests_that_a_page_names_exist(document: Path) -> None:
    for name in re.findall(r"`(tests/[\w/.]+)", document.read_text()):
        assert (ROOT / name).exists(), f"{document.name} names {name}"


def test_each_remark_of_the_dry_run_is_explained() -> None:
    source = (ROOT / "gammabeta/schemas/remarks.py").read_text()
    told = (ROOT / "docs/training.md").read_text()
    codes = re.findall(r'code="(\w+)"', source)
    assert len(codes) > 10
    assert [code for code in codes if f"`{code}`" not in told] == []


def test_job_of_the_training_page_is_taken_as_it_stands() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/training.md").read_text(), re.DOTALL)
    taken = TypeAdapter(JobRequest).validate_python(yaml.safe_load(text))
    assert taken.training.schedule.warmup_steps == 100


def test_each_layer_and_optimizer_is_on_the_training_page() -> None:
    told = (ROOT / "docs/training.md").read_text()
    schema = TypeAdapter(JobRequest).json_schema()["$defs"]
    names = [
        each["properties"][key]["const"]
        for each in schema.values()
        for key in ("type", "name", "preset")
        if "const" in each.get("properties", {}).get(key, {})
    ]
    assert len(names) > 15
    assert [name for name in names if f"`{name}`" not in told] == []


def test_each_argument_of_batch_norm_has_a_row_with_its_default() -> None:
    told = (ROOT / "docs/batchnorm.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|(?:[^|\n]+\|){4}$", told, re.MULTILINE)
    defaults = BatchNorm().model_dump(mode="json")
    assert len(rows) == len(BATCH_NORM_ARGUMENTS) == 21
    assert {name: json.loads(default) for name, default in rows} == {key: defaults[key] for key in BATCH_NORM_ARGUMENTS}


def test_json_of_the_batch_norm_page_is_taken_as_it_stands() -> None:
    told = (ROOT / "docs/batchnorm.md").read_text()
    lines = [
        json.loads(line) for block in re.findall(r"```json\n(.*?)```", told, re.DOTALL) for line in block.splitlines()
    ]
    adjustments = [each for each in lines if "kind" in each]
    clippings = [each for each in lines if "rmax" in each]
    layers = [each for each in lines if "type" in each]
    assert len(adjustments) + len(clippings) + len(layers) == len(lines)
    assert [BatchNorm.model_validate(each).axes for each in layers] == [(3,)]
    for each in adjustments:
        assert BatchNorm.model_validate({"adjustment": each}).adjustment is not None
    assert {each["kind"] for each in adjustments} == {"uniform", "normal", "constant"}
    assert RenormClipping.model_validate(clippings[1]) == RenormClipping.model_validate("paper")


RESOURCES = {
    "client": Client,
    "client.datasets": Datasets,
    "client.jobs": Jobs,
    "client.models": Models,
    "client.keys": Keys,
    "job": JobHandle,
}


def test_each_method_of_the_client_is_on_its_page() -> None:
    told = (ROOT / "docs/client.md").read_text()
    names = [f"{path}.{name}" for path, kind in RESOURCES.items() for name in vars(kind) if not name.startswith("_")]
    assert len(names) > 25
    assert [name for name in names if not re.search(rf"`{name}[(`]", told)] == []


def _commands(group: Any, path: str) -> list[str]:
    """All that can be called, by their words."""
    children = getattr(group, "commands", {})
    return [each for name, child in children.items() for each in _commands(child, f"{path} {name}")] or [path]


def test_each_command_is_on_the_page_of_the_client() -> None:
    told = re.findall(r"^\| `(gammabeta [\w -]+)` \|", (ROOT / "docs/client.md").read_text(), re.MULTILINE)
    assert sorted(told) == sorted(_commands(typer.main.get_command(app), "gammabeta"))


SIZES = {"channels": 6, "groups": 3, "filters": 9, "multiplier": 2, "length": 5, "height": 5, "width": 7, "units": 4}
KERNELS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "dense": ({"units": 4}, (8,)),
    "conv1d": ({"filters": 9, "kernel_size": 5, "groups": 3}, (11, 6)),
    "conv2d": ({"filters": 9, "kernel_size": [5, 7], "groups": 3}, (11, 11, 6)),
    "depthwise_conv2d": ({"kernel_size": [5, 7], "depth_multiplier": 2}, (11, 11, 6)),
}


def _size(term: str) -> int:
    factor, *others = re.split(r" ([/*]) ", term)
    value = int(factor) if factor.isdigit() else (SIZES | {"inputs": 8})[factor]
    for sign, name in zip(others[::2], others[1::2], strict=True):
        value = value // SIZES[name] if sign == "/" else value * SIZES[name]
    return value


def test_layouts_of_kernels_are_those_of_the_file() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `\[([^`]+)\]` \| `", (ROOT / "docs/training.md").read_text(), re.MULTILINE)
    told = {name: tuple(map(_size, terms.split(", "))) for name, terms in rows}
    for name, (arguments, shape) in KERNELS.items():
        network = network_of({"type": name, **arguments}, {"type": "flatten"}, shape=shape)
        assert tuple(weights_of(network)[f"{name}.kernel"].shape) == told.pop(name)
    assert told == {}


def test_the_table_of_faults_is_what_was_measured() -> None:
    told = (reliability.DOCS / reliability.PAGE).read_text()
    assert told == reliability.page(told, reliability.rows()), "scripts/bench faults writes it"


def test_each_row_of_the_table_of_faults_is_what_its_scenario_says_or_named_as_missing() -> None:
    told = (reliability.DOCS / reliability.PAGE).read_text()
    scenarios = {(each.id, kind): each for each in MATRIX for kind in each.kinds}
    for row in reliability.rows():
        scenario = scenarios.pop((row.id, row.database))
        assert (row.fault, row.promise) == (scenario.fault, scenario.promise)
        assert row.n >= scenario.times(row.database)
        assert bool(row.failed) == bool(row.broken)
        assert [each for each in row.broken if each not in told] == []
    _, _, missing = told.partition("Not measured yet: ")
    assert [each for each in scenarios if f"{each[0]} on {reliability.NAMES[each[1]]}" not in missing] == []
