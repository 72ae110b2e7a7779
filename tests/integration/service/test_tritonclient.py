"""The conversation of a stock `tritonclient[http]` with a service that runs, and what others send under /v2."""

from __future__ import annotations

import gzip
import json
import re
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

import gammabeta
from gammabeta.nets import state
from gammabeta.nets.build import Network
from gammabeta.schemas.preprocessing import FittedArray, FittedImage
from gammabeta.schemas.presets import CnnPreset
from tests.integration.service.conftest import Service

CLASSES = ("ant", "bee", "größer", "wasp")
PAGE = Path(__file__).parents[3] / "docs" / "open_inference.md"
DIGITS = FittedImage(shape=(8, 8), scale=255.0)


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(service.url.removeprefix("http://")) as speaking:
        yield speaking


@pytest.fixture(scope="module")
def flat(service: Service) -> Network:
    return service.shelf.version("flat", FittedArray(shape=(5,)), classes=CLASSES)


@pytest.fixture(scope="module")
def income(service: Service) -> Network:
    return service.shelf.version("income")


@pytest.fixture(scope="module")
def wage(service: Service) -> Network:
    return service.shelf.version("wage", FittedArray(shape=(5,)), classes=None)


def rows(n: int, *shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(n, *shape)).astype(np.float32)


def given(name: str, values: NDArray[Any], datatype: str = "FP32", *, binary: bool = True) -> InferInput:
    return InferInput(name, list(values.shape), datatype).set_data_from_numpy(values, binary_data=binary)


def expected(network: Network, x: NDArray[Any]) -> NDArray[np.float32]:
    with torch.inference_mode():
        found: NDArray[np.float32] = network.eval().scores(torch.from_numpy(x)).numpy()
    return found


def labels(scores: NDArray[np.float32], classes: tuple[str, ...] = CLASSES) -> list[bytes]:
    return [classes[code].encode() for code in scores.argmax(axis=1)]


def texts(values: list[str]) -> NDArray[np.object_]:
    return np.array([each.encode() for each in values], dtype=np.object_)


# ── the server and its models ──


def test_the_server_says_that_it_lives_and_what_it_is(client: InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    told = client.get_server_metadata()
    assert (told["name"], told["version"]) == ("gammabeta", gammabeta.__version__)
    assert {"binary_tensor_data", "classification", "model_repository", "statistics"} <= set(told["extensions"])


def test_a_server_that_has_not_read_its_keys_lets_nobody_in_and_says_why(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    with start(home=tmp_path) as bare:
        assert bare.http.get("/healthz").status_code == 200
        answers = [bare.http.get(f"/v2/health/{word}") for word in ("live", "ready")]
    assert [answer.status_code for answer in answers] == [503, 503]
    assert all("gammabeta db upgrade" in answer.json()["error"] for answer in answers)


def test_a_server_that_is_not_ready_lives(start: Callable[..., Any], migrated: Path, tmp_path: Path) -> None:
    (tmp_path / "gammabeta.db").write_bytes(migrated.read_bytes())
    (tmp_path / "blobs").write_text("a file where the folder should be")
    with start(home=tmp_path) as blocked:
        answers = [blocked.http.get(f"/v2/health/{word}") for word in ("live", "ready")]
    assert [answer.status_code for answer in answers] == [200, 503]
    assert "blob folder" in answers[1].json()["error"]


def test_a_model_says_what_it_takes_and_gives(client: InferenceServerClient, flat: Network) -> None:
    told = client.get_model_metadata("flat")
    assert told == {
        "name": "flat",
        "versions": ["1"],
        "platform": "gammabeta_safetensors",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 5]}],
        "outputs": [
            {"name": "scores", "datatype": "FP32", "shape": [-1, 4]},
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
        ],
    }
    assert client.get_model_metadata("flat", "1") == told
    config = client.get_model_config("flat", "1")
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 5]}]
    assert config["max_batch_size"] == 0


def test_a_model_is_ready_where_it_is_and_not_where_it_is_not(client: InferenceServerClient, flat: Network) -> None:
    assert client.is_model_ready("flat")
    assert client.is_model_ready("flat", "1")
    assert not client.is_model_ready("flat", "7")
    assert not client.is_model_ready("nobody")


# ── inference ──


