"""The proxy before a bucket does to requests what T17 says that it does."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import httpx
import pytest

from tests.buckets import BUCKET, S3, s3
from tests.faults.stores import Unsteady, unsteady

__all__ = ["s3"]

OBJECT, LIST = f"/{BUCKET}/t17/object", f"/{BUCKET}?list-type=2&prefix=t17"
DATA = b"0123456789"
SIGNED = "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=00"
"""Which moto wants to see, and does not check."""


class Choosing(Random):
    """Always the same kind of fault."""

    kind = ""

    def random(self) -> float:
        return 0.0 if self.kind else 1.0

    def choice(self, kinds: list[str]) -> str:  # type: ignore[override] - of strings alone
        assert self.kind in kinds
        return self.kind


@pytest.fixture
def store(s3: S3) -> Iterator[Unsteady]:
    with unsteady(s3.endpoint, Choosing()) as server:
        server.share = 0.3
        yield server


@pytest.fixture
def http(store: Unsteady) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=store.endpoint, trust_env=False, timeout=20, headers={"Authorization": SIGNED}
    ) as client:
        assert client.put(OBJECT, content=DATA).status_code == 200
        yield client


def injecting(store: Unsteady, kind: str) -> None:
    assert isinstance(store.random, Choosing)
    store.random.kind = kind


def test_what_is_asked_passes(http: httpx.Client, store: Unsteady) -> None:
    assert http.get(OBJECT).content == DATA
    assert http.head(OBJECT).headers["Content-Length"] == str(len(DATA))
    assert (store.requests, store.injected.total()) == (3, 0)


@pytest.mark.parametrize("status", [500, 503, 403])
def test_a_refusal_has_its_status(http: httpx.Client, store: Unsteady, status: int) -> None:
    injecting(store, str(status))
    assert http.get(OBJECT).status_code == status
    assert store.injected == {str(status): 1}


@pytest.mark.parametrize("kind", ["silence", "cut"])
def test_a_connection_ends_before_the_answer_does(http: httpx.Client, store: Unsteady, kind: str) -> None:
    injecting(store, kind)
    with pytest.raises(httpx.RemoteProtocolError):
        http.get(OBJECT)


def test_a_short_body_says_that_it_is_whole(http: httpx.Client, store: Unsteady) -> None:
    injecting(store, "short")
    assert http.get(OBJECT).content == DATA[:5]


def test_a_stale_list_does_not_show_what_is_new(http: httpx.Client, store: Unsteady) -> None:
    before = http.get(LIST).text
    http.put(f"{OBJECT}-2", content=DATA)
    injecting(store, "stale list")
    assert http.get(LIST).text == before
    injecting(store, "")
    assert "object-2" in http.get(LIST).text
