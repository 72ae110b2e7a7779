"""Bringing a database to the schema of this version, and telling whether it has it."""

from __future__ import annotations

from pathlib import Path

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from alembic import command
from gammabeta.store.engine import Database


def upgrade(url: str, *, to: str = "head") -> None:
    """Run the migrations that are missing up to `to`, all in one transaction; with none missing, nothing happens.
    Programs that do so at the same time wait for each other.

    Raises:
        NotReady: the database cannot be reached.
    """
    database = Database(url)
    try:
        config = _config()
        with database.connection() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, to)
    finally:
        database.dispose()


def pending(db: Database) -> bool:
    """Whether the schema of the database is not the one of this version."""
    return current(db) != head()


def current(db: Database) -> str | None:
    """The newest migration that ran. None: none did."""
    with db.read() as session:
        return MigrationContext.configure(session.connection()).get_current_revision()


def head() -> str | None:
    """The newest migration that there is."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_scripts()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _scripts() -> Path:
    """In an installed gammabeta the scripts lie in the package, in a checkout at its root."""
    packaged = Path(__file__).with_name("migrations")
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "alembic"
