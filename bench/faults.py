"""Everything that may die does, many times over; what was promised is counted, and written into docs/reliability.md.

    scripts/bench faults                     all of the table: hours; the page says how many
    scripts/bench faults T1 T4 --quick       two rows of it, a few times each
    scripts/bench faults T12 --n 3 --seed 1 --database postgresql

Prints a row as soon as it is there. A row that ran in full is kept in docs/reliability.json, from which the table of
docs/reliability.md is written; one of fewer times, or of less than the fault says, is printed only. A broken promise
ends the command with 1, once all rows were tried. The scenarios are in `tests/faults/`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
from contextlib import ExitStack
from datetime import datetime
from functools import cache
from pathlib import Path
from random import Random
from time import perf_counter

from bench import reliability
from bench.reliability import Kept
from gammabeta import logs
from tests.faults.figures import Row
from tests.faults.matrix import MATRIX
from tests.faults.rig import Place, Scenario
from tests.integration.databases import KINDS, Databases
from tests.postgres import running_cluster

SEED = 20_261_121


def main() -> None:
    """Run, print, keep."""
    options = _options()
    logs.set_up(level="error")
    broken = 0
    with ExitStack() as ended:
        folder = Path(ended.enter_context(tempfile.TemporaryDirectory(prefix="gammabeta-faults-")))
        cluster = cache(lambda: ended.enter_context(running_cluster()))
        (folder / "templates").mkdir()
        databases = Databases(folder / "templates", cluster)
        for scenario in (each for each in MATRIX if not options.ids or each.id in options.ids):
            for kind in (each for each in scenario.kinds if each in options.databases):
                own = folder / f"{scenario.id}-{kind}"
                own.mkdir()
                with databases.lent(kind, own) as url:
                    place = Place(kind=kind, folder=own, url=url, cluster=cluster)
                    broken += bool(_run(scenario, place, options))
    sys.exit(1 if broken else 0)


def _run(scenario: Scenario, place: Place, options: argparse.Namespace) -> tuple[str, ...]:
    n = options.n or (scenario.quick if options.quick else scenario.times(place.kind))
    began = perf_counter()
    row = _row(scenario, place, n, Random(f"{options.seed} {scenario.id} {place.kind}"))
    kept = Kept.of(scenario, place.kind, row, seed=options.seed, seconds=perf_counter() - began)
    print(f"{datetime.now():%H:%M:%S}  {kept.line()}", flush=True)
    for each in row.broken:
        print(f"          BROKEN: {each}", flush=True)
    if not row.complete:
        print("          not kept: not all of the fault was made", flush=True)
    elif n == scenario.times(place.kind):
        reliability.keep(kept, options.docs)
    return row.broken


def _row(scenario: Scenario, place: Place, n: int, random: Random) -> Row:
    """An error of a scenario is told as what broke, and those after it are tried."""
    try:
        return scenario.run(place, n, random)
    except Exception as error:
        traceback.print_exc()
        return Row(n=n, unit="times", broken=(f"given up: {error!r}",), failed=1, complete=False)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench faults", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("ids", nargs="*", help="rows of the table, such as T1; by default all")
    parser.add_argument("--quick", action="store_true", help="each a few times, as scripts/test does")
    parser.add_argument("--n", type=int, help="how many times")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--docs", type=Path, default=reliability.DOCS, help="the folder of the page and of its rows")
    parser.add_argument("--database", dest="databases", nargs="*", choices=KINDS, default=KINDS)
    options = parser.parse_args()
    known = {each.id for each in MATRIX}
    if unknown := set(options.ids) - known:
        parser.error(f"There is no {', '.join(sorted(unknown))}. Rows: {' '.join(sorted(known))}.")
    return options


if __name__ == "__main__":
    main()
