"""All scenarios, in the order of the table."""

from __future__ import annotations

from tests.faults import (
    api_kills,
    backups,
    bombs,
    cancels,
    claims,
    clocks,
    connections,
    contention,
    corruption,
    crashes,
    drains,
    full_disks,
    hangs,
    kills,
    memory,
    outages,
    poison,
    protocol_model,
    stores,
    submitters,
    upgrades,
    zombies,
)
from tests.faults.rig import Scenario

MATRIX: tuple[Scenario, ...] = (
    kills.SCENARIO,
    claims.SCENARIO,
    submitters.SCENARIO,
    zombies.SCENARIO,
    crashes.SCENARIO,
    corruption.SCENARIO,
    drains.SCENARIO,
    cancels.SCENARIO,
    hangs.SCENARIO,
    poison.SCENARIO,
    memory.SCENARIO,
    outages.SCENARIO,
    connections.SCENARIO,
    api_kills.SCENARIO,
    clocks.SCENARIO,
    full_disks.SCENARIO,
    stores.SCENARIO,
    contention.SCENARIO,
    bombs.SCENARIO,
    protocol_model.SCENARIO,
    upgrades.SCENARIO,
    backups.SCENARIO,
)
