"""A child that says what it may do, instead of training: the module of `tests/threats/test_children.py`."""

from __future__ import annotations

import json
import os
import resource
import threading
from multiprocessing.connection import Connection
from pathlib import Path


def main(connection: Connection) -> None:
    """Of each thread, whether it may gain privileges; the limit on cores; the environment."""
    over = threading.Event()
    other = threading.Thread(target=over.wait)
    other.start()
    tasks = [each.read_text() for each in Path("/proc/self/task").glob("*/status")]
    over.set()
    other.join()
    said = {
        "no_new_privs": [int(each.partition("NoNewPrivs:")[2].split()[0]) for each in tasks],
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "environment": sorted(os.environ),
    }
    connection.send_bytes(json.dumps(said).encode())
