"""The queue's claim and its publish in plain SQL over the plain drivers, to measure the store by: the same guards, no
events, a row of six columns for what is published.

    job ──claim──► running ──publish──► succeeded, version
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, Protocol

import psycopg

NOW = {
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
    "postgresql": "(extract(epoch from statement_timestamp()) * 1000)::bigint",
}
SCHEMA = (
    "CREATE TABLE job (id text PRIMARY KEY, state text NOT NULL, lane text NOT NULL, devices bigint NOT NULL, "
    "priority bigint NOT NULL, created_ms bigint NOT NULL, run_after_ms bigint NOT NULL, fence bigint NOT NULL, "
    "worker_id text, lease_until_ms bigint, cancel_requested_ms bigint, finished_ms bigint, reason text)",
    "CREATE INDEX job_ready ON job (lane, priority DESC, created_ms, id) WHERE state = 'queued'",
    "CREATE INDEX job_lease ON job (lease_until_ms) WHERE state = 'running'",
    "CREATE TABLE model (name text PRIMARY KEY, last_version bigint NOT NULL)",
    "CREATE TABLE version (model text, number bigint, job_id text UNIQUE, fence bigint, weights text, digest text)",
    "INSERT INTO model VALUES ('toy', 0)",
)
READY = "state = 'queued' AND run_after_ms <= NOW AND lane = 'train' AND devices <= 1"
TAKE = "UPDATE job SET state = 'running', fence = fence + 1, worker_id = ?, lease_until_ms = NOW + 30000, reason = NULL"
FIRST = f"SELECT id FROM job WHERE {READY} ORDER BY priority DESC, created_ms, id LIMIT 1"  # noqa: S608
CLAIM = {
    "sqlite": f"{TAKE} WHERE id = ({FIRST}) AND state = 'queued' RETURNING id, fence",
    "postgresql": f"WITH c AS MATERIALIZED ({FIRST} FOR UPDATE SKIP LOCKED) "
    f"{TAKE.replace('fence + 1', 'job.fence + 1')} FROM c WHERE job.id = c.id RETURNING job.id, job.fence",
}
FINISH = (
    "UPDATE job SET state = 'succeeded', finished_ms = NOW, worker_id = NULL, lease_until_ms = NULL "
    "WHERE id = ? AND fence = ? AND state = 'running' AND cancel_requested_ms IS NULL RETURNING id"
)
RAISE = "UPDATE model SET last_version = last_version + 1 WHERE name = 'toy' RETURNING last_version"
PUBLISH = "INSERT INTO version VALUES ('toy', ?, ?, ?, ?, ?)"


class Execute(Protocol):
    """The first row of a statement, or None."""

    def __call__(self, statement: str, *values: Any) -> Any: ...


def fill(kind: str, url: str, n: int) -> None:
    """A new queue of so many jobs."""
    with _connected(kind, url) as execute:
        execute("BEGIN")
        for statement in SCHEMA:
            execute(statement)
        for number in range(n):
            execute(
                "INSERT INTO job (id, state, lane, devices, priority, created_ms, run_after_ms, fence) "
                "VALUES (?, 'queued', 'train', 1, 0, 0, 0, 0)",
                f"job_{number:026}",
            )
        execute("COMMIT")


def drain(kind: str, url: str, worker: str) -> Iterator[tuple[str, int]]:
    """Claim and publish until there is nothing left: the attempts."""
    with _connected(kind, url) as execute:
        while claim := _claim(kind, execute, worker):
            job_id, fence = claim
            _publish(kind, execute, job_id, fence)
            yield job_id, fence


def _publish(kind: str, execute: Execute, job_id: str, fence: int) -> None:
    execute("BEGIN IMMEDIATE" if kind == "sqlite" else "BEGIN")
    if execute(FINISH, job_id, fence) is not None:
        (number,) = execute(RAISE)
        execute(PUBLISH, number, job_id, fence, "ab" * 32, "sha256:" + "cd" * 32)
    execute("COMMIT")


def _claim(kind: str, execute: Execute, worker: str) -> Any:
    execute("BEGIN IMMEDIATE" if kind == "sqlite" else "BEGIN")
    found = execute(CLAIM[kind], worker)
    execute("COMMIT")
    return found


@contextmanager
def _connected(kind: str, url: str) -> Iterator[Execute]:
    opened: Any = _sqlite(url) if kind == "sqlite" else psycopg.connect(url, autocommit=True)
    with closing(opened) as connection:

        def execute(statement: str, *values: Any) -> Any:
            text = statement.replace("NOW", NOW[kind])
            cursor = connection.execute(text if kind == "sqlite" else text.replace("?", "%s"), values)
            return cursor.fetchone() if cursor.description else None

        yield execute


def _sqlite(url: str) -> sqlite3.Connection:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), timeout=10, isolation_level=None)
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")
    return connection