def test_binary_tensors_are_what_it_speaks_by_default(client: InferenceServerClient, flat: Network) -> None:
    x = rows(7, 5)
    result = client.infer("flat", [given("x", x)])
    scores = result.as_numpy("scores")
    np.testing.assert_allclose(scores, expected(flat, x), atol=1e-6)
    assert scores.dtype == np.float32
    assert result.as_numpy("label").tolist() == labels(scores)
    first = result.get_response()["outputs"][0]
    assert (first["name"], first["parameters"]["binary_data_size"]) == ("scores", scores.nbytes)


def test_each_answer_says_which_statistics_it_is_of(client: InferenceServerClient, flat: Network) -> None:
    answer = client.infer("flat", [given("x", rows(1, 5))], request_id="42", parameters={"mine": "x"}).get_response()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("flat", "1", "42")
    digest = state.state_of(flat).digest
    assert answer["parameters"] == {"batchnorm_mode": "eval", "batchnorm_digest": digest}
    assert "id" not in client.infer("flat", [given("x", rows(1, 5))]).get_response()


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_json_and_binary_say_the_same(
    client: InferenceServerClient, flat: Network, binary_in: bool, binary_out: bool
) -> None:
    x = rows(20, 5)
    outputs = [InferRequestedOutput(name, binary_data=binary_out) for name in ("label", "scores")]
    result = client.infer("flat", [given("x", x, binary=binary_in)], outputs=outputs, model_version="1")
    usual = client.infer("flat", [given("x", x)])
    np.testing.assert_array_equal(result.as_numpy("scores"), usual.as_numpy("scores"))
    found = [each if isinstance(each, bytes) else each.encode() for each in result.as_numpy("label").tolist()]
    assert found == usual.as_numpy("label").tolist()


def test_v1_and_v2_give_the_same_scores(service: Service, client: InferenceServerClient, flat: Network) -> None:
    x = rows(9, 5)
    v2 = client.infer("flat", [given("x", x)])
    v1 = service.http.post("/v1/models/flat/predict", json={"instances": x.tolist()}).json()["predictions"]
    np.testing.assert_array_equal(np.array([each["scores"] for each in v1], dtype=np.float32), v2.as_numpy("scores"))
    assert [each["label"].encode() for each in v1] == v2.as_numpy("label").tolist()


def test_one_output_of_several_is_given_where_one_is_asked_for(client: InferenceServerClient, flat: Network) -> None:
    result = client.infer("flat", [given("x", rows(3, 5))], outputs=[InferRequestedOutput("label")])
    assert [each["name"] for each in result.get_response()["outputs"]] == ["label"]
    assert result.as_numpy("scores") is None


@pytest.mark.parametrize("binary", [True, False])
def test_the_best_classes_are_ranked(client: InferenceServerClient, flat: Network, binary: bool) -> None:
    x = rows(3, 5)
    wanted = [InferRequestedOutput("scores", binary_data=binary, class_count=2)]
    ranked = client.infer("flat", [given("x", x)], outputs=wanted).as_numpy("scores")
    assert ranked.shape == (3, 2)
    for row, scores in zip(ranked.tolist(), expected(flat, x), strict=True):
        for text, code in zip(row, np.argsort(-scores), strict=False):
            value, index, label = (text.decode() if isinstance(text, bytes) else text).split(":")
            assert (float(value), int(index), label) == (pytest.approx(scores[code], abs=2e-6), code, CLASSES[code])


@pytest.mark.parametrize("name", ["float64", "float16", "int32", "uint8", "bool"])
def test_arrays_of_other_types_need_no_conversion(client: InferenceServerClient, flat: Network, name: str) -> None:
    x = (np.arange(10).reshape(2, 5) % 3).astype(name)
    datatype = {"float64": "FP64", "float16": "FP16", "int32": "INT32", "uint8": "UINT8", "bool": "BOOL"}[name]
    scores = client.infer("flat", [given("x", x, datatype)]).as_numpy("scores")
    np.testing.assert_allclose(scores, expected(flat, x.astype(np.float32)), atol=1e-6)


