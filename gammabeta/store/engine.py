"""The database as both programs use it.

    with db.read() as session: …     writes are refused
    with db.write() as session: …    one transaction: committed at the end, rolled back on an error

SQLite: WAL and synchronous=FULL; one writing connection whose transactions begin IMMEDIATE (a transaction that reads
first and then wants to write would be refused at once, whatever the timeout), and reading connections beside it.
PostgreSQL: psycopg at READ COMMITTED, where each statement sees what was committed when it began. What the database
refuses for lack of space, of room or of a connection leaves here as an error of gammabeta.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import orjson
import psycopg
import sqlalchemy as sa
from sqlalchemy import Connection, Engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from gammabeta.errors import GammabetaError, NoSpace, NotReady
from gammabeta.store import filesystems

__all__ = ["Database", "Session"]

BUSY_MS = 10_000
TURN_MS = 8
STATEMENT_MS = 30_000
"""How long PostgreSQL may work on a statement, locks included."""
IDLE_MS = 15_000
"""How long a transaction may stand still on PostgreSQL, which then ends it: a program that was frozen in the middle of
one holds locks that others wait for, such as those that reap what it had."""
SILENT_SECONDS = 1.0
"""After how long without use a connection to PostgreSQL is asked whether it lives, before it is used again."""
_SQLITE_NOT_READY = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_CANTOPEN", "SQLITE_PROTOCOL", "SQLITE_IOERR")


class Database:
    """The engines of one database; safe to use from many threads. `clock` (milliseconds, SQLite only) stands in for
    the database's clock, `filesystem` for what the kernel says of where its file lies.

    Raises:
        ValueError: the address is of no database that can be used, or SQLite's file would lie on a network.
    """

    def __init__(
        self, url: str, *, clock: Callable[[], int] | None = None, filesystem: filesystems.Kind = filesystems.kind
    ) -> None:
        self.url = url
        parsed = _checked(url)
        if file := file_of(url):
            file.parent.mkdir(parents=True, exist_ok=True)
            filesystems.check(file, filesystem)
            self._writer = _sqlite(parsed, writes=True, clock=clock or _system_clock)
            self._reader = _sqlite(parsed, writes=False, clock=clock or _system_clock)
        else:
            self._writer = _postgresql(parsed)
            self._reader = self._writer.execution_options(postgresql_readonly=True)

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._writer.dialect.name

    @property
    def connections(self) -> int:
        """Those that are in use."""
        pools = {id(each.pool): each.pool for each in (self._reader, self._writer)}  # on PostgreSQL they share one
        return sum(each.checkedout() for each in pools.values() if isinstance(each, sa.QueuePool))

    @contextmanager
    def read(self, *, snapshot: bool = False) -> Iterator[Session]:
        """A transaction that reads. `snapshot`: all of its statements see the same moment, as on SQLite they always do.

        Raises:
            NotReady: the database cannot be reached.
        """
        engine = self._reader
        if snapshot and self.dialect == "postgresql":
            engine = engine.execution_options(isolation_level="REPEATABLE READ")
        with _translated(), Session(engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that writes.

        Raises:
            NotReady: the database cannot be reached, or is locked for too long; nothing was written, unless the
                connection broke during the commit.
            NoSpace: its disk is full; nothing was written.
        """
        with _translated(), Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A writing transaction without a session, for migrations."""
        with _translated(), self._writer.begin() as connection:
            if self.dialect == "postgresql":
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")  # a migration may rewrite a table
                connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
            yield connection

    @contextmanager
    def listening(self, channel: str) -> Iterator[Callable[[float], Iterable[str]]]:
        """PostgreSQL only. What is notified on the channel from now on: called with seconds, it gives the payloads that
        have come, and waits so long for the first. By a connection of its own beside the pool.

        Raises:
            NotReady: the database cannot be reached, or cannot be any more.
        """
        with _translated(), self._writer.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            raw = cast(psycopg.Connection[Any], connection.connection.driver_connection)
            connection.detach()
            connection.exec_driver_sql(f"LISTEN {channel}")
            try:
                yield lambda seconds: (each.payload for each in raw.notifies(timeout=seconds, stop_after=1))
            except psycopg.OperationalError as exc:
                raise NotReady("The connection for hints was lost.") from exc

    def dispose(self) -> None:
        """Close all connections."""
        self._reader.dispose()
        self._writer.dispose()


def file_of(url: str) -> Path | None:
    """Where the file of a SQLite database lies, which may not be there. None: the address is of another database.

    Raises:
        ValueError: it is of none that can be used.
    """
    parsed = _checked(url)
    return Path(parsed.database or "").absolute() if parsed.get_backend_name() == "sqlite" else None


def _checked(url: str) -> sa.URL:
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except sa.exc.ArgumentError:
        backend = ""
    if backend in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if backend == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed.set(drivername="sqlite+pysqlite")
    shown = parsed.render_as_string() if backend else "something that is no address"
    raise ValueError(
        "The database must be sqlite:///PATH of a file, or postgresql://USER:PASSWORD@HOST/NAME. "
        f"Received: {shown}. Set GAMMABETA_DATABASE_URL."
    )


def _system_clock() -> int:
    return time.time_ns() // 1_000_000


def _sqlite(url: sa.URL, *, writes: bool, clock: Callable[[], int]) -> Engine:
    # One writing connection: SQLite lets one write anyway, and threads that wait for a pool take turns, while threads
    # that wait for a file lock poll it and may starve.
    sizes = {"pool_size": 1, "max_overflow": 0} if writes else {"pool_size": 4, "max_overflow": 36}
    engine = sa.create_engine(
        url,
        poolclass=sa.QueuePool,
        pool_timeout=30,
        connect_args={"check_same_thread": False, "timeout": BUSY_MS / 1_000},
        json_serializer=_to_json,
        json_deserializer=_from_sqlite,
        **sizes,
    )

    def prepare(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself; `begin` below does
        connection.create_function("now_ms", 0, clock)
        for pragma in _pragmas(writes=writes):
            connection.execute(f"PRAGMA {pragma}")

    def begin(connection: Connection) -> None:
        _begin_writing(connection) if writes else connection.exec_driver_sql("BEGIN")

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", begin)
    return engine


def _begin_writing(connection: Connection) -> None:
    """`BEGIN IMMEDIATE`, tried anew every few milliseconds for `BUSY_MS`. By itself SQLite looks the more rarely the
    longer it has waited, ten times a second in the end, and among those who just came it may never find its turn."""
    raw = cast(sqlite3.Connection, connection.connection.driver_connection)
    deadline = time.monotonic() + BUSY_MS / 1_000
    raw.execute(f"PRAGMA busy_timeout={TURN_MS}")
    try:
        while time.monotonic() < deadline:
            try:
                raw.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorname.startswith("SQLITE_BUSY"):
                    continue
                break
            return
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # whose error is SQLAlchemy's
    finally:
        raw.execute(f"PRAGMA busy_timeout={BUSY_MS}")


def _pragmas(*, writes: bool) -> list[str]:
    common = [f"busy_timeout={BUSY_MS}", "foreign_keys=ON", "synchronous=FULL"]
    return [*common, "journal_mode=WAL"] if writes else [*common, "query_only=ON"]


def _postgresql(url: sa.URL) -> Engine:
    engine = sa.create_engine(
        url,
        pool_size=5,
        max_overflow=15,
        pool_timeout=30,
        connect_args={"client_encoding": "utf8", **_patience(url)},  # one of SQL_ASCII would answer bytes
        json_serializer=_to_json,
        json_deserializer=orjson.loads,
    )

    def given_back(_: object, record: ConnectionPoolEntry) -> None:
        record.info["used"] = time.monotonic()

    def taken(connection: DBAPIConnection, record: ConnectionPoolEntry, _: object) -> None:
        now = time.monotonic()
        if now - record.info.get("used", now) > SILENT_SECONDS and not _answers(engine, connection):
            raise InvalidatePoolError  # the pool drops this one and all others, and makes a new one

    event.listen(engine, "checkin", given_back)
    event.listen(engine, "checkout", taken)
    return engine


def _answers(engine: Engine, connection: DBAPIConnection) -> bool:
    try:
        return engine.dialect.do_ping(connection)
    except psycopg.Error:
        return False


def _patience(url: sa.URL) -> dict[str, Any]:
    """How long psycopg waits: for a connection, for a server that is gone, for an answer. The address may say
    otherwise."""
    connection = {
        "connect_timeout": 5,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": STATEMENT_MS,
    }
    said = url.query.get("options", "")
    limits = {"statement_timeout": STATEMENT_MS, "idle_in_transaction_session_timeout": IDLE_MS}
    options = [f"-c {name}={limit}" for name, limit in limits.items()] + ([said] if isinstance(said, str) else [*said])
    return {key: value for key, value in connection.items() if key not in url.query} | {
        "options": " ".join(options).strip()
    }


def _to_json(value: Any) -> str:
    """NaN and infinity, which JSON does not have, become null."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode()


def _from_sqlite(stored: str | float) -> Any:
    """SQLite keeps a document that is a single number as that number."""
    return orjson.loads(stored) if isinstance(stored, str) else stored


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except PoolTimeout as exc:
        raise NotReady("All connections to the database are in use. Try again in a moment.") from exc
    except DBAPIError as exc:
        translated = _translation(exc)
        if translated is None:
            raise
        raise translated from exc


def _translation(error: DBAPIError) -> GammabetaError | None:
    match error.orig:
        case sqlite3.Error() as orig:
            name = getattr(orig, "sqlite_errorname", "")
            if name == "SQLITE_FULL":
                return NoSpace("The disk of the database is full. Free some space, then send the request again.")
            down = name.startswith(_SQLITE_NOT_READY)
        case psycopg.errors.DiskFull():
            return NoSpace("The disk of the database is full. Free some space, then send the request again.")
        case orig:
            down = isinstance(orig, psycopg.OperationalError) or error.connection_invalidated
    return NotReady("The database does not answer. Try again in a moment.") if down else None
