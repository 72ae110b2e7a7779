"""Bringing a database to the schema of this version, and telling whether this version may use it.

    the schema is   older             of this version   newer, serves this version   newer, does not
    standing        OLDER             CURRENT           NEWER                        TOO_NEW
    programs        refuse: upgrade   work              work: a rolling upgrade      refuse: install the new version

A version is known by the newest migration that comes with it. Each migration writes into `served_programs` which
versions may go on beside the schema that it makes: those whose statements mean the same there.
"""

from __future__ import annotations

from enum import Enum
from functools import cache
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, select, text

from alembic import command
from gammabeta.errors import NotReady
from gammabeta.store.engine import Database
from gammabeta.store.tables import ServedRow


class Standing(Enum):
    """How the schema of a database stands to the one of this version."""

    OLDER = "older"
    CURRENT = "current"
    NEWER = "newer"
    TOO_NEW = "too new"


def upgrade(url: str, *, to: str = "head") -> None:
    """Run the migrations that are missing up to `to`, all in one transaction; with none missing, nothing happens.
    Programs that do so at the same time wait for each other.

    Raises:
        NotReady: the database cannot be reached, or its schema is newer and does not serve this version.
    """
    database = Database(url)
    try:
        match standing(database):
            case Standing.NEWER:
                return
            case Standing.TOO_NEW:
                raise NotReady(_too_new(current(database)))
        config = _config()
        with database.connection() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, to)
    finally:
        database.dispose()


def downgrade(url: str, *, to: str) -> None:
    """Go back to an older schema, all in one transaction. What has no room there is never dropped in silence.

    Raises:
        NotReady: the database cannot be reached, or its schema is newer than those of this version.
        ValueError: it has no such schema behind it.
        RuntimeError: there is no way back without a loss. Nothing has changed.
    """
    database = Database(url)
    try:
        _check_way_back(current(database), to)
        config = _config()
        with database.connection() as connection:
            config.attributes["connection"] = connection
            command.downgrade(config, to)
    finally:
        database.dispose()


def _check_way_back(revision: str | None, to: str) -> None:
    if revision is not None and revision not in _known():
        raise NotReady(
            f"The database has the newer schema {revision}, which only the version that made it can leave. Run the "
            "command of that version."
        )
    behind = [] if revision is None else [*_scripts().iterate_revisions(revision, "base")]
    names = [each.revision for each in behind]
    if to not in (*names, "base"):
        raise ValueError(
            f"The schema to go back to must be {', '.join(names) or 'one that the database has behind it'}. "
            f"Received: {to}."
        )


def complaint(db: Database) -> str | None:
    """Why this version must not use the database as it is. None: it may.

    Raises:
        NotReady: the database cannot be reached.
    """
    match standing(db):
        case Standing.OLDER:
            return (
                f"The database is not up to date: this version needs the schema {head()}. Received: "
                f"{current(db) or 'none'}. Run `gammabeta db upgrade`, or `gammabeta up`, which does."
            )
        case Standing.TOO_NEW:
            return _too_new(current(db))
    return None


def _too_new(revision: str | None) -> str:
    return (
        f"The database must serve this version, whose schema is {head()}. Received: the newer schema {revision}, which "
        "does not. Install the version that upgraded the database."
    )


def standing(db: Database) -> Standing:
    """How the schema stands to the one of this version.

    Raises:
        NotReady: the database cannot be reached.
    """
    with db.read() as session:
        connection = session.connection()
        revision = _revision(connection)
        if revision == head():
            return Standing.CURRENT
        if revision is None or revision in _known():
            return Standing.OLDER
        return Standing.NEWER if _serves_this_version(connection) else Standing.TOO_NEW


def current(db: Database) -> str | None:
    """The newest migration that ran. None: none did."""
    with db.read() as session:
        return _revision(session.connection())


def _revision(connection: Connection) -> str | None:
    # Not by Alembic's MigrationContext, which says two lines in the log each time: programs ask every few seconds.
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


def _serves_this_version(connection: Connection) -> bool:
    if not inspect(connection).has_table(ServedRow.__tablename__):  # not a database of gammabeta
        return False
    return connection.scalar(select(ServedRow.head).where(ServedRow.head == head())) is not None


@cache
def head() -> str | None:
    """The newest migration that there is."""
    return _scripts().get_current_head()


@cache
def _known() -> frozenset[str]:
    return frozenset(each.revision for each in _scripts().walk_revisions())


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _folder() -> Path:
    """In an installed gammabeta the scripts lie in the package, in a checkout at its root."""
    packaged = Path(__file__).with_name("migrations")
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "alembic"
