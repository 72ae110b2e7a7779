"""`python -P -m worker`: run jobs until SIGTERM or SIGINT, then drain, so long and no longer; a second one leaves at
once. Exit 78: with these settings nothing can be stored."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from pydantic import ValidationError

from gammabeta import logs
from gammabeta.confinement import conceal, confine
from gammabeta.errors import GammabetaError
from gammabeta.store.blobs import open_blobs
from worker import leaving
from worker.children import Children
from worker.settings import WorkerSettings, forget_environment
from worker.supervisor import Supervisor

EX_CONFIG = 78


def main(children: Children | None = None) -> int:
    """The exit status. `children`: how to start them, where it is not as usual."""
    try:
        settings = WorkerSettings()
        blobs = open_blobs(settings)  # it reads credentials, which are forgotten before anything is started
    except ValidationError as error:
        print(error, file=sys.stderr)
        return 2
    except GammabetaError as error:
        print(error, file=sys.stderr)
        return EX_CONFIG
    forget_environment()
    confine()
    conceal()
    logs.set_up(level=settings.log_level)
    if (complaint := blobs.complaint()) is not None:
        print(complaint, file=sys.stderr)
        return EX_CONFIG
    try:
        supervisor = Supervisor(settings, children or Children(), blobs)
        _handle_signals(supervisor)
        with leaving.in_time(supervisor.draining, seconds=settings.stop_seconds, leave=lambda: os._exit(1)):
            supervisor.run()
    except (GammabetaError, ValueError) as error:
        logs.get(__name__).error("worker stopped", why=str(error))
        return 1
    return 0


def _handle_signals(supervisor: Supervisor) -> None:
    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        if supervisor.draining.is_set():
            os._exit(128 + number)  # the kernel ends the children; their leases run out
        supervisor.drain()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)


if __name__ == "__main__":
    sys.exit(main())
