"""T17. A bucket that answers three requests in ten wrongly, or not at all, under trainings, uploads and predictions.

worker, service ──HTTP──► Unsteady ──► moto          this process, which judges, asks moto itself
                            500 · 503 SlowDown · 403 · no answer · a body cut short · a body that says it is whole and
                            is not · a list of a while ago
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson

from gammabeta.errors import NotReady
from gammabeta.store import datasets
from gammabeta.store.blobs import open_blobs
from gammabeta.store.settings import StoreSettings
from gammabeta.store.tables import DEFAULT_PROJECT
from service.app import create_app
from service.settings import ServiceSettings
from tests.buckets import running_s3, serving
from tests.faults.figures import Row, seconds
from tests.faults.rig import Place, Scenario
from tests.faults.trials import Trials, fingerprint, not_succeeded, version_of
from tests.integration.workshop import Workshop, until, workshop
from tests.trainings import blobs as classes
from tests.unit.ingestion.conftest import npz
from worker import keeping

SHARE = 0.3
"""Of the requests that are answered wrongly."""
SILENT_SECONDS = 1.0
EPOCHS = 4
REFUSALS = {500: "InternalError", 503: "SlowDown", 403: "AccessDenied"}


class Unsteady(ThreadingHTTPServer):
    """Stands before a store that speaks S3, and injects faults into so large a share of the requests."""

    daemon_threads = True

    def __init__(self, endpoint: str, random: Random) -> None:
        self.store, self.share, self.random = urlsplit(endpoint).netloc, 0.0, random
        self.injected: Counter[str] = Counter()
        self.requests = 0
        self.lists: dict[str, tuple[int, list[tuple[str, str]], bytes]] = {}
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fault(self, method: str, path: str) -> str | None:
        """What to do to this request; None: nothing. Most requests write, so that those that read and list mostly have
        a fault of their own."""
        query = urlsplit(path).query
        is_list, is_object = "list-type" in query, method == "GET" and not query
        with self.lock:
            self.requests += 1
            if self.random.random() >= self.share:
                return None
            kinds = ["500", "503", "403", "silence"]
            kinds += ["cut", "short"] * 5 * is_object + ["stale list"] * 10 * (is_list and path in self.lists)
            kind = self.random.choice(kinds)
            self.injected[kind] += 1
            return kind


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    server: Unsteady

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.fault(self.command, self.path)
        match fault:
            case "silence":
                time.sleep(SILENT_SECONDS)
                self.close_connection = True
            case "500" | "503" | "403":
                words = f"<Error><Code>{REFUSALS[int(fault)]}</Code><Message>injected</Message></Error>".encode()
                self._send(int(fault), [], words)
            case "stale list":
                self._send(*self.server.lists[self.path])
            case _:
                self._pass(body, fault)

    def _pass(self, body: bytes, fault: str | None) -> None:
        connection = http.client.HTTPConnection(self.server.store, timeout=60)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        data, headers = answer.read(), answer.getheaders()
        connection.close()
        if "list-type" in self.path and answer.status == 200:
            with self.server.lock:
                self.server.lists.setdefault(self.path, (answer.status, headers, data))
        whole = len(data)
        if fault in ("cut", "short") and data:
            data = data[: whole // 2]
        self._send(answer.status, headers, data, says=whole if fault == "cut" else len(data))
        self.close_connection = self.close_connection or fault == "cut"

    def _send(self, status: int, headers: list[tuple[str, str]], body: bytes, *, says: int | None = None) -> None:
        self.send_response_only(status)
        length = next((value for name, value in headers if name.lower() == "content-length"), "0")
        for name, value in headers:
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header(
            "Content-Length", length if self.command == "HEAD" else str(len(body) if says is None else says)
        )
        self.end_headers()
        if self.command != "HEAD":
            with suppress(ConnectionError):
                self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _answer  # noqa: N815 - as the library asks for them

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def unsteady(endpoint: str, random: Random) -> AbstractContextManager[Unsteady]:
    return serving(Unsteady(endpoint, random))


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Of this process, in which a store that is opened reads its credentials."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@dataclass
class Round(Trials):
    """The trials: each uploads, trains, predicts and answers a data set, by a service that has nothing in its cache."""

    shop: Workshop = field(kw_only=True)
    store: Unsteady = field(kw_only=True)
    environment: dict[str, str] = field(kw_only=True)
    address: str = field(kw_only=True)
    expected: dict[str, Any] = field(default_factory=dict)
    """What the first round, without faults, came to; every other one must."""
    refused: Counter[str] = field(default_factory=Counter)
    lasted: list[float] = field(default_factory=list)
    jobs: int = 0

    async def once(self, broken: list[str]) -> None:
        settings = ServiceSettings(
            home=self.shop.home / f"service-{self.n}", database_url=self.shop.db.url, blobs=self.address
        )
        with environment(self.environment | {"AWS_ENDPOINT_URL": self.store.endpoint}):
            app = create_app(settings)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.api.router.lifespan_context(app.api),
            httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=120) as service,
        ):
            broken += await self._round(service)

    async def _round(self, service: httpx.AsyncClient) -> list[str]:
        dataset_id = (
            await self._asked(
                service, "POST", f"/v1/datasets?name=round-{self.n}&format=npz", DATA, key=f"upload-{self.n}"
            )
        ).json()["id"]
        await asyncio.to_thread(until, lambda: self._is_ready(dataset_id), f"the data set {dataset_id}")
        training = self.shop.train(dataset_id, epochs=EPOCHS)
        row = await asyncio.to_thread(self.shop.ended, training)
        if lost := not_succeeded(row):
            return [f"{each} ({row.reason}: {row.message})" for each in lost]
        version = version_of(self.shop, row)
        body = orjson.dumps({"instances": INSTANCES})
        answer = (await self._asked(service, "POST", f"/v1/models/toy/predict?version={version.number}", body)).json()
        weights = await self._asked(
            service, "GET", f"/v1/models/toy/versions/{version.number}/files/weights.safetensors"
        )
        answering = self.shop.predict(dataset_id)
        answered = await asyncio.to_thread(self.shop.ended, answering)
        self.jobs += 3
        if lost := not_succeeded(answered):
            return [f"{each} ({answered.reason}: {answered.message})" for each in lost]
        found = {
            "weights and state": fingerprint(self.shop, row),
            "predictions": answer["predictions"],
            "downloaded weights": hashlib.sha256(weights.content).hexdigest(),
            "answers of the data set": (answered.result or {})["sha256"],
        }
        self.expected = self.expected or found
        return [
            f"the {name} are not those of an undisturbed run" for name in found if found[name] != self.expected[name]
        ]

    def _is_ready(self, dataset_id: str) -> bool:
        with self.shop.db.read() as session:
            row = datasets.get(session, DEFAULT_PROJECT, dataset_id)
            assert row.state != "failed", f"{dataset_id} failed: {row.error_code} {row.error_message}"
            return row.state == "ready"

    async def _asked(
        self, service: httpx.AsyncClient, method: str, path: str, body: bytes = b"", *, key: str = ""
    ) -> httpx.Response:
        """The first answer that is none of 503 with Retry-After, under the same key."""
        began = time.monotonic()
        headers = {"Idempotency-Key": key} if key else {}
        while True:
            answer = await service.request(method, path, content=body or None, headers=headers)
            if answer.status_code < 300:
                self.lasted.append(time.monotonic() - began)
                return answer
            code = f"{answer.status_code} {answer.json().get('code')}"
            assert answer.status_code == 503, f"{method} {path}: {code} {answer.text[:300]}"
            assert "Retry-After" in answer.headers, f"{method} {path}: {code} without Retry-After"
            self.refused[code] += 1
            await asyncio.sleep(0.1)


def _data() -> bytes:
    x, y = classes(rows=203)
    return npz(x_train=x, y_train=y, x_test=x[:40], y_test=y[:40])


DATA = _data()
INSTANCES = classes(rows=3)[0].tolist()


def run(place: Place, n: int, random: Random) -> Row:
    """Rounds until so many faults were injected."""
    with running_s3() as s3, unsteady(s3.endpoint, random) as store, environment(s3.environment):
        faulty = s3.environment | {"AWS_ENDPOINT_URL": store.endpoint}
        address = s3.address()
        with workshop(place.folder, place.url, blobs=address, environment=faulty) as shop:
            worker = shop.start()
            rounds = Round(shop=shop, store=store, environment=s3.environment, address=address)
            with rounds.trial("undisturbed") as broken:
                asyncio.run(rounds.once(broken))
            store.share = SHARE
            while store.injected.total() < n and not rounds.failed:
                with rounds.trial("round") as broken:
                    asyncio.run(rounds.once(broken))
                _sweep(shop, faulty, address)
            store.share = 0.0
            return _told(rounds, shop, n, alive=worker.process.poll() is None)


def _sweep(shop: Workshop, faulty: dict[str, str], address: str) -> None:
    """What a worker does every ten minutes, by the same store: with everything that no row names, however young."""
    with environment(faulty):
        blobs = open_blobs(StoreSettings(home=shop.home, blobs=address))
    with suppress(NotReady):
        keeping.sweep(shop.db, blobs, seconds=-60)


def _told(rounds: Round, shop: Workshop, wanted: int, *, alive: bool) -> Row:
    store = rounds.store
    figures = {
        "injected": ", ".join(f"{kind} {count}" for kind, count in sorted(store.injected.items())),
        "share of the requests": f"{store.injected.total() / max(1, store.requests):.0%} of {store.requests:,}",
        "jobs": f"{rounds.jobs}",
        "refused with Retry-After": ", ".join(f"{code} {count}" for code, count in rounds.refused.items()) or "none",
        "answered": seconds(rounds.lasted),
    }
    row = rounds.row(shop, unit="rounds", figures=figures, also=[] if alive else ["the worker ended"])
    total = store.injected.total()
    return Row(
        n=total,
        unit="faults",
        broken=row.broken,
        failed=min(total, row.failed),
        figures=figures,
        complete=total >= wanted,
    )


SCENARIO = Scenario(
    id="T17",
    fault=f"a bucket that answers {SHARE:.0%} of the requests with 500, 503, 403, nothing, a body that is cut or too "
    "short, or a stale list, under uploads, trainings, predictions and sweeps",
    promise="no wrong byte: weights, predictions, downloads, answers are those of an undisturbed run; no job is lost; "
    "the API refuses by 503 with Retry-After alone",
    run=run,
    quick=20,
    full=250,
    quick_kinds=("sqlite",),
    kinds=("sqlite",),
)
