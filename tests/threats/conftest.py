"""A service with keys and with one of everything, of which there is one for all tests of the folder: none of them
changes what is there, and most prove just that."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from gammabeta.schemas.keys import KeyRequest, Scope
from gammabeta.schemas.preprocessing import FittedTable, NumericColumn
from gammabeta.store import keys, projects
from gammabeta.store.tables import DEFAULT_PROJECT
from service.settings import ServiceSettings
from tests.integration.samples import submit
from tests.integration.service.conftest import Service, eventually, migrated, running, start

__all__ = ["migrated", "start"]

READ = FittedTable(columns=(NumericColumn(name="age", fill=38.0),))
"""A column of the shelf's data sets."""
ROWS = {"instances": [{"age": 40}]}


@dataclass(frozen=True, kw_only=True)
class Stocked:
    """A service, what the project `default` has there, and keys: of each scope alone, of it and of another project."""

    service: Service
    own: str
    foreign: str
    scoped: dict[str, str]
    ids: dict[str, str]
    """What stands in paths, by the name of the parameter."""

    def ask(self, method: str, path: str, key: str | None = None, **more: Any) -> httpx.Response:
        """By the key that may do everything, unless another is given."""
        headers = {"Authorization": f"Bearer {key or self.own}"} | more.pop("headers", {})
        return self.service.http.request(method, path, headers=headers, **more)

    def addressed(self, path: str) -> str:
        """The path with what there is."""
        known = self.ids | ({"name": "predictions.csv"} if "/files/{name}" in path else {})
        return re.sub(r"\{(\w+)\}", lambda found: known[found[1]], path)


@pytest.fixture(scope="session")
def stocked(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stocked]:
    home = tmp_path_factory.mktemp("stocked")
    shutil.copy(migrated, home / "gammabeta.db")
    with running(ServiceSettings(home=home, port=0, watch_seconds=0.05)) as service:
        yield _stocked(service)


def _stocked(service: Service) -> Stocked:
    service.shelf.version("income", READ)
    dataset = service.shelf.dataset("people", np.zeros((20, 2)), np.arange(20) % 2)
    job = submit(service.shelf.database, dataset_id=dataset, model="income")
    made = {scope.value: made_key(service, DEFAULT_PROJECT, scope) for scope in Scope}
    own, foreign = made_key(service, DEFAULT_PROJECT, *Scope), made_key(service, "elsewhere", *Scope)
    ids = {
        "dataset": dataset,
        "job_id": job,
        "name": "income",
        "version": "1",
        "alias": "best",
        "file": "spec.json",
        "key": keys.id_of(own),
    }
    stock = Stocked(service=service, own=own, foreign=foreign, scoped=made, ids=ids)
    eventually(lambda: service.http.get("/v1/jobs").status_code == 401)
    eventually(lambda: stock.ask("GET", "/v1/jobs", foreign).status_code == 200)
    assert stock.ask("PUT", "/v1/models/income/aliases/best", json={"version": "1"}).status_code == 200
    return stock


def made_key(service: Service, project: str, *scopes: Scope) -> str:
    """The text of a new key."""
    with service.shelf.database.write() as session:
        request = KeyRequest(name="test", scopes=scopes)
        return keys.create(session, projects.ensure(session, project), request).key or ""
