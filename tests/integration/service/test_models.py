from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from safetensors.numpy import load as load_safetensors
from sqlalchemy import update

from gammabeta.nets import state
from gammabeta.nets.build import Network, build_network
from gammabeta.schemas.batchnorm import ARRAYS
from gammabeta.schemas.layers import Activation, Dense
from gammabeta.schemas.models import Version
from gammabeta.schemas.networks import LayersNetwork
from gammabeta.schemas.normalization import BATCH_NORM_ARGUMENTS, BatchNorm
from gammabeta.schemas.preprocessing import FittedArray, FittedImage
from gammabeta.schemas.presets import CnnPreset
from gammabeta.schemas.resolution import plan_stored
from gammabeta.store.tables import LayerRow
from tests.integration.service.conftest import Service, eventually

ROWS = [
    {"age": 39, "work": "State", "hours": 40},
    {"age": 20, "work": "Nobody ever", "hours": 10.5},
    {"work": None, "hours": 60},
]
RAW = torch.tensor([[39, 1, 40], [20, -1, 10.5], [torch.nan, torch.nan, 60]])


def predict(service: Service, model: str, rows: Any = ROWS, **query: Any) -> httpx.Response:
    return service.http.post(f"/v1/models/{model}/predict", params=query, json={"instances": rows})


def scores(answer: httpx.Response) -> np.ndarray[Any, Any]:
    assert answer.status_code == 200, answer.text
    return np.array([each["scores"] for each in answer.json()["predictions"]], dtype=np.float32)


def expected(network: Network, raw: torch.Tensor) -> np.ndarray[Any, Any]:
    with torch.inference_mode():
        result: np.ndarray[Any, Any] = network.eval().scores(raw).numpy()
    return result


@pytest.fixture(scope="module")
def income(service: Service) -> Network:
    return service.shelf.version("income")


def test_a_prediction_is_what_the_stored_network_says(service: Service, income: Network) -> None:
    answer = predict(service, "income")
    np.testing.assert_allclose(scores(answer), expected(income, RAW), atol=1e-6)
    said = answer.json()
    assert (said["model"], said["version"], said["classes"]) == ("income", "1", ["<=50K", ">50K"])
    assert said["batchnorm"] == {"mode": "eval", "digest": state.state_of(income).digest}
    best = expected(income, RAW).argmax(axis=1)
    assert [each["label"] for each in said["predictions"]] == [said["classes"][code] for code in best]


def test_lists_in_the_order_of_the_columns_say_the_same(service: Service, income: Network) -> None:
    rows = [[39, "State", 40], [20, "Nobody ever", 10.5], [None, None, 60]]
    np.testing.assert_array_equal(scores(predict(service, "income", rows)), scores(predict(service, "income")))


def test_a_row_alone_answers_as_in_a_batch(service: Service, income: Network) -> None:
    rng = np.random.default_rng(1)
    rows = [[float(age), "Private", float(hours)] for age, hours in rng.normal(40, 12, (200, 2))]
    together = scores(predict(service, "income", rows))
    alone = np.concatenate([scores(predict(service, "income", [row])) for row in rows])
    np.testing.assert_allclose(alone, together, atol=1e-5)
    assert len(set(together[:, 0].tolist())) > 100


def test_predicting_changes_nothing_in_memory(service: Service, income: Network) -> None:
    before = service.http.get("/v1/models/income/versions/1/served").json()
    for _ in range(50):
        predict(service, "income")
    served = service.http.get("/v1/models/income/versions/1/served").json()
    assert served["digest"] == served["stored_digest"] == state.state_of(income).digest
    assert served["training"] is False
    assert served["predictions"] == before["predictions"] + 150
    assert served["max_difference"] <= served["tolerance"]


def test_served_is_computed_from_the_module_itself(start: Callable[..., Any]) -> None:
    with start() as service:
        service.shelf.version("touched")
        loaded = next(iter(_loaded(service, "touched").values()))
        with torch.no_grad():
            next(module for module in loaded.network.layers if hasattr(module, "moving_mean")).moving_mean.add_(1)
        loaded.network.layers[0].train()
        served = service.http.get("/v1/models/touched/versions/1/served").json()
        assert served["digest"] != served["stored_digest"]
        assert served["training"] is True


