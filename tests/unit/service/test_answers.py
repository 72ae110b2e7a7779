from __future__ import annotations

import csv
import json
from io import BytesIO, StringIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gammabeta.errors import NotAcceptable, UnsupportedMediaType
from gammabeta.schemas.models import Version
from gammabeta.schemas.predictions import Predictions
from gammabeta.schemas.preprocessing import FittedImage, FittedTable, NumericColumn
from service.runtime import answers, instances, media, tables_csv

CLASSES = ("no", 'perhaps, "maybe"', "ja\nnein\rja")
SCORES = np.array([[0.1, 0.7, 0.2], [1e-9, 0.0, 1.0]], dtype=np.float32)
VALUES = np.array([1.5, -1e20, 0.1], dtype=np.float32)


def version(classes: tuple[str, ...] | None = CLASSES) -> Version:
    return Version.model_construct(model="income", version="3", classes=classes, batchnorm_digest="d" * 64)


def rows_of(answered: answers.Answered) -> list[list[str]]:
    return list(csv.reader(StringIO(answered.body.decode(), newline="")))


def test_json_says_label_scores_and_the_statistics_that_were_used() -> None:
    found = Predictions.model_validate_json(answers.as_json(version(), SCORES).body)
    assert [each.label for each in found.predictions] == [CLASSES[1], CLASSES[2]]  # type: ignore[union-attr]
    assert (found.version, found.batchnorm.digest) == ("3", "d" * 64)


def test_json_says_the_values_of_a_model_of_numbers() -> None:
    found = json.loads(answers.as_json(version(None), VALUES).body)
    assert np.array_equal(np.float32([each["value"] for each in found["predictions"]]), VALUES)


def test_csv_has_a_line_for_each_row_and_the_same_float32() -> None:
    header, *rows = rows_of(answers.as_csv(version(), SCORES))
    assert header == ["label", *(f"score_{label}" for label in CLASSES)]
    assert [row[0] for row in rows] == [CLASSES[1], CLASSES[2]]
    assert np.array_equal(np.float32([row[1:] for row in rows]), SCORES)


def test_csv_has_the_values_of_a_model_of_numbers() -> None:
    header, *rows = rows_of(answers.as_csv(version(None), VALUES))
    assert header == ["value"]
    assert np.array_equal(np.float32(rows)[:, 0], VALUES)


@pytest.mark.parametrize(
    ("classes", "scores"), [(CLASSES, SCORES), (None, VALUES), (CLASSES, np.asfortranarray(SCORES))]
)
def test_bytes_are_float32_row_by_row_and_the_headers_say_so(classes: Any, scores: Any) -> None:
    answered = answers.as_bytes(version(classes), scores)
    assert answered.headers["Gammabeta-Datatype"] == "float32"
    shape = tuple(map(int, answered.headers["Gammabeta-Shape"].split(",")))
    assert np.array_equal(np.frombuffer(answered.body, dtype="<f4").reshape(shape), scores)


@pytest.mark.parametrize("write", [answers.as_csv, answers.as_bytes])
def test_answers_without_room_for_it_say_in_headers_who_answered(write: media.Writer) -> None:
    headers = write(version(), SCORES).headers
    named = [headers[f"Gammabeta-{name}"] for name in ("Model", "Version", "Batchnorm-Digest")]
    assert named == ["income", "3", "d" * 64]


@pytest.mark.parametrize(
    ("accept", "write"),
    [
        (None, answers.as_json),
        ("", answers.as_json),
        ("*/*", answers.as_json),
        ("application/json", answers.as_json),
        ("application/json, text/plain, */*", answers.as_json),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", answers.as_json),
        ("application/*", answers.as_json),
        ("text/csv", answers.as_csv),
        ("Text/CSV; header=present", answers.as_csv),
        ("text/*", answers.as_csv),
        ("text/csv, */*", answers.as_csv),
        ("*/*, text/csv", answers.as_csv),
        ("application/json;q=0.5, text/csv;q=0.9", answers.as_csv),
        ("text/csv;q=0.1, */*;q=0.5", answers.as_json),
        ("application/json;q=0, */*", answers.as_csv),
        ("application/octet-stream", answers.as_bytes),
        ("application/octet-stream, application/json;q=0.1", answers.as_bytes),
        ("text/csv;q=nan", answers.as_csv),
    ],
)
def test_accept_chooses_the_media_type_of_the_answer(accept: str | None, write: media.Writer) -> None:
    assert media.writer(accept) is write


@pytest.mark.parametrize("accept", ["application/xml", "text/plain", "*/*;q=0", "application/json;q=0.0", "text/csv-2"])
def test_an_accept_that_welcomes_nothing_of_ours_is_refused(accept: str) -> None:
    with pytest.raises(NotAcceptable, match="text/csv or application/octet-stream"):
        media.writer(accept)


@pytest.mark.parametrize(
    ("content_type", "read"),
    [
        (None, instances.read),
        ("application/json", instances.read),
        ("Application/JSON; charset=utf-8", instances.read),
        ("text/csv; header=present", tables_csv.read),
        ("image/png", media.READERS["image/jpeg"]),
    ],
)
def test_content_type_chooses_what_reads_the_body(content_type: str | None, read: media.Reader) -> None:
    assert media.reader(content_type) is read


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-npy", "image/svg+xml", "x" * 5_000])
def test_other_media_types_are_refused(content_type: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="Content-Type must be application/json or"):
        media.reader(content_type)


def test_an_image_is_for_models_of_images() -> None:
    with pytest.raises(UnsupportedMediaType):
        media.reader("image/png")(b"", FittedTable(columns=(NumericColumn(name="a", fill=0.0),)))


def test_a_body_that_is_an_image_is_a_row_of_the_type_that_rows_have(png: bytes) -> None:
    x = media.reader("image/png")(png, FittedImage(shape=(2, 3)))
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, [[[0, 1, 2], [3, 4, 255]]])


@pytest.fixture
def png() -> bytes:
    file = BytesIO()
    Image.fromarray(np.array([[0, 1, 2], [3, 4, 255]], dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()
