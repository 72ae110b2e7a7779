"""What a scenario has to show: how often it tried, what broke, and what it measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import stats


@dataclass(frozen=True, kw_only=True)
class Target:
    """A figure that is wanted, and the one that was found. To miss it breaks no promise."""

    name: str
    wanted: str
    measured: str
    met: bool


def at_least(wanted: float, measured: float, *, name: str, unit: str) -> Target:
    return Target(name=name, wanted=f"≥ {wanted:g}{unit}", measured=f"{measured:.3g}{unit}", met=measured >= wanted)


def at_most(wanted: float, measured: float, *, name: str, unit: str) -> Target:
    return Target(name=name, wanted=f"≤ {wanted:g}{unit}", measured=f"{measured:.3g}{unit}", met=measured <= wanted)


@dataclass(frozen=True, kw_only=True)
class Row:
    """The outcome of a scenario on one kind of database."""

    n: int
    """Trials."""
    unit: str
    """What a trial is: kills, prefixes, requests."""
    broken: tuple[str, ...] = ()
    """Each promise that was broken, in a sentence. Empty: all held."""
    failed: int = 0
    """Trials in which one was broken. 0 if and only if `broken` is empty."""
    figures: dict[str, str] = field(default_factory=dict)
    """What else was measured, by its name."""
    targets: tuple[Target, ...] = ()
    complete: bool = True
    """Whether all of the fault was made. False: it was not, or not as said, and the row is not kept."""


def bound(failed: int, n: int) -> float:
    """The one-sided 95 % bound of Clopper and Pearson on the share of trials that fail: 1 - 0.05^(1/n) for 0 of n,
    about 3/n."""
    return 1.0 if failed >= n else float(stats.beta.ppf(0.95, failed + 1, n - failed))


def p95(measured: Sequence[float]) -> float:
    """What 95 % do not exceed; 0 of none."""
    return float(np.percentile(measured, 95)) if measured else 0.0


def seconds(measured: Sequence[float]) -> str:
    """Median, 95th percentile and largest."""
    if not measured:
        return "none"
    p50, p95, most = (float(np.percentile(measured, share)) for share in (50, 95, 100))
    return f"{p50:.2f} / {p95:.2f} / {most:.2f} s (n={len(measured)})"