def _loaded(service: Service, model: str) -> Any:
    predict(service, model)
    return service.server.app.api.state.context.models._loaded


def test_a_number_is_predicted_as_a_value(service: Service) -> None:
    network = service.shelf.version("wage", classes=None)
    answer = predict(service, "wage").json()
    assert answer["classes"] is None
    np.testing.assert_allclose([each["value"] for each in answer["predictions"]], expected(network, RAW), rtol=1e-5)


def test_one_output_for_two_classes_gives_two_scores(service: Service) -> None:
    layers = LayersNetwork(layers=(Dense(units=4), BatchNorm(), Activation(function="relu"), Dense(units=1)))
    network = service.shelf.version("binary", network=layers)
    found = scores(predict(service, "binary"))
    np.testing.assert_allclose(found, expected(network, RAW), atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("flat", [False, True])
def test_images_come_as_raw_pixels(service: Service, flat: bool) -> None:
    fitted = FittedImage(shape=(8, 8), scale=255.0)
    network = service.shelf.version(f"digits-{flat}", fitted, network=CnnPreset(filters=(4,), hidden=(8,)))
    pixels = np.random.default_rng(2).integers(0, 256, (600, 8, 8))
    answer = predict(service, f"digits-{flat}", (pixels.reshape(600, 64) if flat else pixels).tolist())
    np.testing.assert_allclose(scores(answer), expected(network, torch.tensor(pixels).float()), atol=1e-5)


def test_arrays_are_predicted(service: Service) -> None:
    network = service.shelf.version("array", FittedArray(shape=(3,), offset=(1.0, 2.0, 3.0), scale=(2.0, 2.0, 2.0)))
    found = scores(predict(service, "array", [[1, 2, 3], [4.5, 5, 6]]))
    np.testing.assert_allclose(found, expected(network, torch.tensor([[1.0, 2, 3], [4.5, 5, 6]])), atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "field"),
    [
        ([{"age": 1, "hours": 1}, {"age": 1, "hours": 1, "wage": 1}], "instances[1].wage"),
        ([{"age": "x", "hours": 1}], "instances[0].age"),
        ([{"age": 1}], "instances[0].hours"),
        ([[1, "State"]], "instances[0]"),
        ([], "instances"),
    ],
)
def test_a_row_that_does_not_fit_is_named(service: Service, income: Network, rows: Any, field: str) -> None:
    answer = predict(service, "income", rows)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert [error["field"] for error in answer.json()["errors"]] == [field]


def test_numbers_that_json_does_not_have_are_named(service: Service, income: Network) -> None:
    content = json.dumps({"instances": [{"age": float("nan"), "hours": 1}]}).encode()
    answer = service.http.post("/v1/models/income/predict", content=content)
    assert [error["field"] for error in answer.json()["errors"]] == ["instances[0].age"]


def test_an_answer_that_is_not_finite_is_an_error(service: Service) -> None:
    service.shelf.version("far", FittedArray(shape=(2,), offset=(0.0, 0.0), scale=(1e-30, 1e-30)), classes=None)
    answer = predict(service, "far", [[0, 0], [1e30, 1e30]])
    assert [error["field"] for error in answer.json()["errors"]] == ["instances[1]"]


@pytest.mark.parametrize("media_type", ["image/png", "image/jpeg", "application/x-npy", "application/x-pickle"])
def test_other_media_types_are_refused(service: Service, income: Network, media_type: str) -> None:
    answer = service.http.post("/v1/models/income/predict", content=b"x", headers={"Content-Type": media_type})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


def test_a_body_over_the_limit_is_refused(start: Callable[..., Any]) -> None:
    with start(max_predict_bytes=1_000) as service:
        service.shelf.version("income")
        assert predict(service, "income", ROWS * 100).status_code == 413


