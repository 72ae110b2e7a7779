"""Images in predict requests: the pixels that training would have seen, or an error that names the instance.

{"b64": "…"} ──from_base64──┐
image/png, image/jpeg ──read──┴──► decode ──► uint8 of the shape that the model has        (size checked first)
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gammabeta import images
from gammabeta.errors import InvalidRequest, UnsupportedMediaType
from gammabeta.images import ImageRefused
from gammabeta.schemas.preprocessing import FittedImage, FittedPreprocessing
from gammabeta.schemas.problems import shortened

MEDIA_TYPES = ("image/png", "image/jpeg")
"""Of a body that is one image. Its bytes say which of the two it is."""


def read(body: bytes, preprocessing: FittedPreprocessing) -> NDArray[np.uint8]:
    """The only row of a body that is one image: [1, H, W] or [1, H, W, C].

    Raises:
        UnsupportedMediaType: the model does not take images.
        InvalidRequest: it is not an image of the model's shape.
    """
    if not isinstance(preprocessing, FittedImage):
        raise UnsupportedMediaType(
            f"Content-Type must be application/json: this model takes no images, but rows of kind "
            f"'{preprocessing.kind}'. Send {{\"instances\": […]}}."
        )
    return decode(body, preprocessing.shape, field="body")[None]


def from_base64(value: Any, shape: tuple[int, ...], *, field: str) -> NDArray[np.uint8]:
    """The image in `{"b64": value}`.

    Raises:
        InvalidRequest: `field` is what it names.
    """
    if not isinstance(value, str):
        raise InvalidRequest.of(field, "must be a text: a PNG or JPEG file in base64", shortened(value))
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as exc:  # the latter where it is not ASCII
        message = "must be base64 of the standard alphabet, padded with '='. Leave out line breaks and 'data:…,'"
        raise InvalidRequest.of(field, message, shortened(value)) from exc
    return decode(data, shape, field=field)


def decode(data: bytes, shape: tuple[int, ...], *, field: str = "body") -> NDArray[np.uint8]:
    """A PNG or JPEG file as pixels of `shape`: [H, W], [H, W, 1] or [H, W, 3].

    Raises:
        InvalidRequest: it is not such an image; `field` is what it names. One of another size is refused before a
            pixel of it is decoded.
    """
    if len(shape) == 3 and shape[2] not in (1, 3):
        message = f"must be nested lists: no PNG or JPEG has the {shape[2]} channels that this model takes"
        raise InvalidRequest.of(field, message, "an image file")
    try:
        return images.pixels(data, shape)
    except ImageRefused as refused:
        raise InvalidRequest.of(field, f"{refused.must}. {refused.remedy}", refused.received) from refused
