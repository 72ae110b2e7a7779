"""The proxy in front of PostgreSQL, and the server itself, do to connections what the scenarios say that they do."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.faults.proxy import Proxy, proxied
from tests.postgres import Cluster, running_cluster

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def own() -> Iterator[Cluster]:
    with running_cluster(durable=True) as started:
        yield started


@pytest.fixture
def proxy(own: Cluster) -> Iterator[Proxy]:
    with proxied(own.socket) as started:
        yield started


def connect(url: str) -> psycopg.Connection:
    return psycopg.connect(url, autocommit=True, connect_timeout=30)


def refuses(url: str) -> bool:
    """Whether there is no connection to be had within two seconds, the least that libpq can be told."""
    with pytest.raises(psycopg.OperationalError, match="timeout"):
        psycopg.connect(url, connect_timeout=2)
    return True


def test_what_is_sent_passes(proxy: Proxy) -> None:
    with connect(proxy.url("postgres")) as connection:
        assert connection.execute("SELECT repeat('x', 1000000)").fetchone() == ("x" * 1_000_000,)


def test_a_cut_ends_every_connection_and_new_ones_pass(proxy: Proxy) -> None:
    with connect(proxy.url("postgres")) as connection:
        assert proxy.cut() == 1
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with connect(proxy.url("postgres")) as connection:
        connection.execute("SELECT 1")


def test_nothing_passes_through_a_hole_and_old_connections_go_on_behind_it(proxy: Proxy) -> None:
    with connect(proxy.url("postgres")) as connection:
        with proxy.hole():
            assert refuses(proxy.url("postgres"))
        connection.execute("SELECT 1")


def test_a_frozen_server_answers_nothing_and_goes_on(own: Cluster) -> None:
    with connect(own.url("postgres")) as connection:
        with own.paused():
            assert refuses(own.url("postgres"))
        connection.execute("SELECT 1")


def test_what_was_committed_outlives_a_killed_server(own: Cluster) -> None:
    with connect(own.url("postgres")) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS x")
        own.restart("immediate")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with connect(own.url("postgres")) as connection:
        assert connection.execute("SELECT x FROM kept").fetchone() == (1,)
