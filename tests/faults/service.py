"""`python -P -m tests.faults.service`: the service; FAULT is what it does; REINS names a file that says so while it
runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from gammabeta import failpoints
from service.__main__ import main
from tests.faults.sabotage import planned
from tests.faults.steered import Steered

if __name__ == "__main__":
    if "FAULT" in os.environ:
        failpoints.arm(planned(os.environ["FAULT"]))
    elif "REINS" in os.environ:
        failpoints.arm(Steered(Path(os.environ["REINS"])))
    sys.exit(main())
