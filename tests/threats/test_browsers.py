"""Row 10: web pages in the operator's browser. The whole application, each route and each method of it."""

from __future__ import annotations

import httpx
import pytest

from tests.integration.service.test_keys import GUARDED, OPERATIONS
from tests.threats.conftest import Stocked

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]
HIDDEN = ["/", "/ui", "/ui/", "/ui/app.js", "/docs", "/v1/openapi.json", "/v2/", "/nowhere", "/%2e%2e"]
PATHS = sorted({path for _, path, _ in OPERATIONS} | set(HIDDEN))
FOREIGN_ORIGINS = ["http://evil.example", "https://127.0.0.1.evil.example", "null", "http://127.0.0.1:1", "file://"]


@pytest.mark.parametrize("path", PATHS)
def test_cve_2025_62593_host_and_origin(stocked: Stocked, path: str) -> None:
    """With a key that may do everything, which a page that the operator's own programs trust might have."""
    address = stocked.addressed(path)
    for method in METHODS:
        rebound = stocked.ask(method, address, headers={"Host": "evil.example:8000"})
        assert (rebound.status_code, _code(rebound, method)) == (400, "host_not_allowed"), method
        for origin in FOREIGN_ORIGINS:
            foreign = stocked.ask(method, address, headers={"Origin": origin})
            assert (foreign.status_code, _code(foreign, method)) == (403, "foreign_origin"), (method, origin)
            assert not [name for name in foreign.headers if name.startswith("access-control-")]


def _code(answer: httpx.Response, method: str) -> str:
    """Of the problem. Under /v2 there is none, and of HEAD no body: the status has to do."""
    codes = {400: "host_not_allowed", 403: "foreign_origin"}
    under_v2 = not answer.headers["content-type"].startswith("application/problem+json")
    if method == "HEAD" or under_v2:
        return codes.get(answer.status_code, "")
    return str(answer.json()["code"])


def test_cve_2026_27482_delete_from_elsewhere_deletes_nothing(stocked: Stocked) -> None:
    for method, path, _ in GUARDED:
        if method == "DELETE":
            stocked.ask(method, stocked.addressed(path), headers={"Origin": "http://evil.example"})
            stocked.ask(method, stocked.addressed(path), headers={"Host": "evil.example"})
    assert stocked.ask("GET", "/v1/datasets/people").status_code == 200
    assert stocked.ask("GET", "/v1/models/income").json()["aliases"] == {"best": "1"}
    assert stocked.ask("GET", "/v1/keys").json()["data"][0]["state"] == "active"


def test_no_page_may_ask_whether_it_may(stocked: Stocked) -> None:
    asking = {"Origin": str(stocked.service.http.base_url), "Access-Control-Request-Method": "DELETE"}
    answer = stocked.ask("OPTIONS", "/v1/jobs", headers=asking)
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_nothing_is_let_in_by_a_cookie_or_by_the_address(stocked: Stocked) -> None:
    """What a browser would send of itself."""
    http, key = stocked.service.http, stocked.own
    ways = [
        http.get("/v1/jobs", headers={"Cookie": f"key={key}; Authorization=Bearer {key}"}),
        http.get("/v1/jobs", params={"key": key}),
        http.get("/v1/jobs", params={"access_token": key}),
        http.get("/v1/jobs", headers={"X-API-Key": key}),
        http.get("/v1/jobs", auth=("key", key)),
    ]
    assert [each.status_code for each in ways] == [401] * len(ways)
    assert not [each for answer in ways for each in answer.headers if each == "set-cookie"]
