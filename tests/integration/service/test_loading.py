"""What is in memory, and what serves from there: room, engines that fail, what is served, failures nobody awaits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import structlog

from service.runtime import loading
from service.runtime.engines import Engine, EngineFailed
from tests.integration.service.conftest import Service, eventually
from tests.integration.service.test_predicting import (
    PAIRS,
    held,
    held_back,
    loaded,
    meant,
    move_elsewhere,
    predict,
    scores,
)


@pytest.fixture
def narrow(start: Callable[..., Any]) -> Iterator[Service]:
    """A service with version 1 in memory by an alias, version 2 not, and not room for both."""
    with start(predict_engine="torch", predict_fold=False) as service:
        for seed in (1, 2):
            service.shelf.version("moving", PAIRS, seed=seed)
        service.http.put("/v1/models/moving/aliases/production", json={"version": "1"})
        eventually(lambda: predict(service, "moving").json()["version"] == meant(service) == "1")
        (first,) = held(service).held
        held(service)._limit = 5 * first.bytes // 4
        yield service


def test_room_is_made_before_a_version_is_loaded(narrow: Service) -> None:
    with ThreadPoolExecutor(1) as client, held_back(narrow, "moving", "2"):
        waiting = client.submit(predict, narrow, "moving", version="2")
        eventually(lambda: ("default", "moving", "2") in held(narrow).loading and not held(narrow).held)
        assert not waiting.done()
        # It is asked for meanwhile, and there is no room for both.
        other = client.submit(predict, narrow, "moving", version="1")
    assert (waiting.result().status_code, other.result().status_code) == (200, 200)
    assert [each.version.version for each in held(narrow).held] == ["1"]
    assert held(narrow)._reserved == {}


def test_versions_that_do_not_fit_together_are_loaded_one_after_the_other(narrow: Service) -> None:
    with ThreadPoolExecutor(2) as clients:
        with held_back(narrow, "moving", "2"):
            two = clients.submit(predict, narrow, "moving", version="2")
            eventually(lambda: ("default", "moving", "2") in held(narrow)._reserved)
            one = clients.submit(predict, narrow, "moving", version="1")
            eventually(lambda: held(narrow).loading == {("default", "moving", "1"), ("default", "moving", "2")})
            assert list(held(narrow)._reserved) == [("default", "moving", "2")]
        assert (one.result().status_code, two.result().status_code) == (200, 200)


def test_version_that_made_room_for_what_replaces_it_is_not_loaded_again(narrow: Service) -> None:
    with ThreadPoolExecutor(1) as client:
        with held_back(narrow, "moving", "2"):
            move_elsewhere(narrow, "2")
            eventually(lambda: not held(narrow).held)
            waiting = client.submit(predict, narrow, "moving")
            eventually(lambda: meant(narrow) == "2", seconds=1)
            assert held(narrow).loading == {("default", "moving", "2")}
        assert waiting.result().json()["version"] == "2"
    assert [each.version.version for each in held(narrow).held] == ["2"]


def test_what_is_not_in_memory_is_not_loaded_because_its_name_moves(narrow: Service) -> None:
    held(narrow).drop("default", "moving")
    move_elsewhere(narrow, "2")
    eventually(lambda: meant(narrow) is None)
    assert held(narrow).loading == frozenset()
    assert held(narrow).held == ()
    assert predict(narrow, "moving").json()["version"] == "2"


class Watched:
    """An engine, and how many threads were in it at once."""

    name, bytes, training = "onnxruntime", 0, False

    def __init__(self, engine: Engine) -> None:
        self._engine, self._lock = engine, threading.Lock()
        self.inside, self.most, self.threads = 0, 0, set[str]()

    def logits(self, raw: Any) -> Any:
        """raw: [B, …]."""
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.threads.add(threading.current_thread().name.rsplit("_", 1)[0])
        answer = self._engine.logits(raw)
        with self._lock:
            self.inside -= 1
        return answer


class Broken(Watched):
    """An engine that computes no more."""

    def logits(self, raw: Any) -> Any:  # noqa: ARG002
        """raw: [B, …]."""
        raise EngineFailed("it could not compute. Out of memory.")


def with_engine(service: Service, model: str, wrapped: type[Watched]) -> Watched:
    """The same version with another engine around its own."""
    version = loaded(service, model)
    engine = wrapped(version.prepared.engine)
    version.computing.prepared = replace(version.prepared, engine=engine)
    return engine


def served(service: Service, model: str) -> dict[str, Any]:
    answer = service.http.get(f"/v1/models/{model}/versions/1/served")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_what_is_served_is_measured_once_at_a_time_where_networks_are_computed(service: Service) -> None:
    service.shelf.version("asked", PAIRS)
    engine = with_engine(service, "asked", Watched)
    with ThreadPoolExecutor(8) as clients:
        for found in clients.map(lambda _: served(service, "asked"), range(16)):
            assert found["max_difference"] <= found["tolerance"]
            assert found["training"] is False
    assert engine.most == 1
    assert engine.threads == {"predict"}


@pytest.mark.parametrize("ask", [served, predict])
def test_engine_that_fails_makes_way_and_nobody_notices(service: Service, ask: Callable[..., Any]) -> None:
    name = f"failing-{ask.__name__}"
    service.shelf.version(name, PAIRS)
    expected = scores(predict(service, name))
    with_engine(service, name, Broken)
    ask(service, name)
    np.testing.assert_allclose(scores(predict(service, name)), expected, atol=1e-6)
    found = served(service, name)
    assert (found["engine"], found["max_difference"], found["folded"]) == ("torch", 0, [])
    assert {"engine": "onnxruntime", "reason": "it could not compute. Out of memory."} in found["not_serving"]


def test_load_that_nobody_awaits_says_why_it_failed(start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: Any) -> Any:
        raise ZeroDivisionError("a fault of ours")

    logged = structlog.testing.CapturingLogger()
    monkeypatch.setattr(loading, "log", logged)
    with start() as service:
        for seed in (1, 2):
            service.shelf.version("moving", PAIRS, seed=seed)
        service.http.put("/v1/models/moving/aliases/production", json={"version": "1"})
        eventually(lambda: predict(service, "moving").json()["version"] == meant(service) == "1")
        monkeypatch.setattr(held(service)._loader, "load", failing)
        move_elsewhere(service, "2")
        eventually(lambda: any(call.method_name == "error" for call in logged.calls))
    (call,) = [call for call in logged.calls if call.method_name == "error"]
    assert (call.kwargs["model"], call.kwargs["version"]) == ("moving", "2")
    assert isinstance(call.kwargs["exc_info"], ZeroDivisionError)