@pytest.mark.parametrize(
    ("model", "query", "status", "code"),
    [
        ("nothing", {}, 404, "model_not_found"),
        ("income", {"version": "99"}, 404, "version_not_found"),
        ("income", {"version": "one"}, 404, "version_not_found"),
        ("income", {"alias": "nobody"}, 404, "version_not_found"),
        ("income", {"alias": "a", "version": "1"}, 422, "invalid_request"),
        ("a%00b", {}, 422, "invalid_request"),
    ],
)
def test_what_is_not_there_is_a_problem(
    service: Service, income: Network, model: str, query: dict[str, str], status: int, code: str
) -> None:
    answer = predict(service, model, **query)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def version_used(service: Service, **query: Any) -> str:
    return str(predict(service, "moving", **query).json()["version"])


def test_production_or_else_the_newest_is_used(service: Service) -> None:
    service.shelf.version("moving", seed=1)
    assert version_used(service) == "1"
    service.shelf.version("moving", seed=2)
    eventually(lambda: version_used(service) == "2", seconds=2)
    assert version_used(service, version="1") == "1"
    put = service.http.put("/v1/models/moving/aliases/production", json={"version": "1"})
    assert put.json() == {"model": "moving", "alias": "production", "version": "1"}
    assert version_used(service) == "1"
    service.http.put("/v1/models/moving/aliases/production", json={"version": "2"})
    assert version_used(service, alias="production") == "2"
    assert service.http.delete("/v1/models/moving/aliases/production").status_code == 204
    assert predict(service, "moving", alias="production").status_code == 404
    assert service.http.delete("/v1/models/moving/aliases/production").status_code == 404


def test_an_alias_that_another_replica_moved_counts_soon(start: Callable[..., Any]) -> None:
    with start() as one:
        one.shelf.version("moving", seed=1)
        one.shelf.version("moving", seed=2)
        with start(home=one.settings.home) as other:
            assert (version_used(one), version_used(other)) == ("2", "2")
            other.http.put("/v1/models/moving/aliases/production", json={"version": "1"})
            assert version_used(other) == "1"
            eventually(lambda: version_used(one) == "1", seconds=2)


@pytest.mark.parametrize(
    ("alias", "content", "status"),
    [
        ("7", {"version": "1"}, 422),
        ("a b", {"version": "1"}, 422),
        ("best", {"version": "9"}, 404),
        ("best", {"version": 1}, 422),
        ("best", {}, 422),
        ("best", {"version": "1", "x": 1}, 422),
    ],
)
def test_a_wrong_alias_is_refused(service: Service, income: Network, alias: str, content: Any, status: int) -> None:
    assert service.http.put(f"/v1/models/income/aliases/{alias}", json=content).status_code == status


def test_models_are_listed_by_name(start: Callable[..., Any]) -> None:
    with start() as service:
        for name in ("b", "a", "c"):
            service.shelf.version(name)
        service.shelf.version("a", seed=5)
        listed = service.http.get("/v1/models?limit=2").json()
        assert [model["name"] for model in listed["data"]] == ["a", "b"]
        assert [version["version"] for version in listed["data"][0]["versions"]] == ["2", "1"]
        rest = service.http.get("/v1/models", params={"after": listed["last_id"]}).json()
        assert [model["name"] for model in rest["data"]] == ["c"]


def test_a_version_shows_where_it_comes_from(service: Service, income: Network) -> None:
    version = service.http.get("/v1/models/income/versions/1").json()
    assert version["batchnorm_digest"] == state.state_of(income).digest
    assert version["parameters"] == income.plan.parameters
    assert version["preprocessing"]["columns"][1]["categories"] == ["Private", "State"]
    assert service.http.get(f"/v1/jobs/{version['job']}").json()["version"] == "1"
    assert service.http.get("/v1/models/income/versions/2").status_code == 404


