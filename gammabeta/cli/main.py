"""The command `gammabeta`: a thin skin on the client.

Exit codes: 0 done · 1 a job failed, or the service refused · 2 the command or the request is wrong · 3 no service
answered, or it is not ready · 4 what is stored is damaged · 130 Ctrl-C.
"""

from __future__ import annotations

import sys

import typer

from gammabeta import __version__
from gammabeta.cli import admin, datasets, demo, jobs, models, show
from gammabeta.cli.failures import CommandFailed, Damaged
from gammabeta.cli.options import Url, connect
from gammabeta.client import failures
from gammabeta.errors import (
    DatasetNotFound,
    GammabetaError,
    InvalidRequest,
    JobNotFound,
    KeyNotFound,
    MalformedRequest,
    ModelNotFound,
    NotReady,
    ServiceUnreachable,
    VersionNotFound,
)

app = typer.Typer(
    help="Train networks with batch normalization over HTTP; predict from their stored moving statistics.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(admin.up)
app.command()(demo.demo)
app.add_typer(datasets.app, name="datasets")
app.command()(jobs.train)
app.add_typer(jobs.app, name="jobs")
app.command()(jobs.workers)
app.command()(jobs.usage)
app.add_typer(models.app, name="models")
app.command()(models.predict)
app.command()(jobs.predict_dataset)
app.add_typer(models.batchnorm_app, name="batchnorm")
app.add_typer(admin.keys_app, name="keys")
app.add_typer(admin.app, name="db")


@app.command()
def version(url: Url = None) -> None:
    """Print the version of the client, and of the service if one answers."""
    show.out(f"client   {__version__}")
    with connect(url) as client:
        show.out(f"service  {client.service_version()} at {client.url}" if client.ready() else "service  none answers")


def main() -> None:
    """Run a command. What gammabeta raises on purpose is one red line, never a traceback."""
    try:
        app()
    except (GammabetaError, CommandFailed) as error:
        show.error(readable(error))
        sys.exit(exit_code(error))


def readable(error: GammabetaError | CommandFailed) -> str:
    """What must hold, what was received and what to do: a line for each wrong field."""
    fields = error.errors if isinstance(error, InvalidRequest) else ()
    lines = [*map(failures.sentence, fields)] or [error.message]
    return "\n".join([*lines, *_commands(error)])


def _commands(error: GammabetaError | CommandFailed) -> list[str]:
    """What lists the names there are: the message speaks of routes, since not only this program reads it."""
    match error:
        case DatasetNotFound():
            return ["On the command line: gammabeta datasets"]
        case JobNotFound():
            return ["On the command line: gammabeta jobs"]
        case KeyNotFound():
            return ["On the command line: gammabeta keys"]
        case ModelNotFound():
            return ["On the command line: gammabeta models"]
        case VersionNotFound():
            return ["On the command line: gammabeta models show NAME"]
    return []


def exit_code(error: GammabetaError | CommandFailed) -> int:
    """What the shell is told."""
    match error:
        case InvalidRequest() | MalformedRequest():
            return 2
        case NotReady() | ServiceUnreachable():
            return 3
        case Damaged():
            return 4
    return 1
