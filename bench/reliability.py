"""The table of docs/reliability.md: its rows are kept in docs/reliability.json, one for each fault and database.

docs/reliability.json ──► the text between the two marks of docs/reliability.md
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tests.faults.figures import Row, bound
from tests.faults.rig import Scenario

DOCS = Path(__file__).resolve().parents[1] / "docs"
ROWS, PAGE = DOCS / "reliability.json", DOCS / "reliability.md"
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->\n"
HEAD = "| | fault | database | n | what must hold | broken | 95 % bound | measured |\n" + "| --- " * 8 + "|\n"


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

    def line(self) -> str:
        """For a terminal."""
        return (
            f"{self.id:>4} {self.database:<10} {self.failed} of {self.n:,} {self.unit} broken "
            f"(<= {bound(self.failed, self.n):.2%}); {self.measured}; seed {self.seed}, {self.seconds:.0f} s"
        )

    def cells(self) -> str:
        """For the page."""
        cells = (
            self.id,
            self.fault,
            {"sqlite": "SQLite", "postgresql": "PostgreSQL"}.get(self.database, self.database),
            f"{self.n:,} {self.unit}",
            self.promise,
            f"**{self.failed}**",
            f"≤ {bound(self.failed, self.n):.2%}",
            self.measured,
        )
        return "| " + " | ".join(cells) + " |\n"


def rows() -> list[Kept]:
    """Those that were measured in full."""
    return [Kept.model_validate(each) for each in json.loads(ROWS.read_text())] if ROWS.exists() else []


def keep(new: Kept) -> None:
    """Put a row in the place of the one before it, and write the page."""
    others = [each for each in rows() if each.order != new.order]
    every = sorted([*others, new], key=lambda each: each.order)
    ROWS.write_text(json.dumps([each.model_dump() for each in every], indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page(PAGE.read_text(), every))


def page(text: str, every: Iterable[Kept]) -> str:
    """The page with the table of these rows."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + HEAD + "".join(each.cells() for each in every) + END + after
