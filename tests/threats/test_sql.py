"""Row 18: SQL in every text that reaches a query. SQLAlchemy binds them all; whoever puts one into a statement as text
fails S608 of the linter, and these."""

from __future__ import annotations

import ast
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text

from gammabeta.errors import GammabetaError
from gammabeta.store import datasets, jobs, keys, listing, models
from gammabeta.store.engine import Database
from gammabeta.store.tables import DEFAULT_PROJECT
from tests.integration.databases import clock, cluster, databases, db, kind, url
from tests.integration.samples import submit
from tests.test_architecture import MODULES
from tests.threats.conftest import Stocked

__all__ = ["clock", "cluster", "databases", "db", "kind", "url"]

PAYLOADS = [
    "' OR '1'='1", "' OR 1=1--", "' OR 1=1#", "') OR ('1'='1", "')) OR (('1'='1--", '" OR ""="', '" OR 1=1--',
    "1 OR 1=1", "1; DROP TABLE jobs", "'; DROP TABLE jobs;--", "'; DELETE FROM models;--", "'; UPDATE api_keys SET "
    "scopes='[\"admin\"]';--", "' UNION SELECT secret_sha256 FROM api_keys--", "' UNION SELECT NULL,NULL,NULL--",
    "' AND (SELECT 1 FROM (SELECT SLEEP(5))a)--", "'; SELECT pg_sleep(5);--", "' || pg_sleep(5) || '",
    "' AND 1=CAST((SELECT version()) AS int)--", "'; COPY jobs TO PROGRAM 'id';--", "'; ATTACH DATABASE '/x' AS x;--",
    "' AND load_extension('x')--", "\\'; DROP TABLE jobs;--", "%27%20OR%201=1--", "admin'--", "admin'/*", "*/ OR 1=1",
    "%", "_", "%%", "$$", "$1", ":name", "?", "?1", "@x", "{0}", "%s", "%(name)s", "\\", "\\\\", "'", "''", '"', "`",
    "\u02bc OR 1=1", "\uff07 OR 1=1--", "null", "\x1a", "0x27", "CHAR(39)", "1e309", "-1", "a' COLLATE NOCASE--",
]  # fmt: skip
TABLES = ["jobs", "datasets", "models", "versions", "api_keys", "projects"]


def test_the_payloads_work_where_text_is_put_into_statements() -> None:
    """Else the tests below would prove nothing."""
    database = sqlite3.connect(":memory:")
    database.executescript("create table t (name text); insert into t values ('secret')")
    asked = f"select * from t where name = '{PAYLOADS[0]}'"  # noqa: S608
    assert database.execute(asked).fetchall() == [("secret",)]


QUERIES = [
    ("GET", "/v1/jobs", "model", "data"),
    ("GET", "/v1/jobs", "kind", "data"),
    ("GET", "/v1/jobs", "status", "data"),
    ("GET", "/v1/jobs", "order", "data"),
    ("GET", "/v1/jobs", "metadata[team]", "data"),
    ("GET", "/v1/models", "order", "data"),
    ("GET", "/v1/datasets", "order", "data"),
    ("POST", "/v1/datasets?format=csv&split=test", "of", "id"),
]
PATHS = [
    ("GET", "/v1/jobs/{}"),
    ("POST", "/v1/jobs/{}/cancel"),
    ("GET", "/v1/datasets/{}"),
    ("DELETE", "/v1/datasets/{}"),
    ("GET", "/v1/models/{}"),
    ("DELETE", "/v1/models/income/aliases/{}"),
    ("DELETE", "/v1/keys/{}"),
    ("GET", "/v2/models/{}/versions/1"),
]


@pytest.mark.parametrize(("method", "path", "name", "found"), QUERIES)
def test_sql_in_a_parameter_finds_nothing(stocked: Stocked, method: str, path: str, name: str, found: str) -> None:
    for payload in PAYLOADS:
        answer = stocked.ask(method, path, params={name: payload}, content=b"a,y\n1,2\n" if method == "POST" else None)
        assert answer.status_code in (200, 404, 422), f"{payload}: {answer.text[:200]}"
        assert answer.status_code != 200 or answer.json()[found] == []


@pytest.mark.parametrize("payload", PAYLOADS)
def test_sql_in_the_name_of_a_label_finds_nothing(stocked: Stocked, payload: str) -> None:
    answer = stocked.ask("GET", "/v1/jobs", params={f"metadata[{payload}]": "a"})
    assert answer.status_code in (200, 422)
    assert answer.status_code == 422 or answer.json()["data"] == []


def _encoded(payload: str) -> str:
    return "".join(f"%{each:02x}" for each in payload.encode())


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_sql_in_a_path_finds_nothing(stocked: Stocked, method: str, path: str) -> None:
    for payload in PAYLOADS:
        assert stocked.ask(method, path.format(_encoded(payload))).status_code in (400, 404, 405, 422), payload


def test_after_all_that_the_tables_are_as_they_were(stocked: Stocked) -> None:
    path = stocked.service.settings.home / "gammabeta.db"
    with sqlite3.connect(path) as database:
        before = _counts(database)
        for payload in PAYLOADS:
            stocked.ask("GET", "/v1/jobs", params={"model": payload, "after": payload})
            stocked.ask("POST", "/v1/jobs", json={"dataset": payload, "model": "m", "network": {"preset": "mlp"}})
            stocked.ask("DELETE", f"/v1/keys/{_encoded(payload)}")
        assert _counts(database) == before
    assert min(before.values()) >= 1


def _counts(database: sqlite3.Connection) -> dict[str, int]:
    names = {name for (name,) in database.execute("select name from sqlite_master where type = 'table'")}
    return {name: database.execute(f"select count(*) from {name}").fetchone()[0] for name in sorted(names & {*TABLES})}  # noqa: S608


def test_the_store_finds_nothing_by_sql_on_either_database(db: Database) -> None:
    """Beneath the checks of names that the service makes."""
    job = submit(db, model="digits", metadata={"team": "a"})
    asked: list[Callable[[Any, str], Any]] = [
        lambda session, given: listing.find(session, DEFAULT_PROJECT, model=given),
        lambda session, given: listing.find(session, DEFAULT_PROJECT, kind=given),
        lambda session, given: listing.find(session, DEFAULT_PROJECT, metadata={"team": given}),
        lambda session, given: listing.find(session, DEFAULT_PROJECT, metadata={given: "a"}),
        listing.find,
        lambda session, given: [jobs.get(session, DEFAULT_PROJECT, given)],
        lambda session, given: [datasets.get(session, DEFAULT_PROJECT, given)],
        lambda session, given: [models.get_model(session, DEFAULT_PROJECT, given)],
        lambda session, given: [keys.revoke(session, DEFAULT_PROJECT, given)],
    ]
    for payload in PAYLOADS:
        for ask in asked:
            with db.write() as session:
                assert _found(ask, session, payload) == []
    with db.read() as session:
        assert [row.id for row in listing.find(session, DEFAULT_PROJECT, metadata={"team": "a"})] == [job]
        assert session.scalar(text("select count(*) from jobs")) == 1


def _found(ask: Any, session: Any, payload: str) -> list[Any]:
    try:
        return list(ask(session, payload))
    except GammabetaError:  # there is no such thing, or it cannot be asked for
        return []


@pytest.mark.parametrize("module", [each for each in MODULES if ".store" in each])
def test_no_statement_is_put_together_as_text(module: str) -> None:
    """What is text has nothing in it but itself."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("text", "sqlalchemy.text", "sa.text"):
            assert isinstance(node.args[0], ast.Constant), f"{module}:{node.lineno}: {ast.unparse(node)}"
