"""One HTTP connection to a service: sends, sends again where that is safe, and raises what the answer stands for.

    refused (429, 503)            again after Retry-After, if the request may be repeated
    never sent (no connection)    again, whatever it was
    sent, and no answer came      again only if the request may be repeated

A request may be repeated when it is a GET or PUT, carries an Idempotency-Key, or changes nothing.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeAlias, TypeVar
from uuid import uuid4

import httpx
from pydantic import BaseModel, ValidationError

from gammabeta.client import failures
from gammabeta.errors import (
    ArtifactCorrupt,
    GammabetaError,
    InvalidRequest,
    NotReady,
    ServiceFault,
    ServiceUnreachable,
    TooLargeToServe,
)

Body: TypeAlias = bytes | Path
"""A path is opened anew for each attempt, and streamed."""
Params: TypeAlias = Mapping[str, str | int | float | bool | None]

ATTEMPTS = 4
FIRST_PAUSE = 0.1
"""Seconds before the second attempt; doubled for each one after it."""

_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

T = TypeVar("T")
AnswerT = TypeVar("AnswerT", bound=BaseModel)


class Connection:
    """A pool of connections to the service at `url`. `sleep` waits between attempts and polls."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float = 60.0,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        address = _checked(url.rstrip("/"))
        self.url = str(address)
        self.sleep = sleep
        self._http = httpx.Client(
            base_url=address,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout, connect=min(timeout, 5.0)),
            transport=transport,
            # A proxy of the environment does not lead to this machine's own loopback.
            trust_env=address.host not in _LOOPBACK,
        )

    def close(self) -> None:
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool | None = None,
        attempts: int = ATTEMPTS,
    ) -> httpx.Response:
        """Send, and return a successful response.

        Raises:
            GammabetaError: the class that the answer stands for, or ServiceUnreachable.
        """
        may_repeat = method in ("GET", "PUT") if repeatable is None else repeatable
        present = {key: value for key, value in (params or {}).items() if value is not None}
        send = partial(self._send, method, path, present, body, headers)
        return self._persistently(send, may_repeat=may_repeat, attempts=attempts)

    def _persistently(self, send: Callable[[], T], *, may_repeat: bool, attempts: int = ATTEMPTS) -> T:
        attempt = 1
        while True:
            try:
                return send()
            except GammabetaError as error:
                if attempt >= attempts or not _worth_another(error, may_repeat):
                    raise
                self.sleep(error.retry_after if isinstance(error, NotReady) else FIRST_PAUSE * 2 ** (attempt - 1))
            attempt += 1

    def _send(
        self, method: str, path: str, params: Params, body: Body | None, headers: Mapping[str, str] | None
    ) -> httpx.Response:
        try:
            with _opened(body) as content:
                response = self._http.request(method, path, params=params, content=content, headers=headers)
        except httpx.RequestError as exc:
            raise failures.unreachable(exc, self.url) from exc
        if not response.is_success:
            raise failures.of(response)
        return response

    def read(self, shape: type[AnswerT], path: str, *, params: Params | None = None) -> AnswerT:
        """GET an answer of a known shape."""
        return parse(shape, self.request("GET", path, params=params))

    def download(self, path: str, target: Path, *, sha256: str) -> None:
        """GET a file, streamed to the disk. It has its name once all of it is there, and its bytes have this hash.

        Raises:
            ServiceFault: they have another one.
            OSError: the file cannot be written.
        """
        partly = target.with_name(f".{target.name}.{uuid4().hex[:8]}.part")
        try:
            received = self._persistently(partial(self._fetch, path, partly), may_repeat=True)
            if received != sha256:
                raise ServiceFault(
                    f"GET {path} must answer bytes with the sha256 {sha256}. Received: {received}. Ask again, and look "
                    "for what stands between here and the service."
                )
            partly.replace(target)
        finally:
            partly.unlink(missing_ok=True)

    def _fetch(self, path: str, target: Path) -> str:
        """The sha256 of what came."""
        hashed = hashlib.sha256()
        try:
            with self._http.stream("GET", path) as response, target.open("wb") as file:
                if not response.is_success:
                    response.read()
                    raise failures.of(response)
                for chunk in response.iter_bytes():
                    hashed.update(chunk)
                    file.write(chunk)
        except httpx.RequestError as exc:
            raise failures.unreachable(exc, self.url) from exc
        return hashed.hexdigest()

    @contextmanager
    def lines(self, path: str, *, headers: Mapping[str, str]) -> Iterator[Iterator[str]]:
        """The lines of an answer, as they come."""
        try:
            with self._http.stream("GET", path, headers=headers) as response:
                if not response.is_success:
                    response.read()
                    raise failures.of(response)
                yield response.iter_lines()
        except httpx.RequestError as exc:
            raise failures.unreachable(exc, self.url) from exc


def _worth_another(error: GammabetaError, may_repeat: bool) -> bool:
    if isinstance(error, ServiceUnreachable):
        return may_repeat or isinstance(error.__cause__, _NEVER_SENT)
    return may_repeat and isinstance(error, NotReady) and not isinstance(error, ArtifactCorrupt | TooLargeToServe)


def parse(shape: type[AnswerT], response: httpx.Response) -> AnswerT:
    """The answer as a value of `shape`."""
    try:
        return shape.model_validate_json(response.content)
    except ValidationError as exc:
        raise not_understood(response, str(exc.errors()[0]["msg"])) from exc


def not_understood(response: httpx.Response, reason: str) -> ServiceFault:
    """The error for a success whose body is not what the contract says."""
    return ServiceFault(
        f"{response.request.method} {response.request.url.path} must answer as gammabeta does. Received: {reason}. "
        "Check the address, and that client and service are of one version (`gammabeta version`)."
    )


@contextmanager
def _opened(body: Body | None) -> Iterator[bytes | BinaryIO | None]:
    if isinstance(body, Path):
        with body.open("rb") as file:
            yield file
    else:
        yield body


def _checked(url: str) -> httpx.URL:
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL:
        address = httpx.URL()
    if address.scheme not in ("http", "https") or not address.host:
        raise InvalidRequest.of("url", "must be http:// or https:// and a host. Write http://127.0.0.1:8000, say.", url)
    return address
