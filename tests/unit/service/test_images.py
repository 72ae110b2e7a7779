"""Images in predict requests: the pixels of ingestion, or an error of a field."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gammabeta.errors import InvalidRequest, UnsupportedMediaType
from gammabeta.schemas.preprocessing import FittedArray, FittedImage, FittedPreprocessing, FittedTable
from service.runtime import images
from tests.pictures import encoded, noise, zipped
from tests.unit.ingestion.conftest import Ingest

GRAY, RGB = noise(0, 4, 5), noise(1, 4, 5, 3)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3)])
def test_a_body_that_is_an_image_is_one_row(shape: tuple[int, ...]) -> None:
    row = images.read(encoded(GRAY), FittedImage(shape=shape))
    assert (row.shape, row.dtype) == ((1, *shape), np.uint8)
    for channel in row.reshape(4, 5, -1).transpose(2, 0, 1):
        np.testing.assert_array_equal(channel, GRAY)


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
@pytest.mark.parametrize("array", [GRAY, RGB], ids=["gray", "rgb"])
def test_a_row_has_the_pixels_that_ingestion_has_stored(tmp_path: Path, array: Any, format: str) -> None:
    file = encoded(array, format)
    stored = Ingest(tmp_path)(zipped({"a/1": file, "b/1": encoded(array[::-1])}), format="image_zip")
    shape = stored.manifest.row_shape
    np.testing.assert_array_equal(images.decode(file, shape), stored.x()[0])
    np.testing.assert_array_equal(images.from_base64(b64encode(file).decode(), shape, field="x"), stored.x()[0])


@pytest.mark.parametrize("fitted", [FittedArray(shape=(4, 5)), FittedTable(columns=())])
def test_a_model_that_takes_no_images_says_so(fitted: FittedPreprocessing) -> None:
    with pytest.raises(UnsupportedMediaType, match=f"rows of kind '{fitted.kind}'"):
        images.read(encoded(GRAY), fitted)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (7, "must be a text"),
        (None, "must be a text"),
        ("?", "must be base64"),
        ("data:image/png;base64,iVBORw0KGgo=", "data:"),
        ("iVBORw0KGgo", "must be base64"),
        ("ä", "must be base64"),
        ("", "must be a PNG or JPEG file"),
        ("R0lGODlh", "must be a PNG or JPEG file"),
        ("iVBORw0KGgo=", "that is whole"),
        (b64encode(encoded(noise(0, 5, 4))).decode(), "must be of 4 x 5 pixels"),
        (b64encode(encoded(RGB)).decode(), "must be gray"),
    ],
)
def test_what_is_no_such_image_is_refused_by_its_field(value: Any, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        images.from_base64(value, (4, 5), field="instances[3].b64")
    (error,) = caught.value.errors
    assert error.field == "instances[3].b64"
    assert words in error.message


def test_no_image_file_has_two_channels() -> None:
    with pytest.raises(InvalidRequest, match="2 channels"):
        images.decode(encoded(GRAY), (4, 5, 2))
