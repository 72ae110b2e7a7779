"""Reading request bodies: JSON by orjson, with errors that say what and where."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from gammabeta.errors import MalformedRequest, TooLarge, UnsupportedMediaType
from service.headers import header

JSON_TYPES = ("application/json",)
SMALL = 1 << 20
"""A body of fewer bytes is parsed as it is."""
MAX_OBJECT_BYTES = 256 << 20
"""Of the Python objects of a body: what 64 MiB of one-digit numbers come to. Without it 64 MiB of `[],` would be
1.5 GiB of empty lists, and hold up everybody for as long as a thread takes to make them."""
OBJECT_BYTES = {b"[": 256, b"{": 256, b'"': 28, b",": 8}
"""What stands for a list, an object, half a text and an element. A list takes 72 bytes, but of all objects these are
the slowest to make: the garbage collector goes over them again and again while there are more of them."""


def check_media_type(request: Request, known: Collection[str], *, remedy: str) -> None:
    """Refuse a Content-Type that is not known here; none at all is fine. `remedy` says what to do.

    Raises:
        UnsupportedMediaType
    """
    received = header(request.scope, b"content-type")
    if received is not None and received.partition(";")[0].strip().lower() not in known:
        raise UnsupportedMediaType(
            f"Content-Type must be {' or '.join(known)}, or be left out. Received: {received[:200]!r}. {remedy}"
        )


async def whole(receive: Receive) -> bytes:
    """All of the body. `Request.body` gives the same, takes three times as long, and keeps it while the request lives.

    Raises:
        ClientDisconnect: the client went before it was all there.
        TooLarge, TooSlow: it is beyond the limits of its route.
    """
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def json_bytes(request: Request) -> bytes:
    """The body, whole, of a request that says it is JSON or says nothing. A dependency."""
    check_media_type(request, JSON_TYPES, remedy="With curl, add: -H 'Content-Type: application/json'.")
    return await request.body()


def parsed(body: bytes) -> Any:
    """The JSON value of a body.

    NaN, Infinity and numbers as 1e999 are no JSON, but Python's own writer makes them; they are let through here, so
    that the check of the field they stand in can name it.

    Raises:
        MalformedRequest: not JSON; says where.
        TooLarge: it would be too many objects.
    """
    _check_objects(body)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        lenient = b"NaN" in body or b"Infinity" in body or "infinity" in exc.msg
        if lenient:
            return _with_non_finite(body)
        raise _malformed(body, exc) from exc


def _check_objects(body: bytes) -> None:
    """By the characters that make them, which may stand in texts too: a parser holds up all other threads until it is
    done, so this has to be known before."""
    if len(body) < SMALL:
        return
    size = sum(body.count(character) * each for character, each in OBJECT_BYTES.items())
    if size > MAX_OBJECT_BYTES:
        lists = body.count(b"[") + body.count(b"{")
        raise TooLarge(
            f"The JSON of a body must come to at most {MAX_OBJECT_BYTES:,} bytes of lists, objects, texts and numbers. "
            f"Received: {size:,}, with {lists:,} lists and objects. Send less at once, or rows as text/csv or as "
            "binary tensors."
        )


def _with_non_finite(body: bytes) -> Any:
    try:
        # int() refuses thousands of digits, and numpy integers that no float64 holds.
        value = json.loads(body, parse_int=lambda digits: int(digits) if len(digits) < 20 else float(digits))
        json.dumps(
            value, ensure_ascii=False
        ).encode()  # half of a surrogate pair, which orjson refuses, is refused here
        return value
    except json.JSONDecodeError as exc:
        raise _malformed(body, exc) from exc
    except (UnicodeError, RecursionError) as exc:
        raise MalformedRequest(f"The body must be JSON in UTF-8. {exc}") from exc


def _malformed(body: bytes, error: json.JSONDecodeError) -> MalformedRequest:
    if not body.strip():
        return MalformedRequest("The body must be a JSON object. Received: nothing.")
    near = body[max(0, error.pos - 10) : error.pos + 30].decode(errors="replace")
    return MalformedRequest(
        f"The body must be JSON. {error.msg[:1].upper()}{error.msg[1:]}, at line {error.lineno}, column {error.colno}, "
        f"near {near!r}."
    )
