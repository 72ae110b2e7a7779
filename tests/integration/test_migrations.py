"""A migrated database is what the tables say, on both kinds."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, MetaData, select, text

from gammabeta.errors import NoSpace, NotReady
from gammabeta.schemas.batchnorm import ARRAYS, BatchNormState, to_bytes
from gammabeta.schemas.networks import LayersNetwork
from gammabeta.store import migrations, models
from gammabeta.store.engine import Database
from gammabeta.store.migrations import Standing
from gammabeta.store.tables import DEFAULT_PROJECT, RETIRED, JobRow, ProjectRow, Table, now_ms
from tests.integration.databases import Databases
from tests.integration.samples import layer

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
    """SQLite keeps the text of a statement, in which the order of columns and constraints means nothing, nor do the
    quotes that it writes after a change."""
    if not cell.startswith("CREATE TABLE"):
        return cell
    head, _, body = cell.replace('"', "").partition("(")
    parts = re.split(r",(?![^(]*\))", body.rstrip().removesuffix(")"))
    return " ".join([head.strip(), *sorted(" ".join(part.split()) for part in parts)])


@pytest.fixture
def empty(kind: str, databases: Databases, tmp_path: Path) -> str:
    return databases.empty(kind, tmp_path)


def test_migrations_make_what_the_tables_declare(kind: str, empty: str, databases: Databases, tmp_path: Path) -> None:
    migrations.upgrade(empty)
    (tmp_path / "declared").mkdir()
    migrated, created = Database(empty), Database(databases.empty(kind, tmp_path / "declared"))
    with migrated.connection() as one, created.connection() as other:
        Table.metadata.create_all(other)
        for table, columns in RETIRED.items():
            for name, kind_of in columns.items():
                other.execute(text(f"ALTER TABLE {table} ADD COLUMN {name} {kind_of.compile(other.dialect)}"))
        found, declared = schema(one), schema(other)
    migrated.dispose()
    created.dispose()
    assert found == declared
    assert len(declared) >= 20


def test_an_empty_database_is_an_older_one_until_it_is_upgraded(empty: str) -> None:
    database = Database(empty)
    assert migrations.standing(database) is Standing.OLDER
    migrations.upgrade(empty)
    assert migrations.standing(database) is Standing.CURRENT
    migrations.upgrade(empty)
    assert migrations.current(database) == migrations.head() == "0005"
    database.dispose()


def test_a_database_of_the_first_schema_keeps_its_versions(empty: str) -> None:
    state = BatchNormState((layer(axis=3, channels=3, updates=40, momentum=0.9),))
    migrations.upgrade(empty, to="0001")
    database = Database(empty)
    with database.connection() as connection:
        _fill_first_schema(connection, state, momenta=[0.9, 0.5])
    migrations.upgrade(empty)
    with database.read() as session:
        for number, momentum in (("1", 0.9), ("2", 0.5)):
            row = models.get_version(session, DEFAULT_PROJECT, "digits", number)
            answer = models.state_schema(models.version_schema(row), models.batchnorm_state(session, row))
            (shown,) = answer.layers
            assert (answer.digest, shown.axis, shown.momentum) == (state.digest, 3, momentum)
            assert (shown.updates, shown.skipped, shown.variance_estimator) == (40, 0, "unbiased")
            assert list(shown.arguments["gamma_initializer"]["config"].items()) == [("mean", 1.0), ("stddev", 0.5)]
            job = session.get_one(JobRow, f"job_{number}")
            assert LayersNetwork.model_validate(job.request["network"]) == models.version_schema(row).network
        assert models.get_version(session, DEFAULT_PROJECT, "digits").number == 1
        if database.dialect == "sqlite":
            assert session.execute(text("PRAGMA foreign_key_check")).all() == []
    database.dispose()


def _fill_first_schema(connection: Connection, state: BatchNormState, *, momenta: list[float]) -> None:
    """A model whose versions have one state and each a momentum of its own; the first is in production."""
    stored = MetaData()
    stored.reflect(connection)

    def insert(table: str, **values: Any) -> None:
        connection.execute(stored.tables[table].insert().values(**values))

    insert("batchnorm_states", digest=state.digest, layers=1, updates=40, created_ms=1)
    (only,) = state.layers
    arrays = {key: to_bytes(getattr(only, key)) for key in ARRAYS}
    numbers = {"axis": only.axis, "epsilon": only.epsilon, "momentum": only.momentum, "updates": only.updates}
    insert("batchnorm_layers", digest=state.digest, position=0, name=only.name, channels=3, **numbers, **arrays)
    insert("models", id="mdl_1", project_id="default", name="digits", last_version=2, created_ms=1)
    for number, momentum in enumerate(momenta, start=1):
        insert("jobs", id=f"job_{number}", request={"network": _first_network(momentum)}, **FIRST_JOB)
        version = FIRST_VERSION | {"network": _first_network(momentum), "batchnorm_digest": state.digest}
        insert("versions", model_id="mdl_1", number=number, job_id=f"job_{number}", **version)
    insert("aliases", model_id="mdl_1", alias="production", number=1, updated_ms=1)


FIRST_JOB: dict[str, Any] = {
    "project_id": "default",
    "owner_id": "anonymous",
    "kind": "train",
    "state": "succeeded",
    "lane": "train",
    "devices": 1,
    "priority": 0,
    "created_ms": 1,
    "run_after_ms": 1,
    "finished_ms": 2,
    "fence": 1,
    "failures": 0,
    "losses": 0,
    "max_failures": 1,
    "max_losses": 3,
    "warnings": [],
    "metadata": {},
}
FIRST_VERSION: dict[str, Any] = {
    "fence": 1,
    "dataset_id": "ds_1",
    "preprocessing": {"kind": "image", "shape": [2, 2, 3]},
    "classes": ["no", "yes"],
    "metrics": {},
    "weights_sha256": "ab" * 32,
    "weights_bytes": 1_000,
    "parameters": 30,
    "created_ms": 1,
}


def _first_network(momentum: float) -> dict[str, Any]:
    """As the first release wrote it: initializers in full, and no word of `fused`."""
    numbers = {"value": 0.0, "mean": 0.0, "stddev": 0.05, "minval": -0.05, "maxval": 0.05, "seed": None}
    zeros, ones = {"name": "zeros", **numbers}, {"name": "ones", **numbers}
    norm = {
        "name": "batch_norm",
        "inputs": ["input"],
        "type": "batch_norm",
        "axis": 3,
        "momentum": momentum,
        "epsilon": 0.001,
        "center": True,
        "scale": True,
        "beta_initializer": zeros,
        "gamma_initializer": {**numbers, "name": "random_normal", "mean": 1.0, "stddev": 0.5},
        "moving_mean_initializer": zeros,
        "moving_variance_initializer": ones,
        "trainable": True,
    }
    flatten = {"name": "flatten", "inputs": ["batch_norm"], "type": "flatten"}
    return {
        "layers": [
            norm,
            flatten,
            {"name": "dense", "inputs": ["flatten"], "type": "dense", "units": 2, "use_bias": True},
        ]
    }


def test_programs_that_upgrade_at_the_same_time_do_it_once(empty: str) -> None:
    program = "import sys; from gammabeta.store import migrations; migrations.upgrade(sys.argv[1])"
    started = [subprocess.Popen([sys.executable, "-c", program, empty]) for _ in range(2)]
    assert [each.wait(timeout=60) for each in started] == [0, 0]
    database = Database(empty)
    assert migrations.standing(database) is Standing.CURRENT
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
    with database.write() as session:
        assert session.scalar(text("SELECT 1")) == 1
    database.dispose()


@pytest.mark.parametrize("kind", ["postgresql"])
def test_a_connection_that_was_cut_while_nobody_used_it_is_not_used_again(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gammabeta.store.engine.SILENT_SECONDS", 0)
    database = Database(url)
    with database.read() as session:
        idle = session.scalar(text("SELECT pg_backend_pid()"))
    with psycopg.connect(url) as admin:
        admin.execute("SELECT pg_terminate_backend(%s, 5000)", [idle])
    with database.write() as session:
        assert session.scalar(text("SELECT pg_backend_pid()")) != idle
    database.dispose()
