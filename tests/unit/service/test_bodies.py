"""JSON bodies: what they may come to as objects."""

from __future__ import annotations

import asyncio
import tracemalloc

import numpy as np
import orjson
import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from gammabeta.errors import TooLarge
from service.bodies import SMALL, parsed, whole

MIB = 1 << 20
ROW = {"age": 39, "workclass": "State-gov", "education": "Bachelors", "hours-per-week": 40.5, "country": "Cuba"}


@pytest.mark.parametrize("unit", [b"[],", b"{},", b"[[]],", b"[1],", b'{"a":1},'])
@pytest.mark.parametrize("around", [(b'{"inputs":[', b"]}"), (b'{"instances":[NaN,', b"]}")])
def test_a_body_that_would_be_millions_of_objects_is_refused_unparsed(unit: bytes, around: tuple[bytes, bytes]) -> None:
    body = around[0] + (unit * (16 * MIB // len(unit)))[:-1] + around[1]
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge, match="lists and objects"):
            parsed(body)
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


def test_texts_count_for_what_they_are() -> None:
    with pytest.raises(TooLarge, match="text/csv"):
        parsed(b'["a"' + b',"a"' * (5 * MIB) + b"]")


def test_a_small_body_is_parsed_whatever_it_is() -> None:
    assert len(parsed(b"[[]" + b",[]" * (SMALL // 3 - 1) + b"]")) == SMALL // 3


@pytest.mark.parametrize(
    "value",
    [
        {"instances": [ROW] * 100_000},
        {"instances": [list(ROW.values())] * 200_000},
        {"inputs": [{"name": "x", "shape": [4_000, 784], "data": [7] * 784 * 4_000}]},
        {"instances": np.zeros((4_000, 28, 28), np.uint8).tolist()},
        {"instances": [{"b64": "A" * (24 * MIB)}]},
    ],
    ids=["objects", "lists", "numbers", "nested numbers", "an image"],
)
def test_what_honest_clients_send_is_parsed(value: object) -> None:
    body = orjson.dumps(value)
    assert len(body) > 5 * MIB
    assert parsed(body) == value


def received(*messages: Message) -> bytes:
    """The body of a request that comes in these."""
    parts = iter(messages)

    async def receive() -> Message:
        return next(parts)

    return asyncio.run(whole(receive))


def test_a_body_is_whole_however_it_comes() -> None:
    assert received({"type": "http.request"}) == b""
    assert received({"type": "http.request", "body": b"12", "more_body": False}) == b"12"
    more = {"type": "http.request", "body": b"1", "more_body": True}
    assert received(more, more, {"type": "http.request", "body": b"", "more_body": False}) == b"11"


def test_half_a_body_is_none() -> None:
    with pytest.raises(ClientDisconnect):
        received({"type": "http.request", "body": b"1", "more_body": True}, {"type": "http.disconnect"})
