"""`python -P -m tests.faults.worker`: the worker, with trainers that do what a job's `fault` says. REINS names a file
that says while it runs what the supervisor itself does; without it, it walks into the traps of its home."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from gammabeta import failpoints
from tests.faults.sabotage import trapped
from tests.faults.steered import Steered
from worker.__main__ import main
from worker.children import Children

if __name__ == "__main__":
    if "REINS" in os.environ:
        failpoints.arm(Steered(Path(os.environ["REINS"])))
    else:
        failpoints.arm(trapped(Path(os.environ["GAMMABETA_HOME"]) / "traps"))
    sys.exit(main(Children(trainer="tests.faults.trainer", preload="tests.faults.preload")))