def test_a_table_takes_one_input_for_each_column(client: InferenceServerClient, income: Network) -> None:
    told = client.get_model_metadata("income")["inputs"]
    assert [(each["name"], each["datatype"], each["shape"]) for each in told] == [
        ("age", "FP32", [-1]),
        ("work", "BYTES", [-1]),
        ("hours", "FP32", [-1]),
    ]
    raw = torch.tensor([[39, 1, 40], [20, -1, 10.5], [torch.nan, torch.nan, 60]])
    for binary in (True, False):
        age = np.array([39, 20, np.nan] if binary else [39, 20, 38], dtype=np.float32)
        columns = [
            given("hours", np.array([40, 10.5, 60], dtype=np.float32), binary=binary),
            given("work", texts(["State", "Nobody ever", ""]), "BYTES", binary=binary),
            given("age", age, binary=binary),
        ]
        scores = client.infer("income", columns).as_numpy("scores")
        np.testing.assert_allclose(scores, expected(income, raw.numpy()), atol=1e-6)


def test_a_number_is_the_output_value(client: InferenceServerClient, wage: Network) -> None:
    x = rows(4, 5)
    result = client.infer("wage", [given("x", x)])
    np.testing.assert_allclose(result.as_numpy("value"), expected(wage, x), rtol=1e-5, atol=1e-6)
    assert [each["name"] for each in client.get_model_metadata("wage")["outputs"]] == ["value"]


def test_images_are_raw_pixels(service: Service, client: InferenceServerClient) -> None:
    network = service.shelf.version("digits", DIGITS, network=CnnPreset(filters=(4,), hidden=(8,)))
    pixels = np.random.default_rng(3).integers(0, 256, (5, 8, 8), dtype=np.uint8)
    scores = client.infer("digits", [given("x", pixels, "UINT8")]).as_numpy("scores")
    np.testing.assert_allclose(scores, expected(network, pixels.astype(np.float32)), atol=1e-5)


@pytest.mark.parametrize("of_request", [None, "gzip", "deflate"])
@pytest.mark.parametrize("of_answer", [None, "gzip", "deflate"])
def test_bodies_may_be_compressed_both_ways(
    client: InferenceServerClient, flat: Network, of_request: str | None, of_answer: str | None
) -> None:
    x = rows(200, 5)
    result = client.infer(
        "flat", [given("x", x)], request_compression_algorithm=of_request, response_compression_algorithm=of_answer
    )
    np.testing.assert_allclose(result.as_numpy("scores"), expected(flat, x), atol=1e-6)


def test_requests_in_flight_together_get_their_own_answers(service: Service, flat: Network) -> None:
    with InferenceServerClient(service.url.removeprefix("http://"), concurrency=4) as client:
        asked = [rows(3, 5, seed=seed) for seed in range(12)]
        pending = [client.async_infer("flat", [given("x", x)]) for x in asked]
        for x, answer in zip(asked, pending, strict=True):
            np.testing.assert_allclose(answer.get_result().as_numpy("scores"), expected(flat, x), atol=1e-6)


def test_the_page_shows_what_works(service: Service) -> None:
    service.shelf.version("digits", DIGITS, network=CnnPreset(filters=(4,), hidden=(8,)))
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    shown: dict[str, Any] = {}
    exec(block.replace("127.0.0.1:8000", service.url.removeprefix("http://")), shown)  # noqa: S102
    assert shown["result"].as_numpy("scores").shape == (5, 2)


def test_each_route_is_on_the_page(service: Service) -> None:
    told = PAGE.read_text().replace("…", "/v2/models/{name}")
    paths = [path for path in service.http.get("/v1/openapi.json").json()["paths"] if path.startswith("/v2")]
    assert len(paths) > 15
    assert [path for path in paths if path.replace("/versions/{version}", "") not in told] == []


# ── the repository ──


def _states(client: InferenceServerClient, name: str) -> dict[str, str]:
    return {each["version"]: each["state"] for each in client.get_model_repository_index() if each["name"] == name}


def test_models_are_listed_loaded_and_unloaded(service: Service, client: InferenceServerClient) -> None:
    service.shelf.version("moved", FittedArray(shape=(5,)))
    service.shelf.version("moved", FittedArray(shape=(5,)), seed=1)
    assert _states(client, "moved") == {"2": "UNAVAILABLE", "1": "UNAVAILABLE"}
    client.load_model("moved")
    assert _states(client, "moved") == {"2": "READY", "1": "UNAVAILABLE"}
    client.unload_model("moved")
    assert _states(client, "moved") == {"2": "UNAVAILABLE", "1": "UNAVAILABLE"}
    assert client.infer("moved", [given("x", rows(1, 5))]).get_response()["model_version"] == "2"
    service.http.put("/v1/models/moved/aliases/production", json={"version": "1"}).raise_for_status()
    assert client.infer("moved", [given("x", rows(1, 5))]).get_response()["model_version"] == "1"
    assert client.infer("moved", [given("x", rows(1, 5))], model_version="2").get_response()["model_version"] == "2"


