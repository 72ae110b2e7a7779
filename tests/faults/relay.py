"""Rigged programs that die one after the other, and those that stand by.

current     works ── ✝
standby     holds still ── works, as the current one
reserves    start, hold still ──────────────            the standbys of the trials after it
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from subprocess import TimeoutExpired
from typing import Generic, TypeVar

from tests.faults.steered import HOLD, Reins
from tests.integration.workshop import PATIENCE, Worker, Workshop, until

RESERVES = 2


@dataclass(frozen=True)
class Runner:
    """A program and the reins that steer it."""

    process: Worker
    reins: Reins

    def ready(self) -> bool:
        """Whether it could go on at once."""
        raise NotImplementedError

    @property
    def alive(self) -> bool:
        return self.process.process.poll() is None

    def death(self) -> int | None:
        """The signal that killed it; None: it lives."""
        with suppress(TimeoutExpired):
            return -self.process.process.wait(PATIENCE)
        return None


Member = TypeVar("Member", bound=Runner)


@dataclass(kw_only=True)
class Relay(Generic[Member]):
    """Whoever works, and whoever is to go on."""

    shop: Workshop
    random: Random
    current: Member = field(init=False)
    reserves: list[Member] = field(default_factory=list)
    deaths: int = 0
    """How many are still to die."""
    _numbers: int = 0

    def start(self, reins: Reins) -> Member:
        """One more."""
        raise NotImplementedError

    def called(self, plan: str) -> Member:
        """One more, that was told what to do."""
        reins = Reins(self.shop.home / f"reins-{self.number()}")
        reins.say(plan)
        return self.start(reins)

    def muster(self, deaths: int) -> None:
        """Whatever the trial before has left: one that works, and reserves for so many deaths."""
        self.deaths = deaths
        self.reserves = [each for each in self.reserves if each.alive]
        if not self.current.alive:
            self.current = self.reserves.pop(0) if self.reserves else self.called("")
        self.current.reins.say("")
        self._call_up()

    def _call_up(self) -> None:
        while len(self.reserves) < min(RESERVES, self.deaths):
            self.reserves.append(self.called(HOLD))

    def standby(self) -> Member:
        """The one that goes on where the current one dies."""
        until(self.reserves[0].ready, "a standby", every=0.1)
        return self.reserves[0]

    def promote(self) -> None:
        """The current one is dead, and the standby takes its place."""
        self.current = self.reserves.pop(0)
        self.current.reins.say("")
        self.deaths -= 1
        self._call_up()

    def number(self) -> int:
        """One that was not used."""
        self._numbers += 1
        return self._numbers
