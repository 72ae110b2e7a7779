"""All scenarios, in the order of the table."""

from __future__ import annotations

from tests.faults.rig import Scenario

MATRIX: tuple[Scenario, ...] = ()
