"""A migrated database is what the tables say, on both kinds."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, select, text

from gammabeta.errors import NoSpace, NotReady
from gammabeta.store import migrations
from gammabeta.store.engine import Database
from gammabeta.store.tables import ProjectRow, Table, now_ms
from tests.integration.databases import Databases

SCHEMA = {
    "sqlite": ["SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL"],
    "postgresql": [
        "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns "
        "WHERE table_schema = 'public'",
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE connamespace = 'public'::regnamespace",
        "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    ],
}


def schema(connection: Connection) -> set[tuple[str, ...]]:
    """Every column, constraint and index as the database describes it, but for Alembic's own."""
    rows = [row for query in SCHEMA[connection.dialect.name] for row in connection.execute(text(query))]
    described = {tuple(_normal(str(cell)) for cell in row) for row in rows}
    return {row for row in described if "alembic_version" not in row and "alembic_version_pkc" not in row}


def _normal(cell: str) -> str:
    """SQLite keeps the text of a statement, in which the order of constraints means nothing."""
    lines = (line.strip().rstrip(",") for line in cell.replace("(", "(\n", 1).splitlines())
    return " ".join(sorted(line for line in lines if line)) if cell.startswith("CREATE TABLE") else cell


@pytest.fixture
def empty(kind: str, databases: Databases, tmp_path: Path) -> str:
    return databases.empty(kind, tmp_path)


def test_migrations_make_what_the_tables_declare(kind: str, empty: str, databases: Databases, tmp_path: Path) -> None:
    migrations.upgrade(empty)
    (tmp_path / "declared").mkdir()
    migrated, created = Database(empty), Database(databases.empty(kind, tmp_path / "declared"))
    with migrated.connection() as one, created.connection() as other:
        Table.metadata.create_all(other)
        found, declared = schema(one), schema(other)
    migrated.dispose()
    created.dispose()
    assert found == declared
    assert len(declared) >= 20


def test_an_empty_database_has_migrations_pending_until_it_is_upgraded(empty: str) -> None:
    database = Database(empty)
    assert migrations.pending(database)
    migrations.upgrade(empty)
    assert not migrations.pending(database)
    migrations.upgrade(empty)
    assert migrations.current(database) == migrations.head() == "0001"
    database.dispose()


def test_programs_that_upgrade_at_the_same_time_do_it_once(empty: str) -> None:
    program = "import sys; from gammabeta.store import migrations; migrations.upgrade(sys.argv[1])"
    started = [subprocess.Popen([sys.executable, "-c", program, empty]) for _ in range(2)]
    assert [each.wait(timeout=60) for each in started] == [0, 0]
    database = Database(empty)
    assert not migrations.pending(database)
    database.dispose()


def test_there_is_a_project_and_a_clock(empty: str) -> None:
    migrations.upgrade(empty)
    database = Database(empty)
    with database.read() as session:
        assert session.scalars(select(ProjectRow.id)).all() == ["default"]
        now = session.scalar(select(now_ms()))
    database.dispose()
    assert now is not None
    assert abs(now - time.time() * 1_000) < 60_000


def test_a_reading_session_cannot_write(url: str) -> None:
    database = Database(url)
    with pytest.raises(Exception, match=r"read-?only"), database.read() as session:
        session.execute(text("UPDATE projects SET revision = 7"))
    with database.write() as session:
        session.execute(text("UPDATE projects SET revision = revision + 1"))
    database.dispose()


def test_a_database_that_cannot_be_reached_is_not_ready(tmp_path: Path) -> None:
    for address in (f"postgresql://nobody@/none?host={tmp_path}", f"sqlite:///{tmp_path}"):
        database = Database(address)
        with pytest.raises(NotReady), database.read() as session:
            session.execute(text("SELECT 1"))


def test_a_database_that_is_locked_for_too_long_is_not_ready(
    databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gammabeta.store.engine.BUSY_MS", 50)
    address = databases.migrated("sqlite", tmp_path)
    one, two = Database(address), Database(address)
    with one.write() as holder:
        holder.execute(text("SELECT 1"))
        with pytest.raises(NotReady), two.write() as session:
            session.execute(text("SELECT 1"))
    one.dispose()
    two.dispose()


@pytest.mark.parametrize("address", ["sqlite://", "sqlite:///:memory:", "mysql://u@h/d", "nonsense", ""])
def test_an_address_that_is_no_database_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="GAMMABETA_DATABASE_URL"):
        Database(address)


def test_the_refusal_of_an_address_hides_its_password() -> None:
    with pytest.raises(ValueError, match="mysql") as refusal:
        Database("mysql://user:secret@host/name")
    assert "secret" not in str(refusal.value)


def test_a_full_disk_is_no_space(databases: Databases, tmp_path: Path) -> None:
    database = Database(databases.migrated("sqlite", tmp_path))
    with pytest.raises(NoSpace), database.write() as session:  # noqa: PT012
        session.execute(text("PRAGMA max_page_count = 1"))
        for number in range(200):
            session.execute(text("INSERT INTO projects VALUES (:id, :id, 0, 0)"), {"id": f"{number}".rjust(4_000, "x")})
    database.dispose()


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_a_connection_that_is_cut_is_not_ready_and_the_next_transaction_has_another(url: str) -> None:
    database = Database(url)
    with pytest.raises(NotReady), database.write() as session:
        session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    with database.read() as session:
        idle = session.scalar(text("SELECT pg_backend_pid()"))
    with psycopg.connect(url) as admin:
        admin.execute("SELECT pg_terminate_backend(%s, 5000)", [idle])
    with database.write() as session:
        assert session.scalar(text("SELECT 1")) == 1
    database.dispose()
