"""T21: the statements of the queue run beside a model of what they must do, and beside each mistake that could be made
in them, which the model must find. One process and one database for each core; time is the model's."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from random import Random

from sqlalchemy.exc import IntegrityError

from gammabeta.store.engine import Database
from tests.faults.figures import Row
from tests.faults.rig import Place, Scenario
from tests.integration.databases import Databases, virtual_clock
from tests.integration.mutants import MUTANTS
from tests.integration.protocol import Protocol, Violation, check, wipe

STEPS = 60
QUICK, FULL, FULL_ON_POSTGRESQL = 10, 5_000, 1_000
"""On PostgreSQL a step takes several times as long, in the server and in what lies between."""
PARTS = 2
ENOUGH = 100
"""Runs in which a mutant must be found."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one process does."""

    kind: str
    url: str
    seed: int
    runs: int
    mutants: tuple[str, ...]


def run(place: Place, n: int, random: Random) -> Row:
    # On PostgreSQL a step takes three times as long: the mutants there are for the table only.
    mutants = tuple(MUTANTS) if place.kind == "sqlite" or n > QUICK else ()
    if n <= QUICK:
        broken = _tried(Part(kind=place.kind, url=place.url, seed=random.getrandbits(32), runs=n, mutants=mutants))
    else:
        parts = _parts(place, n, mutants, random)
        with ProcessPoolExecutor(PARTS, mp_context=multiprocessing.get_context("spawn")) as processes:
            broken = [each for found in processes.map(_tried, parts) for each in found]
    survivors = sum(name in each for each in broken for name in mutants)
    figures = {"steps": f"{n * STEPS:,}"}
    if mutants:
        figures["mistakes made on purpose and found"] = f"{len(mutants) - survivors} of {len(mutants)}"
    return Row(n=n, unit=f"runs of {STEPS} steps", broken=tuple(broken), failed=min(n, len(broken)), figures=figures)


def _parts(place: Place, n: int, mutants: tuple[str, ...], random: Random) -> list[Part]:
    """Each on a database of its own."""
    databases = Databases(place.folder, place.cluster)
    parts = []
    for number in range(PARTS):
        folder = place.folder / f"part-{number}"
        folder.mkdir()
        parts.append(
            Part(
                kind=place.kind,
                url=databases.migrated(place.kind, folder),
                seed=random.getrandbits(32),
                runs=len(range(number, n, PARTS)),
                mutants=mutants[number::PARTS],
            )
        )
    return parts


def _tried(part: Part) -> list[str]:
    """What is wrong: with the protocol, or with the model, which believes a mutant."""
    broken = []
    with virtual_clock(part.kind, part.url) as clock:
        db = Database(part.url, clock=clock if part.kind == "sqlite" else None)
        try:
            check(db, clock, Protocol(), examples=part.runs, steps=STEPS, seed=part.seed)
        except Violation as violation:
            broken.append(f"seed {part.seed}: {violation}")
        for name in part.mutants:
            try:
                check(db, clock, MUTANTS[name], examples=ENOUGH, steps=STEPS // 2, seed=part.seed, shrink=False)
            except (Violation, IntegrityError):
                continue
            broken.append(f"seed {part.seed}: not found in {ENOUGH} runs: {name}")
        wipe(db)
        db.dispose()
    return broken


SCENARIO = Scenario(
    id="T21",
    fault="Three workers, a reaper, an operator and zombies take random turns at every statement of the queue.",
    promise="Rows, events, checkpoints and answers are those of a model in Python; each mistake that is made in a "
    "statement on purpose is found.",
    run=run,
    quick=QUICK,
    full=FULL,
    full_on={"postgresql": FULL_ON_POSTGRESQL},
)
