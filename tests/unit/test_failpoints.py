"""Each place at which a program may die is in the program, is struck by a scenario, and is harmless without a rig."""

from __future__ import annotations

import ast
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from gammabeta import failpoints
from gammabeta.failpoints import Failpoint
from tests.faults import api_kills, kills
from tests.faults.sabotage import planned
from tests.faults.steered import HOLD, Reins, Steered

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [path for room in ("gammabeta", "service", "worker") for path in sorted((ROOT / room).rglob("*.py"))]
PLACES = {each.name for each in Failpoint}


@pytest.fixture
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm(lambda _: None)


def _attributes(of: str) -> Counter[str]:
    """The names that the sources take from a name, as in `Failpoint.DRAINED`."""
    nodes = (node for path in SOURCES for node in ast.walk(ast.parse(path.read_text())))
    found = (node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name))
    return Counter(node.attr for node in found if isinstance(node.value, ast.Name) and node.value.id == of)


def test_every_failpoint_is_somewhere_in_the_programs() -> None:
    assert set(_attributes("Failpoint")) == PLACES


def test_every_failpoint_is_struck_by_a_scenario_that_kills() -> None:
    idle = {Failpoint.CLAIM_BEGUN}
    """Where a worker has nothing that could be lost."""
    assert {*kills.PLACES, *api_kills.PLACES} | idle == set(Failpoint)


def test_no_program_arms_itself() -> None:
    assert "arm" not in _attributes("failpoints")


def test_a_place_is_passed_where_nothing_was_armed_and_else_the_action_hears_of_it(disarmed: None) -> None:
    heard: list[Failpoint] = []
    failpoints.reached(Failpoint.DRAINED)
    failpoints.arm(heard.append)
    failpoints.reached(Failpoint.FIRST_STEP)
    assert heard == [Failpoint.FIRST_STEP]


def test_a_plan_comes_true_at_its_place_the_nth_time() -> None:
    act = planned("first_step:2=memory")
    act(Failpoint.FIRST_STEP)
    act(Failpoint.DRAINED)
    with pytest.raises(MemoryError):
        act(Failpoint.FIRST_STEP)
    act(Failpoint.FIRST_STEP)


def test_a_steered_program_does_what_it_is_told_from_then_on(tmp_path: Path) -> None:
    reins = Reins(tmp_path / "reins")
    reins.say("")
    steered = Steered(reins.path)
    steered(Failpoint.FIRST_STEP)
    reins.say("first_step=memory")
    with pytest.raises(MemoryError):
        steered(Failpoint.FIRST_STEP)


def test_a_steered_program_that_is_held_takes_no_job_until_it_is_let_go(tmp_path: Path) -> None:
    reins = Reins(tmp_path / "reins")
    reins.say(HOLD)
    steered = Steered(reins.path)
    steered(Failpoint.REAP_BEFORE_COMMIT)
    slot = threading.Thread(target=steered, args=(Failpoint.CLAIM_BEGUN,), daemon=True)
    slot.start()
    slot.join(0.05)
    assert slot.is_alive()
    reins.say("")
    slot.join(10)
    assert not slot.is_alive()
