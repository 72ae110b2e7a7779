from __future__ import annotations

from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send

from service.app import Accountable, Application, create_app
from service.guard import HEADERS, Guard
from service.settings import ServiceSettings
from service.traffic import Traffic
from tests.unit.service.asgi import Sent, request


def broken(*, begun: bool) -> Application:
    """With a bug in what a request meets first."""

    async def front(scope: Scope, receive: Receive, send: Send) -> None:
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError("of the rows")

    service = create_app(ServiceSettings(home=Path("/nowhere")))
    return Application(api=service.api, front=Traffic(Guard(Accountable(front), hosts=frozenset({""}))))


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/digits/predict", "/v2/models/digits/infer"])
def test_a_bug_anywhere_is_answered_with_a_problem_and_left_to_the_server_to_log(path: str) -> None:
    sent = Sent()
    with pytest.raises(ZeroDivisionError):
        request(broken(begun=False), "POST", path, sent=sent)
    assert sent.status == 500
    assert sent.json.get("code", "internal_error") == "internal_error"
    assert "of the rows" not in str(sent.messages)
    assert {name.lower() for name in HEADERS} | {"x-request-id"} <= set(sent.headers)


def test_an_answer_that_has_begun_is_not_begun_again() -> None:
    sent = Sent()
    with pytest.raises(ZeroDivisionError):
        request(broken(begun=True), sent=sent)
    assert [message["type"] for message in sent.messages] == ["http.response.start"]
