"""A fresh database of each kind for each test, at the newest schema, with a clock that the test moves."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from gammabeta.store import migrations
from gammabeta.store.engine import Database
from gammabeta.store.tables import Table
from tests.integration.auditor import audit
from tests.postgres import Cluster, running_cluster

KINDS = ("sqlite", "postgresql")


class Clock:
    """The database's clock, in milliseconds. It stands still until it is told to advance."""

    def __init__(self, changed: Callable[[int], None] = lambda _: None) -> None:
        self.ms = 1_800_000_000_000
        self._changed = changed
        changed(self.ms)

    def __call__(self) -> int:
        return self.ms

    def advance(self, ms: int) -> None:
        self.ms += ms
        self._changed(self.ms)


class Databases:
    """Makes databases at the newest schema: on SQLite copies of a file that was migrated once; on PostgreSQL, where a
    copy takes half a second, databases that are wiped and lent again."""

    def __init__(self, folder: Path, cluster: Callable[[], Cluster]) -> None:
        self._folder, self._cluster = folder, cluster
        self._idle: list[str] = []

    def empty(self, kind: str, folder: Path) -> str:
        """The address of a database without a schema."""
        if kind == "sqlite":
            return f"sqlite:///{folder / 'gammabeta.db'}"
        return self._cluster().url(self._cluster().create())

    def migrated(self, kind: str, folder: Path) -> str:
        """The address of a fresh database that nobody takes back. Most tests want the fixture `url` instead."""
        if kind == "sqlite":
            template = self._folder / "gammabeta.db"
            if not template.exists():
                migrations.upgrade(f"sqlite:///{template}")
            shutil.copy(template, folder)
            return f"sqlite:///{folder / template.name}"
        address = self.empty(kind, folder)
        migrations.upgrade(address)
        return address

    @contextmanager
    def lent(self, kind: str, folder: Path) -> Iterator[str]:
        """The address of a fresh database, for as long as the context lasts."""
        address = self._idle.pop() if kind == "postgresql" and self._idle else self.migrated(kind, folder)
        yield address
        if kind == "postgresql":
            _wipe(address)
            self._idle.append(address)


def _wipe(address: str) -> None:
    """Back to what the migrations leave, but for the numbers of events, and whatever a failed test left open."""
    mine = "pid <> pg_backend_pid() AND datname = current_database()"
    with psycopg.connect(address) as connection:
        connection.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {mine}")  # noqa: S608
        connection.execute("DROP TABLE IF EXISTS test_clock")
        for table in reversed(Table.metadata.sorted_tables):
            connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table.name)))
        connection.execute("INSERT INTO projects VALUES ('default', 'default', 0, 0)")
        connection.execute("INSERT INTO served_programs VALUES (%s)", [migrations.head()])


@pytest.fixture(scope="session")
def databases(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Databases:
    return Databases(tmp_path_factory.mktemp("templates"), lambda: request.getfixturevalue("cluster"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Started when the first test asks for PostgreSQL."""
    with running_cluster() as started:
        yield started


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def url(kind: str, databases: Databases, tmp_path: Path) -> Iterator[str]:
    with databases.lent(kind, tmp_path) as address:
        yield address


@contextmanager
def virtual_clock(kind: str, url: str) -> Iterator[Clock]:
    """On PostgreSQL `now_ms()` is replaced by one that reads a table. On SQLite it is for `Database(…, clock=…)`."""
    if kind == "sqlite":
        yield Clock()
        return
    with psycopg.connect(url, autocommit=True) as connection:

        def set_to(ms: int) -> None:
            connection.execute("UPDATE test_clock SET ms = %s", [ms])

        (real,) = connection.execute("SELECT pg_get_functiondef('now_ms'::regproc)").fetchone() or ("",)
        connection.execute("CREATE TABLE test_clock AS SELECT 0::bigint AS ms")
        connection.execute(
            "CREATE OR REPLACE FUNCTION now_ms() RETURNS bigint LANGUAGE sql STABLE AS $$ SELECT ms FROM test_clock $$"
        )
        yield Clock(set_to)
        connection.execute(real)


@pytest.fixture
def clock(kind: str, url: str) -> Iterator[Clock]:
    with virtual_clock(kind, url) as made:
        yield made


@pytest.fixture
def db(kind: str, url: str, clock: Clock) -> Iterator[Database]:
    """The database under the virtual clock; its invariants are checked when the test has ended."""
    database = Database(url, clock=clock if kind == "sqlite" else None)
    yield database
    with database.read() as session:
        broken = audit(session)
    database.dispose()
    assert broken == []
