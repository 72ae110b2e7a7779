"""T18. Somebody else writes into the SQLite file, for seconds at a time, while a hundred clients and two workers do."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from random import Random

from tests.faults.figures import Row, seconds
from tests.faults.load import Clients, served
from tests.faults.rig import Place, Scenario
from tests.faults.trials import Trials
from tests.integration.workshop import until

CLIENTS, PATIENT = 100, 5
"""Those who are not patient cancel what they have submitted, so that there is more to write than to train."""
HELD_SECONDS = 3
FREE_SECONDS = 0.5
SETTINGS = {"HEARTBEAT_SECONDS": "5", "LEASE_SECONDS": "30", "POLL_SECONDS": "0.2", "REPORT_SECONDS": "0.5"}
"""As by default: the lock is held for a good part of a lease."""


def run(place: Place, n: int, random: Random) -> Row:
    """Each time that the lock is held is a trial."""
    del random
    trials = Trials()
    with place.workshop() as shop:
        workers = [shop.start(**SETTINGS) for _ in range(2)]
        with served(place.folder, place.url) as address:
            clients = Clients(address, shop.ready_dataset(), CLIENTS, patient=PATIENT)
            with clients.busy():
                until(lambda: clients.answers >= CLIENTS, "an answer for everybody")
                for _ in range(n):
                    with trials.trial("held") as broken:
                        before = clients.errors
                        _hold(place)
                        time.sleep(FREE_SECONDS)
                        if clients.errors > before:
                            broken.append(f"{clients.errors - before} answers were errors; {clients.broken[-1:]}")
                counted = clients.errors
        late = clients.errors - counted
        also = clients.lost(shop.db) + [f"{late} errors afterwards; {clients.broken[-1:]}"] * bool(late)
        also += [f"worker {each.pid} ended" for each in workers if each.process.poll() is not None]
        figures = {
            "jobs": f"{len(clients.accepted):,}, {len(clients.cancelled):,} of them cancelled",
            "answers": f"{clients.answers:,}",
            "submitting": seconds(clients.submitting),
        }
        return trials.row(shop, unit="times held", figures=figures, also=also)


def _hold(place: Place) -> None:
    with closing(sqlite3.connect(place.folder / "gammabeta.db", timeout=60, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(HELD_SECONDS)
        connection.execute("ROLLBACK")


SCENARIO = Scenario(
    id="T18",
    fault=f"somebody else holds SQLite's lock for {HELD_SECONDS} s at a time, under {CLIENTS} clients and two workers",
    promise="nobody is told that the database is locked: no answer is an error, no accepted job is lost or doubled",
    run=run,
    quick=1,
    full=40,
    kinds=("sqlite",),
)
