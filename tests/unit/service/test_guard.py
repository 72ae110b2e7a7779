from __future__ import annotations

import pytest
from starlette.responses import Response

from service.guard import Guard
from tests.unit.service.asgi import request

GUARD = Guard(Response("ok"), frozenset({"127.0.0.1", "localhost", "[::1]", "ml.example.org"}))
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.", "", "[::2]:8000", "10.0.0.1"])
def test_cve_2025_62593_foreign_host_is_refused(method: str, host: str) -> None:
    sent = request(GUARD, method, headers={"Host": host})
    assert (sent.status, sent.json["code"]) == (400, "host_not_allowed")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "http://127.0.0.1", ""])
def test_cve_2026_27482_foreign_origin_is_refused_on_every_method(method: str, origin: str) -> None:
    sent = request(GUARD, method, headers={"Host": "127.0.0.1:8000", "Origin": origin})
    assert (sent.status, sent.json["code"]) == (403, "foreign_origin")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8000", "LOCALHOST:80", "[::1]", "[::1]:8000", "ml.example.org"]
)
def test_the_service_answers_to_its_names(host: str) -> None:
    assert request(GUARD, headers={"Host": host}).status == 200
    assert request(GUARD, headers={"Host": host, "Origin": f"http://{host}"}).status == 200


def test_the_page_may_load_nothing_from_elsewhere() -> None:
    policy = request(GUARD, path="/ui/", headers={"Host": "localhost"}).headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy


@pytest.mark.parametrize("host", ["localhost", "evil.example"])
def test_every_answer_has_the_security_headers(host: str) -> None:
    headers = request(GUARD, path="/v1/jobs", headers={"Host": host}).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
