"""T15. Wall clocks that are set an hour on or back, or run twice as fast, while jobs train.

PostgreSQL   the clock of a worker alone: leases are by the server's, so that it does not matter
SQLite       the clock of the machine, which all programs share: all leases are over at once, or an hour too long
"""

from __future__ import annotations

import time
from pathlib import Path
from random import Random

from gammabeta.store.engine import Database
from tests.faults.figures import Row
from tests.faults.rig import Place, Scenario
from tests.faults.trials import Trials, fingerprint, not_succeeded
from tests.integration.workshop import Workshop

STEPS = 600
HOUR = 3_600
SETTINGS: tuple[tuple[int, int], ...] = ((HOUR, 1), (0, 1), (0, 2), (-HOUR, 1), (HOUR, 2), (0, 1))
"""How far it is ahead, and how fast it is; each is the next after the one before."""


class Clock:
    """What libfaketime tells a program, and the same for this one."""

    def __init__(self, home: Path) -> None:
        home.mkdir()
        self._home, self._began = home, time.time()
        self.put(ahead=0, rate=1)

    def put(self, *, ahead: int, rate: int) -> None:
        """From now on."""
        self._ahead, self._rate = ahead, rate
        new = self._home / "new"
        new.write_text(f"{ahead:+d} x{rate}\n")
        new.rename(self._home / ".faketimerc")

    def __call__(self) -> int:
        """Milliseconds."""
        return round((self._began + (time.time() - self._began) * self._rate + self._ahead) * 1_000)

    @property
    def environment(self) -> dict[str, str]:
        """Of a program that goes by it. HOME, since the worker forgets variables that it does not know. What it waits
        for, it measures by clocks that nobody sets."""
        return {
            "LD_PRELOAD": str(_library()),
            "HOME": str(self._home),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


def _library() -> Path:
    found = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if found is None:
        raise FileNotFoundError(
            "The test of clocks needs libfaketime. Looked in /usr/lib/*/faketime. Install it: apt-get install "
            "faketime, or start the tests with scripts/test, which does."
        )
    return found


def run(place: Place, n: int, random: Random) -> Row:
    """Set at a random time of a training."""
    with place.workshop() as shop:
        clocks = _clocks(place, shop)
        for clock in clocks:
            shop.start_rigged(environment=clock.environment, LEASE_SECONDS="10")
        dataset_id = shop.ready_dataset()
        undisturbed = fingerprint(shop, shop.ended(_train(shop, dataset_id)))
        trials, losses = Trials(), 0
        for number in range(n):
            ahead, rate = SETTINGS[number % len(SETTINGS)]
            with trials.trial(f"a clock {ahead:+d} s and {rate} times as fast") as broken:
                job_id = _train(shop, dataset_id)
                shop.said(job_id, "started")
                time.sleep(random.uniform(0, 0.5))
                random.choice(clocks).put(ahead=ahead, rate=rate)
                job = shop.ended(job_id)
                losses += job.losses
                broken.extend(not_succeeded(job))
                if job.version and fingerprint(shop, job) != undisturbed:
                    broken.append(f"the weights of {job_id} are not those of an undisturbed run")
        return trials.row(shop, unit="set clocks", figures={"spurious reaps": str(losses)})


def _train(shop: Workshop, dataset_id: str) -> str:
    return shop.train(dataset_id, epochs=1_000, max_steps=STEPS)


def _clocks(place: Place, shop: Workshop) -> list[Clock]:
    """Of each worker, or the one of the machine, which this program goes by too."""
    if place.kind == "postgresql":
        return [Clock(place.folder / f"clock-{number}") for number in range(2)]
    clock = Clock(place.folder / "clock")
    shop.db.dispose()
    shop.db = Database(place.url, clock=clock)
    return [clock, clock]


SCENARIO = Scenario(
    id="T15",
    fault="the wall clock (PostgreSQL: of a worker; SQLite: of the machine) set an hour on or back, or twice as fast, "
    "in the middle of a training",
    promise="every job succeeds once, bit-equal; the invariants hold",
    run=run,
    quick=3,
    full=60,
)
