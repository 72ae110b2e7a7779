"""In which media types a prediction is asked and answered: one table of readers, one of writers.

Content-Type ──reader──► read(body, preprocessing) ──► x ──► scores ──► write(version, scores) ◄──writer── Accept
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TypeAlias

from gammabeta.errors import NotAcceptable, UnsupportedMediaType
from gammabeta.schemas.models import Version
from gammabeta.schemas.preprocessing import FittedPreprocessing, FittedTable
from service.runtime import answers, images, instances, tables_csv
from service.runtime.answers import Answered, Scores
from service.runtime.rows import Floats, as_float32

Reader: TypeAlias = Callable[[bytes, FittedPreprocessing], Floats]
"""Raises MalformedRequest, InvalidRequest, TooLarge; UnsupportedMediaType where the model takes other rows."""
Writer: TypeAlias = Callable[[Version, Scores], Answered]


def _image(body: bytes, preprocessing: FittedPreprocessing) -> Floats:
    return as_float32(images.read(body, preprocessing))


READERS: dict[str, Reader] = {
    answers.JSON: instances.read,
    answers.CSV: tables_csv.read,
    **dict.fromkeys(images.MEDIA_TYPES, _image),
}
WRITERS: dict[str, Writer] = {
    answers.JSON: answers.as_json,
    answers.CSV: answers.as_csv,
    answers.BYTES: answers.as_bytes,
}
"""The first is what is answered where the request has no wish."""
LEFT_OUT: dict[Reader, Callable[[bytes], int]] = {
    # An object has what it names, or the file of an image; the first of them holds the instances.
    instances.read: lambda body: body.count(b"{") - 1,
    tables_csv.read: lambda body: body.count(b"\n") + body.count(b"\r"),
    _image: lambda _: 1,
}
"""At most how many rows of a body need not be spelled, number by number. Lists are."""
COUNTED = 1 << 20
"""Bytes that are read in a thread whatever they come to, or are so simple that they come to no more."""
QUALITY = re.compile(r";\s*q\s*=\s*([01](?:\.[0-9]{0,3})?)\s*(?:;|$)", re.IGNORECASE)


def reader(content_type: str | None) -> Reader:
    """What reads a body of this Content-Type; none at all is JSON.

    Raises:
        UnsupportedMediaType
    """
    if content_type is None:
        return instances.read
    found = READERS.get(content_type) or READERS.get(_essence(content_type))
    if found is None:
        raise UnsupportedMediaType(
            f"Content-Type must be {' or '.join(READERS)}, or be left out. Received: {content_type[:200]!r}. With "
            "curl, say what the body is: -H 'Content-Type: image/png'."
        )
    return found


def writer(accept: str | None) -> Writer:
    """What writes an answer as this Accept welcomes it most (RFC 9110, 12.5.1); of those as welcome, the first that we
    have.

    Raises:
        NotAcceptable: it welcomes none of them.
    """
    if accept is None or accept == "*/*":
        return answers.as_json
    if (found := WRITERS.get(accept)) is not None:
        return found
    ranges = [_range(part) for part in accept.split(",") if part.strip()]
    if not ranges:
        return answers.as_json
    welcome = {media_type: _welcome(media_type, ranges) for media_type in WRITERS}
    best = max(WRITERS, key=lambda media_type: welcome[media_type])
    if welcome[best][0] <= 0:
        raise NotAcceptable(f"Accept must welcome {' or '.join(WRITERS)}, or be left out. Received: {accept[:200]!r}.")
    return WRITERS[best]


def extent(read: Reader, body: bytes, preprocessing: FittedPreprocessing) -> int:
    """How much there is to read: bytes, or numbers where a few bytes stand for more of them, as the file of an image of
    one colour does and a row of a table that leaves out its columns."""
    if len(body) >= COUNTED:
        return len(body)
    rows = LEFT_OUT[read](body) if read in LEFT_OUT else 0
    if isinstance(preprocessing, FittedTable):
        return max(len(body), rows * len(preprocessing.columns))
    return max(len(body), rows * math.prod(preprocessing.shape))


def _welcome(media_type: str, ranges: list[tuple[str, float]]) -> tuple[float, int]:
    """Quality and exactness of the most exact range that it falls under, so that of those as welcome one that is named
    comes before one that is let through by a star."""
    kind = media_type.partition("/")[0]
    for exactness, wanted in ((2, media_type), (1, f"{kind}/*"), (0, "*/*")):
        qualities = [quality for each, quality in ranges if each == wanted]
        if qualities:
            return max(qualities), exactness
    return 0.0, 0


def _range(part: str) -> tuple[str, float]:
    """A media range and its quality, 1 unless it is written."""
    written = QUALITY.search(part)
    return _essence(part), float(written[1]) if written else 1.0


def _essence(media_type: str) -> str:
    return media_type.partition(";")[0].strip().lower()
