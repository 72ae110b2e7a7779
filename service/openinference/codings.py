"""Content-Type and Content-Encoding: bodies that may be read, compressed ones never to more than the limit, and answers
that may be compressed.

`deflate` is zlib's format, as RFC 9110 has it.
"""

from __future__ import annotations

import gzip
import re
import zlib

from gammabeta.errors import MalformedRequest, TooLarge, UnsupportedMediaType

MEDIA_TYPES = ("application/json", "application/octet-stream", "application/x-www-form-urlencoded")
"""Of a body, which is read as JSON and tensors whichever it is. The last is what `curl -d` says of any."""
REMEDY = "Send application/json, or application/octet-stream with binary tensors."
WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""What zlib calls the formats."""
MAX_RATIO = 100
"""Decompressed to compressed bytes. Numbers and texts hardly come to ten."""
SMALL = 4 << 20
"""A body that decompresses to less is not held to it."""
WORTH = 1024
"""Answers of fewer bytes stay as they are."""
FASTEST = 1


def decoded(body: bytes, encoding: str | None, *, limit: int) -> bytes:
    """The body as it was before `encoding`, the value of its Content-Encoding.

    Raises:
        TooLarge: it would have more than `limit` bytes, or is a bomb; no more than that is ever made.
        MalformedRequest: it is not what the header says, or not whole.
        UnsupportedMediaType: an encoding that is not known here, or several.
    """
    name = (encoding or "identity").strip().lower().removeprefix("x-")
    if name == "identity":
        return body
    if name not in WINDOWS:
        raise UnsupportedMediaType(
            f"Content-Encoding must be gzip or deflate, or be left out. Received: {name[:200]!r}. Send the body plain."
        )
    try:
        return _inflated(body, name, limit)
    except zlib.error as exc:
        raise MalformedRequest(f"The body must be {name}, as its Content-Encoding says. {exc}.") from exc


def _inflated(body: bytes, name: str, limit: int) -> bytes:
    stream = zlib.decompressobj(WINDOWS[name])
    most = min(limit, max(SMALL, MAX_RATIO * len(body)))
    content = stream.decompress(body, most + 1)
    if len(content) > limit:
        raise TooLarge(f"The body must have at most {limit:,} bytes, decompressed. Received: more. Send less at once.")
    if len(content) > most:
        raise TooLarge(
            f"The body must have at most {MAX_RATIO} times as many bytes, decompressed, as it has compressed: "
            f"{len(body):,}. Received: more. Send it plain."
        )
    if not stream.eof or stream.unused_data:
        wrong = "bytes after it" if stream.eof else "the beginning of it"
        raise MalformedRequest(f"The body must be one whole {name} stream. Received: {wrong}. Send it again.")
    return content


def chosen(accepted: str | None) -> str | None:
    """What an Accept-Encoding lets us answer in: gzip before deflate, None for neither."""
    weights = dict(map(_weight, (accepted or "").lower().split(",")))
    return next((name for name in WINDOWS if weights.get(name, 0) > 0), None)


def _weight(part: str) -> tuple[str, float]:
    name, _, parameters = part.partition(";")
    found = re.fullmatch(r"\s*q=([01](?:\.[0-9]{0,3})?)\s*", parameters)
    return name.strip(), float(found[1]) if found else 1.0


def encoded(content: bytes, encoding: str) -> bytes:
    """In the encoding that was chosen."""
    return gzip.compress(content, FASTEST, mtime=0) if encoding == "gzip" else zlib.compress(content, FASTEST)
