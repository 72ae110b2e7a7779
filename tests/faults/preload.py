"""What the forkserver of a rigged worker imports once; that it has, its name tells."""

from pathlib import Path

from tests.faults import trainer  # noqa: F401
from tests.faults.steered import WARM
from worker import preload  # noqa: F401

Path("/proc/self/comm").write_text(WARM)
