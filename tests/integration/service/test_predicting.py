"""The predict path of a running service: batches, the memory of versions, and aliases that move."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from sqlalchemy import delete

from gammabeta.nets.batchnorm import BatchNorm
from gammabeta.schemas.preprocessing import FittedArray
from gammabeta.store import models
from gammabeta.store.tables import DEFAULT_PROJECT, LayerRow
from service.runtime.costs import Cost
from service.runtime.loading import LoadedVersion, Models, Weights, _bytes_together
from service.runtime.pacing import Pace
from tests.integration.service.conftest import Service, eventually

PAIRS = FittedArray(shape=(2,), mean=(0.0, 0.0), std=(1.0, 1.0))
ROW = [[0.5, -1.5]]
SLOW = Cost(1.0, 0.0)


def predict(service: Service, model: str, rows: Any = ROW, **query: Any) -> httpx.Response:
    return service.http.post(f"/v1/models/{model}/predict", params=query, json={"instances": rows})


def scores(answer: httpx.Response) -> np.ndarray[Any, Any]:
    assert answer.status_code == 200, answer.text
    return np.array([each["scores"] for each in answer.json()["predictions"]], dtype=np.float32)


def held(service: Service) -> Models:
    found: Models = service.server.app.api.state.context.models
    return found


def loaded(service: Service, model: str) -> LoadedVersion:
    assert predict(service, model).status_code == 200
    return next(each for each in reversed(held(service).held) if each.version.model == model)


@contextmanager
def busy(service: Service, version: LoadedVersion) -> Iterator[ThreadPoolExecutor]:
    """Until the end of the block no batch is computed: the only thread is held up, and a first request has its turn."""
    context, gate = service.server.app.api.state.context, threading.Event()
    version.line.cost = SLOW
    context.predictor._computing.submit(gate.wait)
    with ThreadPoolExecutor(8) as clients:
        try:
            first = clients.submit(predict, service, version.version.model)
            eventually(lambda: context.predictor._batcher._free == 0)
            yield clients
        finally:
            gate.set()
        assert first.result().status_code == 200


@pytest.fixture(scope="module")
def single(start: Callable[..., Any]) -> Iterator[Service]:
    """A service with one thread for networks, and room for ten rows that wait."""
    with start(predict_workers=1, max_queued_rows=10) as running:
        yield running


def test_requests_that_wait_are_computed_together_and_each_has_its_own_answer(single: Service) -> None:
    network = single.shelf.version("together", PAIRS)
    version = loaded(single, "together")
    draws = np.random.default_rng(0).normal(0, 2, (5, 2, 2)).astype(np.float32)
    with busy(single, version) as clients:
        asked = [clients.submit(predict, single, "together", rows.tolist()) for rows in draws]
        eventually(lambda: version.line.rows == 10)
    for rows, answer in zip(draws, asked, strict=True):
        with torch.inference_mode():
            expected = network.scores(torch.from_numpy(rows)).numpy()
        np.testing.assert_allclose(scores(answer.result()), expected, atol=1e-5)
    assert version.statistics.batches[10].count == 1
    assert version.statistics.success.count == 7


def test_an_answer_that_is_not_finite_fails_its_own_request_only(single: Service) -> None:
    single.shelf.version("far", FittedArray(shape=(2,), offset=(0.0, 0.0), scale=(1e-30, 1e-30)), classes=None)
    version = loaded(single, "far")
    with busy(single, version) as clients:
        good = clients.submit(predict, single, "far", [[0, 0]])
        bad = clients.submit(predict, single, "far", [[0, 0], [1e30, 1e30]])
        eventually(lambda: version.line.rows == 3)
    assert good.result().status_code == 200
    assert [error["field"] for error in bad.result().json()["errors"]] == ["instances[1]"]
    assert (version.statistics.success.count, version.statistics.fail.count) == (3, 1)


def test_a_neighbour_changes_nothing(single: Service) -> None:
    single.shelf.version("calm", PAIRS)
    alone = scores(predict(single, "calm"))
    crowd = np.random.default_rng(1).normal(0, 1e6, (199, 2)).tolist()
    for place in (0, 99, 199):
        among = scores(predict(single, "calm", [*crowd[:place], *ROW, *crowd[place:]]))[place]
        np.testing.assert_allclose(among, alone[0], atol=1e-5)


def test_a_thousand_predictions_change_nothing(single: Service) -> None:
    single.shelf.version("pure", PAIRS)
    version = loaded(single, "pure")

    def everything() -> str:
        held = version.network.state_dict().items()
        return hashlib.sha256(b"".join(key.encode() + value.numpy().tobytes() for key, value in held)).hexdigest()

    before = everything()
    for rows in np.random.default_rng(2).normal(0, 3, (100, 10, 2)):
        assert predict(single, "pure", rows.tolist()).status_code == 200
    assert everything() == before
    assert version.predictions == 1_001
    assert not any(module.training for module in version.network.modules())


def test_more_than_may_wait_is_refused_at_once(single: Service) -> None:
    single.shelf.version("crowded", PAIRS)
    version = loaded(single, "crowded")
    with busy(single, version) as clients:
        waiting = [clients.submit(predict, single, "crowded", ROW * 5) for _ in range(2)]
        eventually(lambda: version.line.rows == 10)
        refused = predict(single, "crowded")
        assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.headers["content-type"] == "application/problem+json"
        # Before anything of its body is looked at.
        unread = single.http.post("/v2/models/crowded/infer", content=b"[", headers={"Content-Encoding": "gzip"})
        assert unread.status_code == 429
        single.shelf.version("quiet", PAIRS)
        assert predict(single, "quiet").status_code == 200
    assert [each.result().status_code for each in waiting] == [200, 200]
    assert predict(single, "crowded").status_code == 200
    assert version.statistics.refused == 2


def test_a_client_that_went_away_costs_no_computation(single: Service) -> None:
    single.shelf.version("impatient", PAIRS)
    version = loaded(single, "impatient")
    with busy(single, version):
        with post_raw(single, "impatient", b'{"instances": [[1, 2], [3, 4], [5, 6]]}'):
            eventually(lambda: version.line.rows == 3)
        eventually(lambda: version.line.rows == 0)
    assert version.predictions == 2
    assert set(version.statistics.batches) == {1}
    assert version.statistics.fail.count == 1


@pytest.fixture(scope="module")
def narrow(start: Callable[..., Any]) -> Iterator[Service]:
    """A service with one thread for bodies, where one large body may wait."""
    with start(predict_workers=1, max_queued_bytes=2 * len(LONG) - 1) as running:
        yield running


LONG = b'{"instances": [' + b", ".join([b"[0.25, 0.75]"] * 10_000) + b"]}"


@contextmanager
def unread(service: Service, path: str) -> Iterator[ThreadPoolExecutor]:
    """Until the end of the block no large body is read: the only thread is held up, and a first request is next."""
    gate, bench = threading.Event(), service.server.app.api.state.context.predictor._reading
    bench._pool.submit(gate.wait)
    with ThreadPoolExecutor(4) as clients:
        try:
            first = clients.submit(service.http.post, path, content=LONG)
            eventually(bench._turns.locked)
            yield clients
        finally:
            gate.set()
        assert first.result().status_code == 200


def test_bodies_that_would_wait_too_long_to_be_read_are_refused_and_small_ones_are_not(narrow: Service) -> None:
    narrow.shelf.version("wordy", PAIRS)
    version, path = loaded(narrow, "wordy"), "/v1/models/wordy/predict"
    with unread(narrow, path):
        refused = narrow.http.post(path, content=LONG)
        assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
        assert "GAMMABETA_MAX_QUEUED_BYTES" in refused.json()["detail"]
        assert int(refused.headers["retry-after"]) >= 1
        assert predict(narrow, "wordy").status_code == 200
    assert version.statistics.refused == 1
    assert narrow.http.post(path, content=LONG).status_code == 200


def test_answers_are_written_before_bodies_that_wait_are_read(narrow: Service) -> None:
    """However large: this one has more bytes than the body that asks for it."""
    narrow.shelf.version("verbose", PAIRS)
    with unread(narrow, "/v1/models/verbose/predict"):
        body = b'{"instances":[' + b",".join([b"[0,1]"] * 16_000) + b"]}"
        assert not Pace().is_short(16_000 * 3 * 4)
        answer = narrow.http.post("/v1/models/verbose/predict", content=body)
        assert (answer.status_code, len(answer.json()["predictions"])) == (200, 16_000)


def test_a_client_that_went_away_while_its_body_waited_costs_nothing_more(narrow: Service) -> None:
    narrow.shelf.version("hasty", PAIRS)
    version = loaded(narrow, "hasty")
    bench = narrow.server.app.api.state.context.predictor._reading
    shorter = b'{"instances": [' + b", ".join([b"[0.25, 0.75]"] * 9_000) + b"]}"
    with unread(narrow, "/v1/models/hasty/predict"):
        held = bench._bytes
        with post_raw(narrow, "hasty", shorter):
            eventually(lambda: bench._bytes > held)
        eventually(lambda: bench._bytes == held)
    assert version.predictions == 1 + 10_000
    assert version.statistics.fail.count == 1


@contextmanager
def post_raw(service: Service, model: str, body: bytes) -> Iterator[None]:
    """A request whose client goes away at the end of the block."""
    head = f"POST /v1/models/{model}/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", httpx.URL(service.url).port or 80)) as connection:
        connection.sendall(head.encode() + body)
        yield


def test_a_large_body_is_read_and_computed_in_pieces(single: Service) -> None:
    network = single.shelf.version("bulk", PAIRS)
    rows = np.random.default_rng(3).normal(0, 2, (5_000, 2)).astype(np.float32)
    with torch.inference_mode():
        expected = network.scores(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(scores(predict(single, "bulk", rows.tolist())), expected, atol=1e-5)
    assert loaded(single, "bulk").statistics.executions > 9


# ── the memory of versions ──


def test_weights_that_two_versions_share_are_in_memory_once(start: Callable[..., Any]) -> None:
    with start() as service:
        for variance in (1.0, 4.0):
            service.shelf.version("shared", PAIRS, variance=variance)
        answers = [scores(predict(service, "shared", version=number)) for number in "12"]
        assert not np.allclose(*answers, atol=1e-3)
        one, two = held(service).held
        assert one.version.weights_sha256 == two.version.weights_sha256
        assert one.weights is two.weights
        for mine, theirs in zip(one.network.layers, two.network.layers, strict=True):
            for (key, first), (_, second) in zip(mine.named_parameters(), theirs.named_parameters(), strict=True):
                assert (first.data_ptr() == second.data_ptr()) != isinstance(mine, BatchNorm), key
        assert _bytes_together((one, two)) == one.bytes + two.own_bytes < one.bytes + two.bytes
        np.testing.assert_array_equal(scores(predict(service, "shared", version="1")), answers[0])
        for version in (one, two):
            assert version.served().digest == version.version.batchnorm_digest


def test_a_version_that_is_too_large_is_refused_and_no_alias_moves_to_it(start: Callable[..., Any]) -> None:
    with start(predict_memory_bytes=100) as service:
        service.shelf.version("large", PAIRS)
        put = service.http.put("/v1/models/large/aliases/production", json={"version": "1"})
        for answer in (predict(service, "large"), put):
            assert (answer.status_code, answer.json()["code"]) == (503, "too_large_to_serve")
            assert "GAMMABETA_PREDICT_MEMORY_BYTES" in answer.json()["detail"]
        assert service.http.get("/v1/models/large").json()["aliases"] == {}


def test_loading_one_model_holds_up_no_other(start: Callable[..., Any]) -> None:
    with start() as service, ThreadPoolExecutor(2) as clients:
        for name, seed in (("stuck", 1), ("other", 2)):
            service.shelf.version(name, PAIRS, seed=seed)
        with held_back(service, "stuck", "1"):
            waiting = [clients.submit(predict, service, "stuck") for _ in range(2)]
            eventually(lambda: held(service).loading == {("default", "stuck", "1")})
            assert predict(service, "other").status_code == 200
            assert not any(each.done() for each in waiting)
        assert [each.result().status_code for each in waiting] == [200, 200]


@contextmanager
def held_back(service: Service, model: str, version: str) -> Iterator[None]:
    """Until the end of the block the weights of a version are not read."""
    sha256 = service.http.get(f"/v1/models/{model}/versions/{version}").json()["weights_sha256"]
    weights = held(service)._loader._weights.setdefault(sha256, Weights())
    with weights.lock:
        yield


@pytest.mark.parametrize("variance", [-1.0, float("nan"), float("inf")])
def test_statistics_that_make_no_sense_are_refused_with_the_reason(single: Service, variance: float) -> None:
    name = f"senseless-{abs(variance)}"
    single.shelf.version(name, PAIRS, variance=variance)
    answer = predict(single, name)
    assert (answer.status_code, answer.json()["code"]) == (503, "artifact_corrupt")
    assert "moving_variance" in answer.json()["detail"]


def test_statistics_that_are_missing_are_refused_with_the_reason(start: Callable[..., Any]) -> None:
    with start() as service:
        service.shelf.version("bare", PAIRS)
        with service.shelf.database.write() as session:
            session.execute(delete(LayerRow))
        answer = predict(service, "bare")
        assert (answer.status_code, answer.json()["code"]) == (503, "artifact_corrupt")
        assert "must have the batch-norm layers" in answer.json()["detail"]


def test_the_network_itself_serves_where_that_is_asked_for(start: Callable[..., Any]) -> None:
    with start(predict_engine="torch", predict_fold=False) as service:
        service.shelf.version("plain", PAIRS)
        predict(service, "plain")
        served = service.http.get("/v1/models/plain/versions/1/served").json()
        assert (served["engine"], served["max_difference"], served["folded"]) == ("torch", 0, [])


# ── aliases that move ──


def test_an_alias_moves_to_a_version_that_is_in_memory(start: Callable[..., Any]) -> None:
    with start() as service:
        service.shelf.version("moving", PAIRS)
        assert service.http.put("/v1/models/moving/aliases/best", json={"version": "1"}).status_code == 200
        assert [each.version.version for each in held(service).held] == ["1"]


def test_an_alias_stays_where_the_version_cannot_be_served(start: Callable[..., Any]) -> None:
    with start() as service:
        service.shelf.version("moving", PAIRS)
        service.shelf.version("moving", PAIRS, variance=-1.0)
        service.http.put("/v1/models/moving/aliases/production", json={"version": "1"})
        refused = service.http.put("/v1/models/moving/aliases/production", json={"version": "2"})
        assert (refused.status_code, refused.json()["code"]) == (503, "artifact_corrupt")
        assert service.http.get("/v1/models/moving").json()["aliases"] == {"production": "1"}
        assert predict(service, "moving").json()["version"] == "1"


@pytest.fixture
def moving(start: Callable[..., Any]) -> Iterator[Service]:
    """A service with version 1 in use by an alias and version 2 not in memory."""
    with start() as service:
        for seed in (1, 2):
            service.shelf.version("moving", PAIRS, seed=seed)
        service.http.put("/v1/models/moving/aliases/production", json={"version": "1"})
        # What was asked while the table was replaced stands in the old one.
        eventually(lambda: predict(service, "moving").json()["version"] == meant(service) == "1")
        yield service


def meant(service: Service) -> str | None:
    """The version that the name of the model stands for, if that is known without asking the database."""
    return held(service)._resolved.get(("default", "moving", None, None))


def move_elsewhere(service: Service, version: str) -> None:
    """As another replica does: this one learns of it from the database alone."""
    with service.shelf.database.write() as session:
        models.set_alias(session, DEFAULT_PROJECT, "moving", "production", version)


def test_what_another_replica_moved_is_loaded_before_it_is_used(moving: Service) -> None:
    with held_back(moving, "moving", "2"):
        move_elsewhere(moving, "2")
        eventually(lambda: ("default", "moving", "2") in held(moving).loading)
        assert predict(moving, "moving").json()["version"] == "1"
    eventually(lambda: predict(moving, "moving").json()["version"] == "2", seconds=2)


@pytest.mark.alone
def test_no_alias_is_older_than_two_seconds_however_long_loading_takes(moving: Service) -> None:
    with ThreadPoolExecutor(1) as client:
        with held_back(moving, "moving", "2"):
            move_elsewhere(moving, "2")
            began = time.monotonic()
            eventually(lambda: meant(moving) == "2", seconds=5)
            assert 1 < time.monotonic() - began < 2
            waiting = client.submit(predict, moving, "moving")
        assert waiting.result().json()["version"] == "2"


def test_an_alias_that_moves_to_what_cannot_be_served_says_why(moving: Service) -> None:
    moving.shelf.version("moving", PAIRS, variance=-1.0)
    move_elsewhere(moving, "3")
    eventually(lambda: predict(moving, "moving").status_code == 503, seconds=2)
    assert predict(moving, "moving").json()["code"] == "artifact_corrupt"
    move_elsewhere(moving, "1")
    eventually(lambda: predict(moving, "moving").status_code == 200, seconds=2)


def test_what_was_dropped_is_loaded_again(moving: Service) -> None:
    held(moving).drop("default", "moving", "7")
    assert len(held(moving).held) == 1
    held(moving).drop("default", "moving")
    assert held(moving).held == ()
    assert predict(moving, "moving").status_code == 200