def test_the_index_may_be_asked_for_what_is_ready(service: Service, flat: Network) -> None:
    service.http.get("/v2/models/flat/ready").raise_for_status()
    for body in (b"", b"{}", b'{"ready": true}'):
        listed = service.http.post("/v2/repository/index", content=body)
        assert {"name": "flat", "version": "1", "state": "READY", "reason": ""} in listed.json()
    assert {each["state"] for each in listed.json()} == {"READY"}


def test_what_was_counted_is_told(service: Service, client: InferenceServerClient) -> None:
    service.shelf.version("counted", FittedArray(shape=(5,)))
    (before,) = client.get_inference_statistics("counted", "1")["model_stats"]
    assert (before["inference_count"], before["last_inference"]) == (0, 0)
    assert client.get_inference_statistics("counted")["model_stats"] == []
    for n in (3, 3, 1):
        client.infer("counted", [given("x", rows(n, 5))])
    with pytest.raises(InferenceServerException):
        client.infer("counted", [given("x", rows(1, 4))])
    (after,) = client.get_inference_statistics("counted")["model_stats"]
    assert (after["name"], after["version"]) == ("counted", "1")
    assert (after["inference_count"], after["execution_count"]) == (7, 3)
    spent = after["inference_stats"]
    assert (spent["success"]["count"], spent["fail"]["count"]) == (3, 1)
    assert spent["success"]["ns"] >= spent["compute_input"]["ns"] + spent["compute_infer"]["ns"] > 0
    assert {each["batch_size"]: each["compute_infer"]["count"] for each in after["batch_stats"]} == {3: 2, 1: 1}
    assert "counted" in {each["name"] for each in client.get_inference_statistics()["model_stats"]}


# ── errors ──


@pytest.mark.parametrize(
    ("asking", "status", "said"),
    [
        (lambda c: c.infer("nobody", [given("x", rows(1, 5))]), "404", "There is no model 'nobody'"),
        (lambda c: c.infer("flat", [given("x", rows(1, 5))], model_version="9"), "404", "no version '9'"),
        (lambda c: c.get_model_metadata("nobody"), "404", "There is no model 'nobody'"),
        (lambda c: c.get_model_config("flat", "0"), "404", "no version '0'"),
        (lambda c: c.get_inference_statistics("nobody"), "404", "There is no model 'nobody'"),
        (lambda c: c.load_model("nobody"), "404", "There is no model 'nobody'"),
        (lambda c: c.unload_model("nobody"), "404", "There is no model 'nobody'"),
        (lambda c: c.load_model("flat", config="{}"), "400", "made by training jobs"),
        (lambda c: c.infer("a b/?ü", [given("x", rows(1, 5))]), "404", "There is no"),
        (lambda c: c.infer("flat", [given("x", rows(1, 6))]), "400", "must have the shape [rows, 5]"),
        (lambda c: c.infer("flat", [given("y", rows(1, 5))]), "400", "'y' is not an input of this model"),
        (lambda c: c.infer("flat", [given("x", rows(1, 5) * np.nan)]), "400", "finite numbers only"),
        (lambda c: c.infer("flat", [given("x", rows(1, 5) * np.nan, binary=False)]), "400", "JSON has no others"),
        (lambda c: c.infer("flat", [given("x", rows(1, 5))], outputs=[InferRequestedOutput("y")]), "400", "'scores'"),
        (
            lambda c: c.infer("flat", [given("x", rows(1, 5))], outputs=[InferRequestedOutput("label")] * 10_000),
            "400",
            "Received: 10,000 of them",
        ),
        (lambda c: c.get_trace_settings(), "404", "nothing at this address"),
    ],
)
def test_an_error_is_a_status_and_a_sentence(
    client: InferenceServerClient, flat: Network, asking: Callable[[Any], Any], status: str, said: str
) -> None:
    with pytest.raises(InferenceServerException) as raised:
        asking(client)
    assert raised.value.status() == status
    assert said in raised.value.message()
    assert client.is_server_live()


def test_a_version_that_cannot_be_served_says_why(service: Service, client: InferenceServerClient) -> None:
    service.shelf.version("broken", FittedArray(shape=(5,)), variance=-1.0)
    assert not client.is_model_ready("broken")
    with pytest.raises(InferenceServerException, match="variance") as raised:
        client.infer("broken", [given("x", rows(1, 5))])
    assert raised.value.status() == "503"


