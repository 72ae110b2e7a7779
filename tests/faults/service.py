"""`python -P -m tests.faults.service`: the service; FAULT is what it does."""

from __future__ import annotations

import os
import sys

from gammabeta import failpoints
from service.__main__ import main
from tests.faults.sabotage import planned

if __name__ == "__main__":
    if "FAULT" in os.environ:
        failpoints.arm(planned(os.environ["FAULT"]))
    sys.exit(main())
