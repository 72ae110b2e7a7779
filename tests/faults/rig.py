"""Where a scenario runs, and what a scenario is. `matrix` has all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.faults.figures import Row
from tests.integration.databases import KINDS
from tests.integration.workshop import Workshop, workshop
from tests.postgres import Cluster


@dataclass(frozen=True, kw_only=True)
class Place:
    """An empty folder and a fresh database at the newest schema."""

    kind: str
    """`sqlite` or `postgresql`."""
    folder: Path
    url: str
    cluster: Callable[[], Cluster]
    """The PostgreSQL server that all share, started when it is first asked for. Not to be disturbed: who wants to kill
    a server starts one of its own by `tests.postgres.running_cluster`."""

    @contextmanager
    def workshop(self) -> Iterator[Workshop]:
        """Workers and jobs; the invariants are checked at the end."""
        with workshop(self.folder, self.url) as made:
            yield made


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One fault of the matrix."""

    id: str
    """As in JOBS: T1, T2 …"""
    fault: str
    """What is done, for a reader of the table."""
    promise: str
    """What must hold, for a reader of the table."""
    run: Callable[[Place, int, Random], Row]
    """Does it so many times, with these random numbers."""
    quick: int
    """How many times in the tests of every day."""
    full: int
    """How many times for the table."""
    full_on: Mapping[str, int] = field(default_factory=dict)
    """The same, on a database where it is another number."""
    quick_kinds: tuple[str, ...] = KINDS
    """On which databases in the tests of every day: one, where the fault does not meet the database."""
    kinds: tuple[str, ...] = KINDS

    def times(self, kind: str) -> int:
        """How many times for the table, on this database."""
        return self.full_on.get(kind, self.full)
