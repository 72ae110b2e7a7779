"""POST /v2/repository: what its bodies may hold."""

from __future__ import annotations

from typing import Any

import pytest

from gammabeta.schemas.preprocessing import FittedArray
from tests.integration.service.conftest import Service


@pytest.fixture(scope="module")
def flat(service: Service) -> None:
    service.shelf.version("flat", preprocessing=FittedArray(shape=(4,)))


@pytest.mark.parametrize("parameters", [{}, None])
def test_model_is_loaded_without_parameters(service: Service, flat: None, parameters: Any) -> None:
    answer = service.http.post("/v2/repository/models/flat/load", json={"parameters": parameters})
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize("parameters", [{"config": "{}"}, False, 0, "", []])
def test_no_other_parameters_are_taken(service: Service, flat: None, parameters: Any) -> None:
    answer = service.http.post("/v2/repository/models/flat/load", json={"parameters": parameters})
    assert answer.status_code == 400
    assert "'parameters' must be left out" in answer.json()["error"]
