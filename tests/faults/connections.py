"""T13. Connections to PostgreSQL are ended, refused, cut and swallowed while it is under load; see `ordeals`."""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial
from random import Random

import psycopg

from tests.faults.figures import Row
from tests.faults.ordeals import TARGET, Fault, suffer
from tests.faults.proxy import Proxy, proxied
from tests.faults.rig import Place, Scenario
from tests.postgres import running_cluster

CONNECTIONS = 40
SECONDS = 2
"""How long connections are ended, or there is none to be had."""
PER_SECOND = 5
HOLES = (3, 20, 60)
"""Seconds: one after the other."""
SPARED = "spared"
OTHERS = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name <> %s AND pid <> ALL(%s)"
)


class Administrator:
    """Has a connection of its own, whatever happens to those of others."""

    def __init__(self, url: str, random: Random) -> None:
        self._url, self._random = url, random
        self._connection = psycopg.connect(url, autocommit=True)

    def close(self) -> None:
        self._connection.close()

    def end_some(self) -> None:
        """Backends at random, a few each second."""
        ended = 0
        for _ in range(SECONDS * PER_SECOND):
            if pids := self._backends(but=()):
                self._end(self._random.choice(pids))
                ended += 1
            time.sleep(1 / PER_SECOND)
        assert ended, "there was no backend to end"

    def take_all(self) -> None:
        """Every connection there may be, the programs' own included."""
        with ExitStack() as held:
            mine: list[int] = []
            until = time.monotonic() + SECONDS
            while time.monotonic() < until:
                for pid in self._backends(but=mine):
                    self._end(pid)
                mine += self._fill(held)
                time.sleep(0.02)

    def _fill(self, held: ExitStack) -> list[int]:
        found = []
        while True:
            try:
                connection = held.enter_context(psycopg.connect(self._url))
            except psycopg.OperationalError:
                return found
            found.append(connection.info.backend_pid)

    def _backends(self, *, but: tuple[int, ...] | list[int]) -> list[int]:
        spared = [*but, self._connection.info.backend_pid]
        return [pid for (pid,) in self._connection.execute(OTHERS, [SPARED, spared])]

    def _end(self, pid: int) -> None:
        self._connection.execute("SELECT pg_terminate_backend(%s)", [pid])


def run(place: Place, n: int, random: Random) -> Row:
    with ExitStack() as ended:
        cluster = ended.enter_context(running_cluster(durable=True, max_connections=str(CONNECTIONS)))
        proxy = ended.enter_context(proxied(cluster.socket))
        name = cluster.create()
        admin = Administrator(cluster.url(name), random)
        ended.callback(admin.close)
        faults = [_fault(admin, proxy, each) for each in range(n)]
        spared = f"{cluster.url(name)}&application_name={SPARED}"
        return suffer(place.folder, proxy.url(name), faults, random, looked_at_by=spared)


def _fault(admin: Administrator, proxy: Proxy, index: int) -> Fault:
    hole = HOLES[index // 4 % len(HOLES)]
    return (
        Fault(name="backends ended", happen=admin.end_some),
        Fault(name="all connections taken", happen=admin.take_all),
        Fault(name=f"no byte passed for {hole} s", happen=partial(_swallow, proxy, hole)),
        Fault(name="all connections cut", happen=partial(_cut, proxy)),
    )[index % 4]


def _cut(proxy: Proxy) -> None:
    assert proxy.cut(), "there was no connection to cut"


def _swallow(proxy: Proxy, seconds: float) -> None:
    with proxy.hole():
        time.sleep(seconds)


SCENARIO = Scenario(
    id="T13",
    fault=f"of PostgreSQL under load, backends are ended ({PER_SECOND} a second), all connections are taken by others "
    f"for {SECONDS} s, all are cut, or no byte passes for {', '.join(map(str, HOLES))} s",
    promise="no accepted job is lost or doubled, the training ends in the same bytes; the API refuses by 503 with "
    f"Retry-After only; no worker ends; the pace afterwards is not less than {TARGET:.0%} of that before by more than "
    "chance",
    run=run,
    quick=2,
    full=24,
    kinds=("postgresql",),
)