# ── what no honest client sends ──

X = rows(2, 5)


def _post(service: Service, body: bytes, path: str = "/v2/models/flat/infer", **headers: str) -> tuple[int, str]:
    answer = service.http.post(
        path, content=body, headers={key.replace("_", "-"): each for key, each in headers.items()}
    )
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["error"]
    assert len(answer.content) < 2_000
    assert service.http.get("/v2/health/live").json() == {"live": True}
    return answer.status_code, answer.json()["error"]


def _binary(raw: bytes, size: int, shape: list[int]) -> tuple[bytes, str]:
    header = json.dumps(
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": shape, "parameters": {"binary_data_size": size}}]}
    ).encode()
    return header + raw, str(len(header))


@pytest.mark.parametrize(
    ("raw", "size", "shape"),
    [
        (X.tobytes()[:-3], 40, [2, 5]),
        (X.tobytes(), 39, [2, 5]),
        (X.tobytes(), 2**62, [2, 5]),
        (X.tobytes(), 40, [2**62, 5]),
        (X.tobytes(), 40, [2**63 - 1, 2**63 - 1]),
        (X.tobytes() * 2, 40, [2, 5]),
    ],
)
def test_tensors_that_are_cut_or_overflow_are_refused(
    service: Service, flat: Network, raw: bytes, size: int, shape: list[int]
) -> None:
    body, length = _binary(raw, size, shape)
    status, _ = _post(service, body, Inference_Header_Content_Length=length)
    assert status in (400, 413)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"{", b"\x00\x01", b"[" * 1_000 + b"]" * 1_000, b'{"inputs": 1}']
)
def test_bodies_that_are_no_request_are_refused(service: Service, flat: Network, body: bytes) -> None:
    status, _ = _post(service, body)
    assert status == 400


def test_what_was_refused_has_left_no_memory_behind(service: Service, flat: Network) -> None:
    bomb = gzip.compress(bytes(70 << 20))
    body, length = _binary(X.tobytes(), 2**62, [2**62, 5])
    tracemalloc.start()
    try:
        for _ in range(3):
            assert _post(service, body, Inference_Header_Content_Length=length)[0] in (400, 413)
            assert _post(service, bomb, Content_Encoding="gzip")[0] == 413
        left, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert left < 2 << 20
    assert peak < 200 << 20


@pytest.mark.parametrize(("name", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_bomb_is_refused(start: Callable[..., Any], name: str, compress: Callable[[bytes], bytes]) -> None:
    with start(max_predict_bytes=1_000_000) as service:
        service.shelf.version("flat", FittedArray(shape=(5,)))
        status, said = _post(service, compress(bytes(200_000_000)), Content_Encoding=name)
        assert (status, "decompressed" in said) == (413, True)
        status, said = _post(service, bytes(1_000_001))
        assert (status, "at most 1,000,000 bytes" in said) == (413, True)
        assert _post(service, b"abc", Content_Encoding=name)[0] == 400
        assert _post(service, b"abc", Content_Encoding="br")[0] == 415


def test_addresses_and_methods_that_there_are_not_are_said_in_the_same_form(service: Service, flat: Network) -> None:
    for path, status in (("/v2/nowhere", 404), ("/v2/models", 404), ("/v2/models/stats", 405), ("/v2/", 405)):
        assert _post(service, b"", path)[0] == status
    refused = service.http.get("/v2/models/flat/infer")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    assert list(refused.json()) == ["error"]


def test_neither_spelling_of_the_root_is_redirected(service: Service) -> None:
    first, second = service.http.get("/v2"), service.http.get("/v2/")
    assert first.status_code == second.status_code == 200
    assert first.json() == second.json()


def test_a_foreign_page_is_refused_in_the_same_form(service: Service, flat: Network) -> None:
    assert _post(service, b"{}", Origin="http://evil.example")[0] == 403


def test_a_model_is_not_moved_by_what_was_refused(
    service: Service, client: InferenceServerClient, flat: Network
) -> None:
    client.infer("flat", [given("x", X)])
    served = service.http.get("/v1/models/flat/versions/1/served").json()
    assert served["digest"] == served["stored_digest"] == state.state_of(flat).digest
    assert served["training"] is False
