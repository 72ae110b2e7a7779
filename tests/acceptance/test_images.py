"""Image files all the way: a zip of folders goes in, a network of convolutions comes out, and files are predicted."""

from __future__ import annotations

import zipfile
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from gammabeta import Client, images
from tests.acceptance.stack import Stack
from tests.pictures import encoded, noise, zipped

COLOURS = {"red": 0, "green": 1, "blue": 2}
CNN = {"preset": "cnn", "filters": [16, 32], "batch_norm": {"momentum": 0.9}}
"""Five hundred steps are too few for moving statistics of momentum 0.99."""


@pytest.fixture(scope="module")
def digits(stack: Stack, data: Path) -> dict[str, Any]:
    """A job that trained the preset `cnn` on PNG files of digits."""
    found = stack.upload((data / "mnist-png-small.zip").read_bytes(), name="digit-files", format="image_zip")
    assert found["state"] == "ready", found
    training = {"epochs": 6, "batch_size": 32, "seed": 1}
    job = stack.finished(stack.submit(dataset=found["id"], model="digit-files", network=CNN, training=training))
    assert job["status"] == "succeeded", job
    return found


@pytest.fixture(scope="module")
def files(data: Path) -> Iterator[dict[str, bytes]]:
    """The test files by their names, `test/7/12.png`."""
    with zipfile.ZipFile(data / "mnist-png-small.zip") as archive:
        yield {name: archive.read(name) for name in archive.namelist() if name.startswith("test/")}


def raw(stack: Stack, model: str, body: bytes, media_type: str) -> httpx.Response:
    return stack.http.post(f"/v1/models/{model}/predict", content=body, headers={"Content-Type": media_type})


def test_folders_of_digits_become_a_data_set_of_images(digits: dict[str, Any]) -> None:
    (feature,) = digits["features"]
    assert (feature["kind"], feature["shape"]) == ("image", [28, 28])
    assert digits["splits"] == {"train": 3_000, "test": 600}
    assert [(each["label"], each["count"]) for each in digits["target"]["classes"]] == [
        (str(digit), 300) for digit in range(10)
    ]


def test_files_of_digits_are_told_apart_as_often_as_the_job_reported(
    stack: Stack, digits: dict[str, Any], files: dict[str, bytes]
) -> None:
    metrics = stack.http.get("/v1/models/digit-files/versions/1").json()["metrics"]["test"]
    assert metrics["accuracy"] >= 0.95
    answer = stack.predict("digit-files", [{"b64": b64encode(each).decode()} for each in files.values()])
    labels = [each["label"] for each in answer["predictions"]]
    assert sum(label == name.split("/")[1] for label, name in zip(labels, files, strict=True)) == metrics["correct"]


def test_a_file_answers_alike_however_it_is_sent(
    stack: Stack, digits: dict[str, Any], files: dict[str, bytes], tmp_path: Path
) -> None:
    file = next(iter(files.values()))
    (tmp_path / "digit.png").write_bytes(file)
    body = raw(stack, "digit-files", file, "image/png")
    assert body.status_code == 200, body.text
    pixels = images.pixels(file, (28, 28))
    with Client(stack.url) as client:
        sent = client.predict("digit-files", [file, tmp_path / "digit.png"])
        assert len(set(sent.labels)) == 1
        scores = [*sent.scores, client.predict("digit-files", pixels[None]).scores[0]]
    scores.append(body.json()["predictions"][0]["scores"])
    np.testing.assert_allclose(scores, np.broadcast_to(scores[0], np.shape(scores)), rtol=0, atol=1e-6)


def test_a_file_of_another_size_is_refused_with_both_sizes(stack: Stack, digits: dict[str, Any]) -> None:
    for answer in (
        raw(stack, "digit-files", encoded(noise(0, 32, 28)), "image/png"),
        stack.http.post(
            "/v1/models/digit-files/predict",
            json={"instances": [{"b64": b64encode(encoded(noise(0, 32, 28))).decode()}]},
        ),
    ):
        assert answer.status_code == 422
        (error,) = answer.json()["errors"]
        assert error["field"] in ("body", "instances[0].b64")
        assert "28 x 28" in error["message"]
        assert error["received"] == "32 x 28"


def test_colours_of_small_photos_are_learned_and_told(stack: Stack) -> None:
    """32 x 32 x 3, half of them JPEG, as CIFAR's are: which colour prevails."""
    archive = {
        f"photos/{colour}/{n}.{'jpg' if n % 2 else 'png'}": photo(channel, n)
        for colour, channel in COLOURS.items()
        for n in range(40)
    }
    found = stack.upload(zipped(archive), name="photos", format="image_zip", test_fraction="0.2")
    assert found["state"] == "ready", found
    assert found["features"][0]["shape"] == [32, 32, 3]
    assert found["splits"] == {"train": 96, "test": 24}
    training = {"epochs": 8, "batch_size": 16, "seed": 1}
    network = {"preset": "cnn", "filters": [8], "hidden": []}
    job = stack.finished(stack.submit(dataset=found["id"], model="photos", network=network, training=training))
    assert job["status"] == "succeeded", job
    for colour, channel in COLOURS.items():
        for number, media_type in ((1_000, "image/png"), (1_001, "image/jpeg")):
            answer = raw(stack, "photos", photo(channel, number), media_type)
            assert answer.status_code == 200, answer.text
            assert answer.json()["predictions"][0]["label"] == colour


def photo(channel: int, number: int) -> bytes:
    """Noise, brighter in one channel. Odd ones are JPEG."""
    pixels = noise(1_000 * channel + number, 32, 32, 3) // 2
    pixels[..., channel] += 128
    return encoded(pixels, "JPEG" if number % 2 else "PNG")
