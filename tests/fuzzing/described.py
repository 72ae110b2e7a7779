"""Requests that schemathesis makes from the live OpenAPI document, and what its checks say of the answers.

GET /v1/openapi.json ──► examples, coverage, fuzzing, stateful ──requests──► service ──answers──► checks ──► Tally

Every check is on, and every operation is asked: one that is added is asked from then on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

import httpx
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import Status, events, from_schema
from schemathesis.engine.recorder import ScenarioRecorder
from schemathesis.generation.case import Case
from schemathesis.hooks import HookContext, unregister

from gammabeta.store import keys

DOCUMENT = "/v1/openapi.json"
SECONDS = 60
"""For an answer: the machine may be busy."""
PHASES = ("examples", "coverage", "fuzzing", "stateful")
MODEL_DECIDES = (400, 413, 415, 422)
BEYOND: dict[str, tuple[int, ...]] = {
    "predict": MODEL_DECIDES,  # what a row is, and whether it may be an image, is the model's to say
    "infer": MODEL_DECIDES,
    "infer_of_version": MODEL_DECIDES,
    "submit_job": (422,),  # shapes of layers follow from each other, and names from the data set
    "upload_dataset": (422,),  # a second file takes other parameters than a first one; none may be empty
    "preview_dataset": (422,),  # of the splits, a data set has those that were uploaded
    "create_key": (422,),  # a life of 99999999d is too long
}
"""Operations with rules that no JSON schema says, and how they refuse what keeps the schema and breaks those. That what
keeps the schema is taken (`positive_data_acceptance`) is asked of all others."""
TAKEN = ("2xx", "3xx", "401", "403", "404", "409", "429", "503", "507")


@dataclass(frozen=True, kw_only=True)
class Way:
    """How the service is asked."""

    name: str
    key: str | None = None
    is_open: bool = False
    """There is no key yet, and so nothing asks for one."""

    def prepared(self, document: dict[str, Any]) -> dict[str, Any]:
        """The document, as it holds for this way."""
        if self.is_open:
            for path in document["paths"].values():
                for operation in path.values():
                    operation.pop("security", None)
        return document


@dataclass
class Tally:
    """What came of the requests."""

    requests: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    passed: Counter[str] = field(default_factory=Counter)
    """By check."""
    failed: Counter[str] = field(default_factory=Counter)
    """By check."""
    told: dict[str, str] = field(default_factory=dict)
    """Of each failure one, in words, with the request that made it."""

    @property
    def server_errors(self) -> int:
        return sum(count for status, count in self.statuses.items() if status >= 500)

    def add(self, recorder: ScenarioRecorder) -> None:
        """All requests of a scenario."""
        for case_id, interaction in recorder.interactions.items():
            self.requests += 1
            self.operations[recorder.cases[case_id].value.operation.label] += 1
            if interaction.response is not None:
                self.statuses[interaction.response.status_code] += 1
        for node in (each for nodes in recorder.checks.values() for each in nodes):
            if node.status is Status.SUCCESS:
                self.passed[node.name] += 1
            elif node.failure_info is None:
                self.fail(node.name, "the check itself failed")
            else:
                failure = node.failure_info.failure
                self.fail(node.name, f"{failure.operation}: {failure.message}\n{node.failure_info.code_sample}")

    def fail(self, name: str, told: str) -> None:
        self.failed[name] += 1
        self.told.setdefault(f"{name}: {told.splitlines()[0]}", told)


def run(
    url: str,
    way: Way,
    *,
    seed: int,
    examples: int,
    phases: tuple[str, ...] = PHASES,
    largest: bool = False,
) -> Tally:
    """Ask the service at `url`, up to so many examples of each operation and phase, which coverage, complete as it is,
    does not heed. `largest`: the coverage of submissions too, which is ten times that of all others together.

    In a process of its own: schemathesis changes hypothesis for all of its process, the printing of what failed too."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        return alone.submit(_run, url, way, seed=seed, examples=examples, phases=phases, largest=largest).result()


def _run(url: str, way: Way, *, seed: int, examples: int, phases: tuple[str, ...], largest: bool) -> Tally:
    document = way.prepared(httpx.get(url + DOCUMENT, timeout=SECONDS).raise_for_status().json())
    config = _config(url, way, seed=seed, examples=examples, phases=phases, largest=largest)
    schema = schemathesis.openapi.from_dict(document, config=SchemathesisConfig.from_dict(config))
    if way.is_open:
        schema = schema.exclude(operation_id="create_key")  # with which it would not be open any more
    tally = Tally()
    with _keeping(way.key):
        for event in from_schema(schema).execute():
            match event:
                case events.ScenarioFinished():
                    tally.add(event.recorder)
                case events.NonFatalError():
                    tally.fail("error", f"{event.label}: {event.value!r}")
                case events.FatalError():
                    tally.fail("error", repr(event.exception))
    return tally


def _config(url: str, way: Way, *, seed: int, examples: int, phases: tuple[str, ...], largest: bool) -> dict[str, Any]:
    operations = {
        name: {"checks": {"positive_data_acceptance": {"expected-statuses": [*TAKEN, *map(str, statuses)]}}}
        for name, statuses in BEYOND.items()
    }
    if not largest:
        operations["submit_job"]["phases"] = {"coverage": {"enabled": False}}
    return {
        "base-url": url,
        "seed": seed,
        "continue-on-failure": True,
        "request-timeout": SECONDS,
        "cache": {"enabled": False},
        "generation": {"max-examples": examples, "database": "none", "no-shrink": True},
        "phases": {each: {"enabled": each in phases} for each in PHASES},
        "operations": [{"include-operation-id": name, **rest} for name, rest in operations.items()],
        **({"auth": {"openapi": {"key": {"bearer": way.key}}}} if way.key else {}),
    }


@contextmanager
def _keeping(key: str | None) -> Iterator[None]:
    """Lists of keys name the one in use too; who revokes that one is asked to revoke another, which is not there."""

    def before_call(_: HookContext, case: Case, __: dict[str, Any]) -> None:
        if key is not None and case.path_parameters.get("key") == keys.id_of(key):
            case.path_parameters["key"] = "key_gone"

    schemathesis.hook(before_call)
    try:
        yield
    finally:
        unregister(before_call)