def test_the_state_is_the_same_as_json_and_as_safetensors(service: Service, income: Network) -> None:
    path = "/v1/models/income/versions/1/batchnorm"
    said, stored = service.http.get(path).json(), state.state_of(income)
    tensors = load_safetensors(service.http.get(path, headers={"Accept": "application/vnd.safetensors"}).content)
    assert said["digest"] == stored.digest
    (layer,) = said["layers"]
    for key in ARRAYS:
        array = getattr(stored.layers[0], key)
        np.testing.assert_array_equal(np.array(layer[key], dtype=np.float32), array)
        np.testing.assert_array_equal(tensors[f"batch_norm.{key}"], array)
    assert layer["momentum"] + layer["torch_momentum"] == pytest.approx(1)


EVERY_ARGUMENT: list[dict[str, Any]] = [
    {
        "name": "pixels",
        "axis": [1, -1],
        "momentum": 0.5,
        "epsilon": 0.01,
        "center": False,
        "gamma_initializer": {"class_name": "RandomNormal", "config": {"mean": 1.0, "stddev": 0.1}},
        "moving_mean_initializer": {"class_name": "Constant", "config": {"value": 0.5}},
        "moving_variance_initializer": {"class_name": "RandomUniform", "config": {"minval": 1.0, "maxval": 2.0}},
        "gamma_regularizer": {"class_name": "L1L2", "config": {"l1": 0.1, "l2": 0.2}},
        "gamma_constraint": {"class_name": "MinMaxNorm", "config": {"max_value": 1.5, "axis": [0, 3]}},
    },
    {"name": "renormed", "scale": False, "beta_initializer": [0.5, -0.5], "beta_regularizer": "l2"}
    | {"beta_constraint": "non_neg", "renorm": True, "renorm_clipping": "paper", "renorm_momentum": 0.9},
    {"name": "ghosts", "virtual_batch_size": 4},
    {"name": "adjusted", "adjustment": {"kind": "uniform", "scale": [0.9, 1.1], "per": "layer", "seed": 7}},
    {"name": "frozen", "fused": False, "trainable": False},
    {"name": "plain"},
]


@pytest.fixture(scope="module")
def every(service: Service) -> Network:
    """A network whose batch norms have every argument of the signature."""
    norms = [{"type": "batch_norm"} | each for each in EVERY_ARGUMENT]
    rest = [{"type": "flatten"}, {"type": "dense", "units": 2}]
    network = LayersNetwork.model_validate({"layers": [*norms, *rest]})
    return service.shelf.version("every", FittedImage(shape=(3, 4, 2), scale=255.0), network=network)


def test_a_network_with_every_argument_of_batch_norm_is_served(service: Service, every: Network) -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (5, 3, 4, 2))
    found = scores(predict(service, "every", pixels.tolist()))
    np.testing.assert_allclose(found, expected(every, torch.tensor(pixels).float()), atol=1e-6)
    served = service.http.get("/v1/models/every/versions/1/served").json()
    assert served["digest"] == served["stored_digest"] == state.state_of(every).digest


def test_every_argument_of_batch_norm_is_shown(service: Service, every: Network) -> None:
    said = service.http.get("/v1/models/every/versions/1/batchnorm").json()
    assert set().union(*EVERY_ARGUMENT) | {"trainable", "fused"} == BATCH_NORM_ARGUMENTS
    for layer, stored, given in zip(said["layers"], state.state_of(every).layers, EVERY_ARGUMENT, strict=True):
        written = BatchNorm.model_validate(given).model_dump(mode="json", include=set(given) - {"axis"})
        assert layer["arguments"].items() >= written.items()
        assert layer["arguments"].keys() == BATCH_NORM_ARGUMENTS
        assert layer["channels"] == len(layer["moving_mean"]) == stored.channels
    assert [layer["axis"] for layer in said["layers"]] == [[1, 3], 3, 3, 3, 3, 3]
    assert [layer["variance_estimator"] for layer in said["layers"]] == [
        "biased",
        "renorm",
        "biased",
        "biased",
        "biased",
        "unbiased",
    ]
    shown = service.http.get("/v1/models/every/versions/1").json()["network"]["layers"]
    for layer, spec in zip(said["layers"], shown, strict=False):
        assert layer["arguments"] == {key: spec[key] for key in BATCH_NORM_ARGUMENTS}


