"""`python -P -m tests.faults.worker`: the worker, with trainers that do what a job's `fault` says; FAULT is what the
supervisor itself does."""

from __future__ import annotations

import os
import sys

from gammabeta import failpoints
from tests.faults.sabotage import planned
from worker.__main__ import main
from worker.children import Children

if __name__ == "__main__":
    if "FAULT" in os.environ:
        failpoints.arm(planned(os.environ["FAULT"]))
    sys.exit(main(Children(trainer="tests.faults.trainer", preload="tests.faults.preload")))
