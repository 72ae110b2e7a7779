"""A part of `scripts/bench fuzz`: the service is asked from its own description, and over plain sockets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from gammabeta.schemas.keys import Scope
from gammabeta.store import datasets
from gammabeta.store.tables import DEFAULT_PROJECT
from tests.fuzzing import described, sockets
from tests.fuzzing.described import Tally, Way
from tests.fuzzing.place import NAME
from tests.integration.service.conftest import Service, eventually
from tests.integration.service.test_keys import DOCUMENT, code, make

SEED = 6
OPERATIONS = {f"{method.upper()} {path}" for path, each in DOCUMENT["paths"].items() for method in each}


@pytest.fixture(scope="module")
def stocked(start: Callable[..., Any]) -> Iterator[Service]:
    """A service with room for few jobs, since nobody works on them."""
    with start(max_queued=5, stream_heartbeat_seconds=0.5) as service:
        yield service


@pytest.fixture(autouse=True)
def stock(stocked: Service) -> None:
    """What a test before may have deleted."""
    with stocked.shelf.database.read() as session:
        there = datasets.find(session, DEFAULT_PROJECT, limit=1_000)
    if NAME not in (row.name for row in there):
        stocked.shelf.dataset(NAME, np.zeros((4, 2)), np.array([0, 1, 0, 1]))
    stocked.shelf.version(NAME)


@pytest.fixture(scope="module")
def locked(stocked: Service) -> str:
    """A key of all scopes, from which on one is needed."""
    key = make(stocked.shelf.database, *Scope).key or ""
    eventually(lambda: (code(stocked, None), code(stocked, key)) == (401, 200))
    return key


def check(tally: Tally, *, without: frozenset[str] = frozenset()) -> None:
    assert tally.told == {}
    assert tally.server_errors == 0
    assert set(tally.operations) == OPERATIONS - without


def test_open_service_keeps_its_description(stocked: Service) -> None:
    phases = ("examples", "fuzzing")
    tally = described.run(stocked.url, Way(name="open", is_open=True), seed=SEED, examples=1, phases=phases)
    check(tally, without=frozenset({"POST /v1/keys"}))
    assert tally.statuses[200] > 20


def test_edges_of_its_schemas_are_where_the_description_says(stocked: Service, locked: str) -> None:
    way = Way(name="key", key=locked)
    tally = described.run(stocked.url, way, seed=SEED, examples=1, phases=("coverage",))
    check(tally, without=frozenset({"POST /v1/jobs"}))
    assert tally.requests > 1_000
    assert tally.statuses[405] > 100


def test_holder_of_a_key_meets_what_the_description_says(stocked: Service, locked: str) -> None:
    phases = ("examples", "fuzzing", "stateful")
    check(described.run(stocked.url, Way(name="key", key=locked), seed=SEED, examples=2, phases=phases))


def test_who_has_no_key_learns_nothing(stocked: Service, locked: str) -> None:
    tally = described.run(stocked.url, Way(name="none"), seed=SEED, examples=1, phases=("examples", "fuzzing"))
    check(tally)
    assert tally.statuses[401] > len(OPERATIONS) - 5


def test_what_no_library_sends_is_refused(stocked: Service, locked: str) -> None:
    address = urlsplit(stocked.url)
    random = Random(SEED)
    speaker = sockets.Speaker(host=address.hostname or "", port=address.port or 0, random=random, key=locked)
    answers = sockets.run(speaker, 8 * len(sockets.KINDS))
    assert answers.wrong == []
    assert answers.statuses[400] > 20
    assert stocked.http.get("/healthz").status_code == 200
