"""What the forkserver of a rigged worker imports once."""

from tests.faults import trainer  # noqa: F401
from worker import preload  # noqa: F401
