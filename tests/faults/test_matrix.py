"""The quick column of the table: each fault a few times, and every promise holds."""

from __future__ import annotations

from random import Random

import pytest

from tests.faults.matrix import MATRIX
from tests.faults.rig import Place, Scenario

pytestmark = pytest.mark.alone

SEED = 7


@pytest.mark.parametrize(
    ("kind", "scenario"),
    [
        pytest.param(kind, each, id=f"{each.id}-{kind}")
        for each in MATRIX
        for kind in each.kinds
        if kind in each.quick_kinds
    ],
)
def test_what_is_promised_holds_under(scenario: Scenario, kind: str, place: Place) -> None:
    row = scenario.run(place, scenario.quick, Random(SEED))
    assert row.broken == ()
    assert row.failed == 0
    assert row.n > 0
