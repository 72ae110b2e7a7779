"""`python -P -m tests.faults.service`: the service; REINS names a file that says what it does while it runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from gammabeta import failpoints
from service.__main__ import main
from tests.faults.steered import Steered

if __name__ == "__main__":
    failpoints.arm(Steered(Path(os.environ["REINS"])))
    sys.exit(main())
