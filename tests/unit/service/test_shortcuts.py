from __future__ import annotations

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from gammabeta.errors import Forbidden, GammabetaError, InvalidRequest, Overloaded, Unauthorized
from service.routes import predict
from service.routes.predict import addressed
from service.shortcuts import Shortcuts
from tests.unit.service.asgi import Sent, request


async def elsewhere(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("elsewhere", status_code=404)(scope, receive, send)


def asked(
    path: str,
    *,
    method: str = "POST",
    error: Exception | None = None,
    refusal: GammabetaError | None = None,
) -> Sent:
    async def endpoint(request: Request, caller: str, name: str) -> Response:
        if error is not None:
            raise error
        return PlainTextResponse(f"{name}: {len(await request.body())} of {caller}")

    def admit(request: Request) -> str:
        if refusal is not None:
            raise refusal
        return "me"

    app = Shortcuts(elsewhere, {"/models/{name}/predict": endpoint}, admit=admit)
    return request(app, method, path, chunks=[b"12", b"3"])


def text(sent: Sent) -> str:
    return b"".join(message.get("body", b"") for message in sent.messages[1:]).decode()


def test_a_post_goes_straight_to_its_endpoint() -> None:
    assert text(asked("/models/digits/predict")) == "digits: 3 of me"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/models/digits/predict"),
        ("POST", "/models/digits/predict/"),
        ("POST", "/models/a/b/predict"),
        ("POST", "/models//predict"),
        ("POST", "/x/models/digits/predict"),
    ],
)
def test_all_else_goes_on(method: str, path: str) -> None:
    assert asked(path, method=method).status == 404


@pytest.mark.parametrize(
    ("error", "status"),
    [(Overloaded(), 429), (InvalidRequest(), 422), (GammabetaError(), 500), (ClientDisconnect(), 499)],
)
def test_errors_are_problems_as_from_any_route(error: Exception, status: int) -> None:
    assert asked("/models/digits/predict", error=error).status == status


def test_who_is_not_admitted_reaches_no_endpoint() -> None:
    refused = asked("/models/digits/predict", refusal=Unauthorized(), error=ZeroDivisionError("the endpoint ran"))
    assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert asked("/models/digits/predict", refusal=Forbidden()).status == 403


def test_an_error_keeps_nothing_of_its_request() -> None:
    error = InvalidRequest()
    error.__cause__ = ValueError("the body")
    assert asked("/models/digits/predict", error=error).status == 422
    assert (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)


def test_a_bug_is_for_those_who_log_it() -> None:
    with pytest.raises(ZeroDivisionError):
        asked("/models/digits/predict", error=ZeroDivisionError())


def test_the_address_says_which_version() -> None:
    assert addressed("digits", b"") == ("digits", None, None)
    assert addressed("digits", b"version=3") == ("digits", "3", None)
    assert addressed("digits", b"alias=best") == ("digits", None, "best")


@pytest.mark.parametrize(
    ("name", "query", "field"),
    [
        ("digits", b"version=3&alias=best", "alias"),
        ("digits", b"version=", "version"),
        ("digits", b"alias=a%20b", "alias"),
        ("digits", b"name=other", "name"),
        ("digits", b"verson=3", "verson"),
        ("a b", b"", "name"),
    ],
)
def test_what_is_wrong_with_an_address_is_named(name: str, query: bytes, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        addressed(name, query)
    assert [error.field for error in caught.value.errors] == [field]


def test_only_short_addresses_are_remembered() -> None:
    kept = predict._kept.cache_info().currsize
    for times in range(40, 60):
        assert addressed("digits", b"&".join([b"version=3"] * times)) == ("digits", "3", None)
    assert predict._kept.cache_info().currsize == kept
    addressed("digits", b"version=3456")
    assert predict._kept.cache_info().currsize == kept + 1
