"""Trials of a scenario, counted; what broke in one is a sentence, and so is what was waited for in vain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from gammabeta.schemas.jobs import JobState
from gammabeta.store import models
from gammabeta.store.tables import DEFAULT_PROJECT, JobRow, VersionRow
from tests.faults.figures import Row, Target
from tests.integration.workshop import Workshop


@dataclass
class Trials:
    """Used by one thread."""

    n: int = 0
    failed: int = 0
    broken: list[str] = field(default_factory=list)

    @contextmanager
    def trial(self, what: str) -> Iterator[list[str]]:
        """One more. The sentences that the block appends are what it broke; an error of a wait is one too."""
        found: list[str] = []
        self.n += 1
        try:
            yield found
        except AssertionError as error:
            found.append(str(error))
        self.failed += bool(found)
        self.broken += [f"{what}, trial {self.n}: {each}" for each in found]

    def row(
        self,
        shop: Workshop,
        *,
        unit: str,
        figures: dict[str, str],
        also: Iterable[str] = (),
        targets: tuple[Target, ...] = (),
        complete: bool = True,
    ) -> Row:
        """The outcome, with what the auditor says of everything that the trials left behind. `also`: what broke, of no
        trial in particular."""
        violated = [*also, *_violated(shop)]
        shop.audited = True
        failed = min(self.n, self.failed + len(violated))
        return Row(
            n=self.n,
            unit=unit,
            broken=(*self.broken, *violated),
            failed=failed,
            figures=figures,
            targets=targets,
            complete=complete,
        )


def _violated(shop: Workshop) -> list[str]:
    """What the auditor finds twice: of workers that clean up, it may look for what they are just removing."""
    first = shop.audit()
    return [each for each in shop.audit() if each in first] if first else []


def version_of(shop: Workshop, job: JobRow) -> VersionRow:
    """What the job published."""
    with shop.db.read() as session:
        return models.get_version(session, DEFAULT_PROJECT, job.model or "", version=str(job.version))


def fingerprint(shop: Workshop, job: JobRow) -> tuple[str, str]:
    """The hashes of the weights and of the batch-norm state that the job published: equal means bit-equal."""
    found = version_of(shop, job)
    return found.weights_sha256, found.batchnorm_digest


def not_as(job: JobRow, **expected: object) -> list[str]:
    """A sentence for each column of the job that is not as it must be."""
    return [
        f"{job.id} must have {name} {value}. Received: {getattr(job, name)}"
        for name, value in expected.items()
        if getattr(job, name) != value
    ]


def not_succeeded(job: JobRow) -> list[str]:
    """A sentence if it has not."""
    return not_as(job, state=JobState.SUCCEEDED)
