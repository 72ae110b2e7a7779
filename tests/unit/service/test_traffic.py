from __future__ import annotations

import re

import anyio.to_thread
import orjson
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, Router
from starlette.types import Receive, Scope, Send

from service.traffic import SECONDS, Kind, Seen, Traffic
from tests.unit.service.asgi import request


async def thing(request: object) -> PlainTextResponse:
    return PlainTextResponse("a thing")


async def page(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("a page")(scope, receive, send)


async def told(scope: Scope, receive: Receive, send: Send) -> None:
    """What lines of the log would have, here and in a thread."""
    here, there = bound(), await anyio.to_thread.run_sync(bound)
    await PlainTextResponse(orjson.dumps([here, there]))(scope, receive, send)


def bound() -> str | None:
    found: str | None = structlog.contextvars.get_contextvars().get("request_id")
    return found


ROUTER = Router([Route("/things/{name}", thing), Route("/docs", thing), Mount("/ui", page)])


def counted(traffic: Traffic) -> dict[Kind, int]:
    return {kind: seen.count for kind, seen in traffic.seen}


def test_requests_are_told_by_template_method_and_class_of_status() -> None:
    traffic = Traffic(ROUTER)
    for path in ("/things/a", "/things/b", "/nowhere", "/ui/a.js", "/ui/b.js", "/docs"):
        request(traffic, "GET", path)
    request(traffic, "DELETE", "/things/a")
    assert counted(traffic) == {
        Kind("/things/{name}", "GET", "2xx"): 2,
        Kind("/things/{name}", "DELETE", "4xx"): 1,
        Kind("/ui", "GET", "2xx"): 2,
        Kind("/docs", "GET", "2xx"): 1,
        Kind("none", "GET", "4xx"): 1,
    }


@given(st.lists(st.tuples(st.text(min_size=1), st.text()), max_size=20))
def test_what_a_client_makes_up_becomes_no_label(made_up: list[tuple[str, str]]) -> None:
    traffic = Traffic(ROUTER)
    for method, path in made_up:
        request(traffic, method, f"/{path}")
    for kind in counted(traffic):
        assert kind.route in ("none", "/things/{name}", "/docs", "/ui")
        assert kind.method in ("GET", "HEAD", "POST", "PUT", "DELETE", "other")


def test_a_request_has_the_id_that_the_client_gave_in_its_answer_and_in_the_log() -> None:
    sent = request(Traffic(told), headers={"X-Request-Id": "client-7.a_B"})
    assert sent.headers["x-request-id"] == "client-7.a_B"
    assert sent.json == ["client-7.a_B", "client-7.a_B"]


@pytest.mark.parametrize("given", ["", "a b", "a\n", "\x1b[31m", 'a"', "é", "a" * 65, "a;b"])
def test_an_id_that_is_not_plain_is_replaced(given: str) -> None:
    sent = request(Traffic(told), headers={"X-Request-Id": given})
    assert re.fullmatch(r"[0-9a-f]{12}-1", sent.headers["x-request-id"])
    assert sent.json == [sent.headers["x-request-id"]] * 2


def test_each_request_has_an_id_of_its_own_whichever_process_makes_it() -> None:
    one, other = Traffic(told), Traffic(told)
    ids = [request(each).headers["x-request-id"] for each in (one, one, other, other)]
    assert len(set(ids)) == 4


def test_an_error_without_an_answer_is_what_the_server_makes_of_it() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError

    traffic = Traffic(broken)
    with pytest.raises(ZeroDivisionError):
        request(traffic)
    assert counted(traffic) == {Kind("none", "GET", "5xx"): 1}


@given(st.lists(st.floats(0, 1_000)))
def test_each_time_is_in_the_first_bucket_that_holds_it(times: list[float]) -> None:
    seen = Seen()
    for each in times:
        seen.add(each)
    bounds = (*SECONDS, float("inf"))
    below = [sum(seen.buckets[: place + 1]) for place in range(len(bounds))]
    assert below == [sum(each <= bound for each in times) for bound in bounds]
    assert (seen.count, seen.seconds) == (len(times), pytest.approx(sum(times)))
