"""Alembic's entry: runs the migrations on the connection that `gammabeta.store.migrations` hands over, or, started by
the `alembic` command, on the database of the settings."""

from sqlalchemy import Connection, text

from alembic import context
from gammabeta.store.engine import Database
from gammabeta.store.settings import StoreSettings
from gammabeta.store.tables import Table

LOCK = 0x67616D6D61
"""PostgreSQL's advisory lock of whoever migrates; SQLite's BEGIN IMMEDIATE is one already."""


def run(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
    context.configure(
        connection=connection, target_metadata=Table.metadata, render_as_batch=True, transactional_ddl=True
    )
    with context.begin_transaction():
        context.run_migrations()


def main() -> None:
    if context.is_offline_mode():
        raise SystemExit("Migrations run on a database. Leave --sql out.")
    given = context.config.attributes.get("connection")
    if given is not None:
        run(given)
        return
    database = Database(StoreSettings().resolved_database_url)
    with database.connection() as connection:
        run(connection)
    database.dispose()


main()
