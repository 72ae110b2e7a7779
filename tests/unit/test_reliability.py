"""The table of faults: how a row is told, and what becomes of one that was given up."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from random import Random

import pytest

from bench import faults, reliability
from bench.reliability import BEGIN, END, Kept
from tests.faults.figures import Row, at_least, at_most
from tests.faults.rig import Place, Scenario

EMPTY = f"before\n{BEGIN}{END}after\n"


def _scenario(outcome: Row | Exception) -> Scenario:
    def run(place: Place, n: int, random: Random) -> Row:
        del place, n, random
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return Scenario(id="T2", fault="what is done", promise="what must hold", run=run, quick=1, full=3)


def _kept(row: Row) -> Kept:
    return Kept.of(_scenario(row), "sqlite", row, seed=7, seconds=90)


def _ran(outcome: Row | Exception, docs: Path) -> tuple[str, ...]:
    def cluster() -> None:
        raise AssertionError("no server is needed")

    place = Place(kind="sqlite", folder=docs, url="", cluster=cluster)  # type: ignore[arg-type]
    return faults._run(_scenario(outcome), place, Namespace(n=None, quick=False, seed=7, docs=docs))


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A folder with a page that has no rows."""
    (tmp_path / reliability.PAGE).write_text(EMPTY)
    return tmp_path


def test_a_target_is_told_as_met_or_missed() -> None:
    targets = (at_least(300, 512.3, name="claims", unit="/s"), at_most(0.25, 0.4, name="answers", unit=" s"))
    row = _kept(Row(n=3, unit="jobs", targets=targets))
    told = "claims ≥ 300/s: met (512/s); answers ≤ 0.25 s: **missed** (0.4 s)"
    assert told in row.cells()
    assert told.replace("**", "") in row.line()


def test_a_row_says_how_it_came_about() -> None:
    row = _kept(Row(n=3, unit="jobs")).model_copy(update={"cores": 2, "date": "2026-11-21"})
    assert row.cells().endswith("| seed 7, 2026-11-21, 2 cores, 90 s |\n")


def test_a_row_without_targets_can_be_read() -> None:
    before = _kept(Row(n=3, unit="jobs")).model_dump(exclude={"targets"})
    assert Kept.model_validate(before).targets == ()


def test_the_page_says_what_broke_what_is_missing_and_how_long_it_took() -> None:
    rows = [_kept(Row(n=3, unit="jobs", failed=1, broken=("a job was lost",)))]
    told = reliability.page(EMPTY, rows)
    assert "All rows together took 0 h 2 min." in told
    assert "- T2, SQLite: a job was lost\n" in told
    missing = told.partition("Not measured yet: ")[2]
    assert "T2 on PostgreSQL" in missing
    assert "T2 on SQLite" not in missing
    assert reliability.page(told, rows) == told


def test_a_row_in_full_is_kept(docs: Path) -> None:
    targets = (at_least(1, 2, name="jobs", unit="/s"),)
    assert _ran(Row(n=3, unit="jobs", targets=targets), docs) == ()
    (row,) = reliability.rows(docs)
    assert (row.n, row.targets) == (3, targets)
    assert row.cells() in (docs / reliability.PAGE).read_text()


def test_a_row_of_less_than_the_fault_is_not_kept(docs: Path) -> None:
    assert _ran(Row(n=3, unit="jobs", complete=False), docs) == ()
    assert reliability.rows(docs) == []
    assert (docs / reliability.PAGE).read_text() == EMPTY


def test_an_error_of_a_scenario_breaks_its_row_and_ends_nothing(docs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (broken,) = _ran(AssertionError("waited 60 s in vain"), docs)
    assert "waited 60 s in vain" in broken
    assert "Traceback" in capsys.readouterr().err
    assert reliability.rows(docs) == []
    assert (docs / reliability.PAGE).read_text() == EMPTY
