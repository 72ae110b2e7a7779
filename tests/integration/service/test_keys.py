"""Keys at the door: every route of the description without a key, with the wrong scope and with the right one."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter
from fastapi.routing import iter_route_contexts

from gammabeta import Client
from gammabeta.errors import Forbidden, KeyNotFound, NotReady, Unauthorized
from gammabeta.schemas.keys import KeyRequest, NewKey, Scope
from gammabeta.schemas.preprocessing import FittedArray
from gammabeta.store import keys
from gammabeta.store.engine import Database
from gammabeta.store.tables import DEFAULT_PROJECT
from service import access
from service.__main__ import described
from service.app import create_app
from service.settings import ServiceSettings
from tests.integration.samples import submit
from tests.integration.service.conftest import Service, eventually

ROOT = Path(__file__).parents[3]
DOCUMENT: dict[str, Any] = json.loads(described())
OPERATIONS = [
    (method.upper(), path, operation)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
]
GUARDED = [each for each in OPERATIONS if each[1] not in access.OPEN]
NAMES = [f"{method} {path}" for method, path, _ in GUARDED]


def make(database: Database, *scopes: Scope, **changes: Any) -> NewKey:
    with database.write() as session:
        return keys.create(session, DEFAULT_PROJECT, KeyRequest(name="test", scopes=scopes or tuple(Scope), **changes))


def bearing(key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def locked(start: Callable[..., Any]) -> Iterator[Service]:
    """A service that asks for keys, with a model `flat`."""
    with start() as service:
        make(service.shelf.database, Scope.READ)
        service.shelf.version("flat", preprocessing=FittedArray(shape=(4,)))
        eventually(lambda: service.http.get("/v1/jobs").status_code == 401)
        yield service


@pytest.fixture(scope="module")
def by_scope(locked: Service) -> dict[str, str]:
    made = {scope.value: make(locked.shelf.database, scope).key for scope in Scope}
    eventually(lambda: all(code(locked, key, "/v1/jobs") != 401 for key in made.values()))
    return made


def code(service: Service, key: str | None, path: str = "/v1/jobs") -> int:
    return service.http.get(path, headers=bearing(key)).status_code


def ask(service: Service, method: str, path: str, key: str | None) -> httpx.Response:
    """With names of what is not there: whoever is let in is told so, or that the body is missing."""
    address = re.sub(r"\{(\w+)\}", "nothing", path)
    return service.http.request(method, address, headers=bearing(key) if key else {})


def wants(operation: dict[str, Any]) -> set[str]:
    return {scope for each in operation["security"] for scope in each["key"]}


def test_the_description_has_every_route_there_is() -> None:
    api = create_app(ServiceSettings()).api
    hidden = {"/v2/"}
    served = {route.path for route in iter_route_contexts(api.routes)} - access.OPEN - hidden
    assert served == {path for _, path, _ in GUARDED}
    assert len(GUARDED) > 30


@pytest.mark.parametrize(("method", "path", "operation"), GUARDED, ids=NAMES)
def test_cve_2026_2652_every_route_401(locked: Service, method: str, path: str, operation: dict[str, Any]) -> None:
    answer = ask(locked, method, path, None)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    if path.startswith("/v2"):
        assert answer.json().keys() == {"error"}
    else:
        assert answer.json()["code"] == "unauthorized"
    assert wants(operation)


@pytest.mark.parametrize(("method", "path", "operation"), GUARDED, ids=NAMES)
@pytest.mark.parametrize("scope", [scope.value for scope in Scope])
def test_each_route_takes_its_scopes_and_no_other(
    locked: Service, by_scope: dict[str, str], method: str, path: str, operation: dict[str, Any], scope: str
) -> None:
    answer = ask(locked, method, path, by_scope[scope])
    if scope in wants(operation):
        assert answer.status_code not in (401, 403)
        return
    assert answer.status_code == 403
    said = answer.json()["error" if path.startswith("/v2") else "detail"]
    assert all(each in said for each in (*wants(operation), f"has {scope}"))
    if not path.startswith("/v2"):
        assert answer.json()["code"] == "forbidden"


@pytest.mark.parametrize("path", [*sorted(access.OPEN - {"/static-offline-docs"}), "/ui/", "/ui/app.js"])
def test_shells_and_probes_need_no_key(locked: Service, path: str) -> None:
    assert locked.http.get(path, follow_redirects=True).status_code == 200


@pytest.mark.parametrize("path", ["/v2/", "/v2"])
def test_hidden_spellings_are_guarded_too(locked: Service, path: str) -> None:
    assert locked.http.get(path).status_code == 401


def test_an_unguarded_route_does_not_start() -> None:
    router = APIRouter()

    async def late() -> None: ...

    router.add_api_route("/v1/late", late, methods=["POST"], name="late")
    app = create_app(ServiceSettings()).api
    app.include_router(router, dependencies=[access.GUARDED])
    with pytest.raises(RuntimeError, match="/v1/late"):
        access.check(app.routes)


def test_a_route_past_the_guard_does_not_start() -> None:
    app = create_app(ServiceSettings()).api

    async def late() -> None: ...

    app.add_api_route("/v1/late", late, methods=["GET"], name="late")
    with pytest.raises(RuntimeError, match="/v1/late"):
        access.check(app.routes)


# ── predictions, which go past the router ──


def predict(service: Service, key: str | None) -> httpx.Response:
    rows = {"instances": [[1, 2, 3, 4]]}
    return service.http.post("/v1/models/flat/predict", json=rows, headers=bearing(key) if key else {})


def test_predictions_ask_for_their_scope(locked: Service, by_scope: dict[str, str]) -> None:
    codes = {scope: predict(locked, key).status_code for scope, key in by_scope.items()}
    assert codes == {"read": 403, "train": 403, "predict": 200, "admin": 403}
    assert predict(locked, None).status_code == 401


# ── what is said of keys that do not work ──


def said(service: Service, authorization: str) -> str:
    answer = service.http.get("/v1/jobs", headers={"Authorization": authorization})
    assert answer.status_code == 401
    return str(answer.json()["detail"])


def test_a_wrong_key_is_told_apart_from_a_mistyped_one(locked: Service, by_scope: dict[str, str]) -> None:
    good = by_scope["read"]
    assert "mistyped" in said(locked, f"Bearer {good[:-1]}")
    assert "mistyped" in said(locked, "Bearer x")
    assert "another scheme" in said(locked, f"Basic {good}")
    unknown = keys._text("Ab12Cd34")
    assert "does not know" in said(locked, f"Bearer {unknown}")
    _, key_id, _, _ = good.split("_")
    assert said(locked, f"Bearer {keys._text(key_id)}") == said(locked, f"Bearer {unknown}")


def test_nothing_of_a_wrong_key_is_repeated(locked: Service, by_scope: dict[str, str]) -> None:
    for text in (by_scope["read"][:-1], keys._text("Ab12Cd34"), "hunter2hunter2"):
        assert text.split("_")[-1] not in said(locked, f"Bearer {text}")


@pytest.mark.parametrize("word", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_may_be_written_in_any_case(locked: Service, by_scope: dict[str, str], word: str) -> None:
    answer = locked.http.get("/v1/jobs", headers={"Authorization": f"{word} {by_scope['read']}"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "authorization", ["Bearer", "Bearer gb_", "Bearer \xe4\xf6", "x" * 5_000, f"Bearer {62 * '_'}"]
)
def test_hostile_headers_are_401(locked: Service, authorization: str) -> None:
    headers = {b"Authorization": authorization.encode("latin-1")}
    assert locked.http.get("/v1/jobs", headers=headers).status_code == 401  # type: ignore[arg-type]


def test_an_expired_key_says_so_to_its_holder(locked: Service) -> None:
    made = make(locked.shelf.database, Scope.READ, expires="30m")
    eventually(lambda: code(locked, made.key) == 200)
    with locked.shelf.database.write() as session:
        row = session.get_one(keys.KeyRow, made.id)
        row.expires_ms = row.created_ms + 1
    make(locked.shelf.database, Scope.READ)
    eventually(lambda: code(locked, made.key) == 401)
    assert "is expired" in said(locked, f"Bearer {made.key}")


def test_a_key_that_expires_between_two_looks_at_the_database_works_no_more(locked: Service) -> None:
    keyring = locked.server.app.api.state.context.keyring
    made = make(locked.shelf.database, Scope.READ, expires="30m")
    eventually(lambda: code(locked, made.key) == 200)
    held = keyring._held[made.id]
    assert held.ended is None
    assert abs(held.until - time.monotonic() - 1_800) < 60


# ── keys that come and go ──


def test_the_first_key_locks_the_door_and_none_opens_it_again(start: Callable[..., Any]) -> None:
    with start() as service:
        assert service.http.get("/v1/jobs").status_code == 200
        assert predictable(service).status_code == 200
        made = make(service.shelf.database)
        eventually(lambda: service.http.get("/v1/jobs").status_code == 401)
        assert predict(service, None).status_code == 401
        assert code(service, made.key) == 200
        revoke(service, made)
        eventually(lambda: code(service, made.key) == 401)
        assert "is revoked" in said(service, f"Bearer {made.key}")
        assert service.http.get("/v1/jobs").status_code == 401


def test_a_key_that_was_made_is_told_whether_or_not_the_keys_can_be_read_then(start: Callable[..., Any]) -> None:
    """Nobody else will ever see it."""
    with start() as service:
        admin = make(service.shelf.database).key
        eventually(lambda: code(service, admin) == 200 and service.http.get("/v1/jobs").status_code == 401)
        keyring = service.server.app.api.state.context.keyring
        keyring._database, database = _Away(), keyring._database
        body = {"name": "ci", "scopes": ["read"]}
        made = service.http.post("/v1/keys", json=body, headers=bearing(admin))
        assert made.status_code == 201
        assert service.http.delete(f"/v1/keys/{made.json()['id']}", headers=bearing(admin)).status_code == 204
        keyring._database = database
        eventually(lambda: "is revoked" in said(service, f"Bearer {made.json()['key']}"))


class _Away:
    def read(self) -> None:
        raise NotReady("It is away.")


def predictable(service: Service) -> httpx.Response:
    service.shelf.version("flat", preprocessing=FittedArray(shape=(4,)))
    return predict(service, None)


def revoke(service: Service, made: NewKey) -> None:
    with service.shelf.database.write() as session:
        keys.revoke(session, DEFAULT_PROJECT, made.id)


@pytest.mark.alone
def test_a_revoked_key_stops_within_two_seconds_on_every_replica(
    start: Callable[..., Any], tmp_path: Path, locked: Service
) -> None:
    made = make(locked.shelf.database)
    url = locked.settings.resolved_database_url
    with start(database_url=url, blobs=locked.settings.resolved_blobs) as replica:
        eventually(lambda: code(locked, made.key) == code(replica, made.key) == 200)
        revoke(locked, made)
        revoked = time.monotonic()
        eventually(lambda: code(locked, made.key) == code(replica, made.key) == 401)
        assert predict(replica, made.key).status_code == 401
    assert time.monotonic() - revoked < 2


@pytest.mark.alone
def test_a_stream_ends_when_its_key_does(locked: Service) -> None:
    made = make(locked.shelf.database, Scope.READ)
    job_id = submit(locked.shelf.database)
    eventually(lambda: code(locked, made.key) == 200)
    path, headers = f"/v1/jobs/{job_id}/events", bearing(made.key) | {"Accept": "text/event-stream"}
    with locked.http.stream("GET", path, headers=headers) as stream:
        lines = stream.iter_lines()
        assert next(line for line in lines if line.startswith("event:")) == "event: submitted"
        revoke(locked, made)
        revoked = time.monotonic()
        assert not [line for line in lines if line.startswith("event:")]
    assert time.monotonic() - revoked < 2


def test_use_is_noted_once_a_minute_and_never_by_a_request(locked: Service) -> None:
    made = make(locked.shelf.database, Scope.READ)
    eventually(lambda: code(locked, made.key) == 200)
    noted = eventually(lambda: last_used(locked, made))
    assert code(locked, made.key) == 200
    looks = locked.server.app.api.state.context.keyring
    eventually(lambda: made.id in looks._used)
    assert last_used(locked, made) == noted


def last_used(service: Service, made: NewKey) -> Any:
    with service.shelf.database.read() as session:
        return session.get_one(keys.KeyRow, made.id).last_used_ms


def test_without_its_keys_the_service_lets_nobody_in(start: Callable[..., Any], tmp_path: Path) -> None:
    with start(home=tmp_path) as bare:
        assert bare.http.get("/healthz").status_code == 200
        answer = bare.http.get("/v1/version")
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert predict(bare, None).status_code == 503


# ── logs ──


def test_no_key_is_in_any_log(
    start: Callable[..., Any], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with start(log_level="debug", access_log=True) as service:
        made, wrong = make(service.shelf.database, Scope.READ), keys._text("Ab12Cd34")
        eventually(lambda: code(service, made.key) == 200 and code(service, wrong) == 401)
        assert predict(service, made.key).status_code == 403
        state = service.server.app.api.state
        context, state.context = state.context, None
        try:
            assert code(service, made.key) == 500
        finally:
            state.context = context
    printed = capfd.readouterr()
    logged = caplog.text + printed.out + printed.err
    assert "unexpected error" in logged
    assert [key for key in (made.key, wrong) if key.split("_")[2] in logged] == []


# ── the whole network ──


def test_the_whole_network_is_served_with_a_key_alone(migrated: Path, tmp_path: Path) -> None:
    (tmp_path / "gammabeta.db").write_bytes(migrated.read_bytes())
    environment = {"PATH": "/usr/bin", "PYTHONPATH": str(ROOT), "GAMMABETA_HOME": str(tmp_path), "GAMMABETA_PORT": "0"}
    program = [sys.executable, "-P", "-m", "service"]
    everywhere = environment | {"GAMMABETA_HOST": "0.0.0.0"}  # noqa: S104 (that is the point)
    done = subprocess.run(program, env=everywhere, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (78, 1)
    command = re.search(r"gammabeta (keys create .+)$", done.stderr.strip())
    assert command is not None
    cli = [sys.executable, "-P", "-m", "gammabeta.cli", *command[1].split()]
    key = subprocess.run(cli, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    with subprocess.Popen(program, env=everywhere, stderr=subprocess.PIPE, text=True) as running:
        try:
            assert running.stderr is not None
            port = next(found[1] for line in running.stderr if (found := re.search(r":(\d+)\b.*CTRL", line)))
            url = f"http://127.0.0.1:{port}/v1/version"
            codes = [httpx.get(url, headers=headers).status_code for headers in ({}, bearing(key))]
        finally:
            running.terminate()
    assert codes == [401, 200]


# ── keys over HTTP ──


def new_key(service: Service, key: str | None, body: Any, **headers: str) -> httpx.Response:
    return service.http.post("/v1/keys", json=body, headers=bearing(key) | headers)


def test_an_admin_makes_lists_and_revokes_keys_and_each_counts_at_once(
    start: Callable[..., Any], migrated: Path, tmp_path: Path
) -> None:
    (tmp_path / "gammabeta.db").write_bytes(migrated.read_bytes())
    admin = make(Database(f"sqlite:///{tmp_path / 'gammabeta.db'}"), Scope.ADMIN)
    with start(home=tmp_path) as service:
        answer = new_key(service, admin.key, {"name": "ci", "scopes": ["train", "read"], "expires": "1d"})
        assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
        made = NewKey.model_validate(answer.json())
        assert code(service, made.key) == 200
        listed = service.http.get("/v1/keys", headers=bearing(admin.key))
        assert [each["id"] for each in listed.json()["data"]] == [made.id, admin.id]
        assert "key" not in listed.json()["data"][0]
        ended = service.http.delete(f"/v1/keys/{made.id}", headers=bearing(admin.key))
        assert (ended.status_code, code(service, made.key)) == (204, 401)
        missing = service.http.delete("/v1/keys/key_nothing", headers=bearing(admin.key))
        assert (missing.status_code, missing.json()["code"]) == (404, "key_not_found")


def test_a_repeated_request_makes_one_key_and_nothing_keeps_it(locked: Service, by_scope: dict[str, str]) -> None:
    body = {"name": "once", "scopes": ["read"]}
    first, second = (new_key(locked, by_scope["admin"], body, **{"Idempotency-Key": "k1"}) for _ in range(2))
    assert (first.json()["id"], second.json()["key"]) == (second.json()["id"], None)
    secret = first.json()["key"].split("_")[2].encode()
    files = [path.read_bytes() for path in locked.settings.home.rglob("gammabeta.db*")]
    assert any(b"key_" in each for each in files)
    assert not any(secret in each for each in files)
    other = new_key(locked, by_scope["admin"], body | {"name": "other"}, **{"Idempotency-Key": "k1"})
    assert other.json()["code"] == "idempotency_conflict"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": "a", "scopes": []}, "scopes"),
        ({"name": "a", "scopes": ["root"]}, "scopes[0]"),
        ({"name": "a", "scopes": ["read"], "expires": "soon"}, "expires"),
        ({"name": "a", "scopes": ["read"], "project": "other"}, "project"),
    ],
)
def test_what_is_wrong_with_a_key_is_named(
    locked: Service, by_scope: dict[str, str], body: dict[str, Any], field: str
) -> None:
    answer = new_key(locked, by_scope["admin"], body)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)


def test_the_client_speaks_with_a_key(locked: Service, by_scope: dict[str, str], monkeypatch: Any) -> None:
    with Client(locked.url) as client, pytest.raises(Unauthorized, match="GAMMABETA_API_KEY"):
        client.jobs.list()
    monkeypatch.setenv("GAMMABETA_API_KEY", by_scope["admin"])
    with Client(locked.url) as client:
        with pytest.raises(Forbidden, match="scope read"):
            client.jobs.list()
        made = client.keys.create("ci", ["read"], expires="12h", owner="team-a")
        assert (made.owner, made.scopes) == ("team-a", (Scope.READ,))
        assert made.id in [key.id for key in client.keys.list()]
        with Client(locked.url, api_key=made.key) as reader:
            assert reader.jobs.list() is not None
            client.keys.revoke(made.id)
            with pytest.raises(Unauthorized, match="revoked"):
                reader.jobs.list()
        with pytest.raises(KeyNotFound):
            client.keys.revoke("key_nothing")
