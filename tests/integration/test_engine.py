"""What PostgreSQL is given time for, and how it writes."""

from __future__ import annotations

import psycopg
import pytest
from sqlalchemy import text

from gammabeta.errors import NotReady
from gammabeta.store.engine import Database
from tests.postgres import Cluster

pytestmark = pytest.mark.parametrize("kind", ["postgresql"])
SHOWN = text("SHOW statement_timeout")


def test_a_statement_ends_after_half_a_minute_and_a_migration_does_not(url: str) -> None:
    db = Database(url)
    with db.read() as session:
        assert session.scalar(SHOWN) == "30s"
    with db.connection() as connection:
        assert connection.scalar(SHOWN) == "0"
    with db.read() as session:
        assert session.scalar(SHOWN) == "30s"
    db.dispose()


def test_the_address_may_say_otherwise_and_what_takes_too_long_is_not_ready(url: str) -> None:
    joint = "&" if "?" in url else "?"
    db = Database(f"{url}{joint}options=-c%20statement_timeout%3D50&connect_timeout=3")
    with pytest.raises(NotReady), db.read() as session:
        session.execute(text("SELECT pg_sleep(20)"))
    db.dispose()


def test_a_transaction_that_stands_still_is_ended_and_gives_its_locks_back(url: str) -> None:
    joint = "&" if "?" in url else "?"
    frozen = Database(f"{url}{joint}options=-c%20idle_in_transaction_session_timeout%3D50")
    awake = Database(url)
    touch = text("UPDATE projects SET revision = revision + 1")

    def stand_still() -> None:
        with frozen.write() as session:
            session.execute(touch)
            with awake.write() as other:
                other.execute(touch)  # waits for the lock

    with pytest.raises(NotReady):
        stand_still()
    with frozen.read() as session:
        assert session.scalar(text("SELECT revision FROM projects")) == 1
    frozen.dispose()
    awake.dispose()


def test_a_database_that_knows_no_encoding_answers_text_as_any_other(cluster: Cluster, kind: str) -> None:
    with psycopg.connect(cluster.url("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE plain ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    db = Database(cluster.url("plain"))
    with db.read() as session:
        assert session.scalar(text("SELECT :said"), {"said": "γβ"}) == "γβ"
    db.dispose()
