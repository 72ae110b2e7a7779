"""The table of docs/reliability.md: its rows are kept in docs/reliability.json, one for each fault and database.

docs/reliability.json ──► the text between the two marks of docs/reliability.md: the table, what broke, what is missing
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tests.faults.figures import Row, Target, bound
from tests.faults.matrix import MATRIX
from tests.faults.rig import Scenario

DOCS = Path(__file__).resolve().parents[1] / "docs"
ROWS, PAGE = "reliability.json", "reliability.md"
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->\n"
COLUMNS = ("", "fault", "database", "n", "what must hold", "broken", "95 % bound", "wanted", "measured", "run")
HEAD = "| " + " | ".join(COLUMNS) + " |\n" + "| --- " * len(COLUMNS) + "|\n"
NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


class Kept(BaseModel):
    """A row, and how it came about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    fault: str
    promise: str
    database: str
    n: int
    unit: str
    failed: int
    broken: tuple[str, ...]
    figures: dict[str, str]
    targets: tuple[Target, ...] = ()
    seed: int
    cores: int
    date: str
    seconds: float

    @classmethod
    def of(cls, scenario: Scenario, database: str, row: Row, *, seed: int, seconds: float) -> Kept:
        return cls(
            id=scenario.id,
            fault=scenario.fault,
            promise=scenario.promise,
            database=database,
            n=row.n,
            unit=row.unit,
            failed=row.failed,
            broken=row.broken,
            figures=row.figures,
            targets=row.targets,
            seed=seed,
            cores=len(os.sched_getaffinity(0)),
            date=f"{datetime.now(UTC):%Y-%m-%d}",
            seconds=round(seconds, 1),
        )

    @property
    def order(self) -> tuple[int, str]:
        return int(self.id.removeprefix("T")), self.database

    @property
    def measured(self) -> str:
        return "; ".join(f"{name} {value}" for name, value in self.figures.items())

    @property
    def wanted(self) -> str:
        told = {True: "met", False: "**missed**"}
        return "; ".join(f"{each.name} {each.wanted}: {told[each.met]} ({each.measured})" for each in self.targets)

    @property
    def run(self) -> str:
        cores = "1 core" if self.cores == 1 else f"{self.cores} cores"
        return f"seed {self.seed}, {self.date}, {cores}, {self.seconds:.0f} s"

    def line(self) -> str:
        """For a terminal."""
        return (
            f"{self.id:>4} {self.database:<10} {self.failed} of {self.n:,} {self.unit} broken "
            f"(<= {bound(self.failed, self.n):.2%}); {self.measured}; "
            f"{self.wanted.replace('**', '')}{'; ' if self.targets else ''}{self.run}"
        )

    def cells(self) -> str:
        """For the page."""
        cells = (
            self.id,
            self.fault,
            NAMES[self.database],
            f"{self.n:,} {self.unit}",
            self.promise,
            f"**{self.failed}**",
            f"≤ {bound(self.failed, self.n):.2%}",
            self.wanted,
            self.measured,
            self.run,
        )
        return "| " + " | ".join(cells) + " |\n"


def rows(docs: Path = DOCS) -> list[Kept]:
    """Those that were measured in full."""
    kept = docs / ROWS
    return [Kept.model_validate(each) for each in json.loads(kept.read_text())] if kept.exists() else []


def keep(new: Kept, docs: Path = DOCS) -> None:
    """Put a row in the place of the one before it, and write the page."""
    others = [each for each in rows(docs) if each.order != new.order]
    every = sorted([*others, new], key=lambda each: each.order)
    (docs / ROWS).write_text(json.dumps([each.model_dump() for each in every], indent=1, ensure_ascii=False) + "\n")
    (docs / PAGE).write_text(page((docs / PAGE).read_text(), every))


def page(text: str, every: Iterable[Kept]) -> str:
    """The page with the table of these rows."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    told = list(every)
    table = HEAD + "".join(each.cells() for each in told)
    return before + BEGIN + table + _lasted(told) + _broken(told) + _missing(told) + END + after


def _lasted(every: list[Kept]) -> str:
    hours, minutes = divmod(round(sum(each.seconds for each in every) / 60), 60)
    return f"\nAll rows together took {hours} h {minutes} min.\n" if every else ""


def _broken(every: list[Kept]) -> str:
    """What broke, in a list."""
    said = [f"- {each.id}, {NAMES[each.database]}: {sentence}\n" for each in every for sentence in each.broken]
    return "\nBroken:\n\n" + "".join(said) if said else ""


def _missing(every: list[Kept]) -> str:
    """The rows of the matrix that are still to be measured."""
    found = {(each.id, each.database) for each in every}
    names = [f"{each.id} on {NAMES[kind]}" for each in MATRIX for kind in each.kinds if (each.id, kind) not in found]
    return f"\nNot measured yet: {', '.join(names)}.\n" if names else ""