def test_a_download_has_what_training_would_go_on_with(service: Service, every: Network) -> None:
    weights = load_safetensors(service.http.get("/v1/models/every/versions/1/files/weights.safetensors").content)
    for buffer in ("renorm_mean", "renorm_stddev", "moving_stddev"):
        np.testing.assert_array_equal(weights[f"renormed.{buffer}"], state.weights_of(every)[f"renormed.{buffer}"])
    rows = service.http.get(
        "/v1/models/every/versions/1/batchnorm", headers={"Accept": "application/vnd.safetensors"}
    ).content
    assert load_safetensors(rows).keys() == state.joined({}, state.state_of(every)).keys()


def test_the_downloaded_files_build_the_same_network(service: Service, income: Network) -> None:
    files = "/v1/models/income/versions/1/files"
    weights = service.http.get(f"{files}/weights.safetensors")
    assert weights.headers["content-type"] == "application/vnd.safetensors"
    tensors = load_safetensors(weights.content)
    spec = service.http.get(f"{files}/spec.json").json()
    shown = Version.model_validate(service.http.get("/v1/models/income/versions/1").json() | spec)
    plan, task = plan_stored(shown.network, input_shape=shown.preprocessing.input_shape, classes=shown.classes)
    rebuilt = build_network(plan, shown.preprocessing, task=task)
    own = state.weights_of(income)
    assert tensors.keys() == state.joined(own, state.state_of(income)).keys()
    state.load(rebuilt, {key: torch.from_numpy(tensors[key]) for key in own}, state.state_of(income))
    np.testing.assert_array_equal(expected(rebuilt, RAW), expected(income, RAW))
    for file in ("model.onnx", "..%2f..%2fgammabeta.db", "weights"):
        assert service.http.get(f"{files}/{file}").status_code in (404, 422)


def test_weights_that_were_damaged_are_never_used(start: Callable[..., Any]) -> None:
    with start() as service:
        network = service.shelf.version("damaged")
        sha256 = service.http.get("/v1/models/damaged/versions/1").json()["weights_sha256"]
        path = service.shelf.blobs.path(sha256)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        for answer in (
            predict(service, "damaged"),
            service.http.get("/v1/models/damaged/versions/1/served"),
            service.http.get("/v1/models/damaged/versions/1/files/weights.safetensors"),
        ):
            assert (answer.status_code, answer.json()["code"]) == (503, "artifact_corrupt")
        data[-1] ^= 1
        path.write_bytes(data)
        np.testing.assert_allclose(scores(predict(service, "damaged")), expected(network, RAW), atol=1e-6)
        assert hashlib.sha256(data).hexdigest() == sha256


def test_a_state_that_was_damaged_is_never_used(start: Callable[..., Any]) -> None:
    with start() as service:
        service.shelf.version("damaged")
        with service.shelf.database.write() as session:
            session.execute(update(LayerRow).values(moving_mean=b"\0" * 24))
        answer = predict(service, "damaged")
        assert (answer.status_code, answer.json()["code"]) == (503, "artifact_corrupt")


def test_statistics_that_are_not_finite_are_never_served(start: Callable[..., Any]) -> None:
    with start() as service:
        service.shelf.version("broken", variance=-1.0)
        answer = predict(service, "broken")
        assert (answer.status_code, answer.json()["code"]) == (503, "artifact_corrupt")
        assert "variance" in answer.json()["detail"]


def test_what_was_used_longest_ago_makes_room(start: Callable[..., Any]) -> None:
    with start() as probe:
        probe.shelf.version("one")
        size = next(iter(_loaded(probe, "one").values())).bytes
    with start(predict_memory_bytes=2 * size) as service:
        for name in ("one", "two", "three"):
            service.shelf.version(name)
        for name in ("one", "two", "one", "three"):
            loaded = _loaded(service, name)
        assert [key.model for key in loaded] == ["one", "three"]
        assert predict(service, "two").status_code == 200
