"""`gammabeta jobs`, `gammabeta train` and `gammabeta workers`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from gammabeta.cli import show
from gammabeta.cli.options import AsJson, Limit, ListByDefault, Url, connect
from gammabeta.client.client import Client
from gammabeta.client.waiting import JobHandle
from gammabeta.errors import MalformedRequest
from gammabeta.schemas.jobs import Event


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers, which are JSON's: PyYAML takes 1e-3 for text, as it has no point."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789"))

app = typer.Typer(cls=ListByDefault, help="List, show, watch, pause and cancel jobs.")


@app.command("list")
def list_(
    status: Annotated[str | None, typer.Option(help="queued, running, succeeded, …")] = None,
    kind: Annotated[str | None, typer.Option(help="train, …")] = None,
    model: Annotated[str | None, typer.Option(help="Jobs of this model.")] = None,
    limit: Limit = 20,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """List jobs, newest first."""
    with connect(url) as client:
        found = client.jobs.list(status=status, kind=kind, model=model, limit=limit)
    show.as_json(found) if as_json else show.out(show.jobs(found))


@app.command("show")
def show_(job: str, as_json: AsJson = False, url: Url = None) -> None:
    """Show a job."""
    with connect(url) as client:
        handle = client.jobs.get(job)
        if as_json:
            show.as_json(handle.job)
        else:
            show.out(show.job(handle.job))
            report(client, handle)


@app.command()
def cancel(job: str, url: Url = None) -> None:
    """Cancel a job that is queued, running or paused."""
    with connect(url) as client:
        found = client.jobs.cancel(job)
    show.note(f"{job} is {found.status}.")


@app.command()
def pause(job: str, url: Url = None) -> None:
    """Ask a running job to stop at a checkpoint and wait."""
    with connect(url) as client:
        found = client.jobs.pause(job)
    show.note(f"{job} is {found.status}, and is asked to pause. Go on later: gammabeta jobs resume {job}")


@app.command()
def resume(job: str, url: Url = None) -> None:
    """Queue a paused job again."""
    with connect(url) as client:
        found = client.jobs.resume(job)
    show.note(f"{job} is {found.status}.")


@app.command()
def retry(job: str, url: Url = None) -> None:
    """Queue a failed or cancelled job again."""
    with connect(url) as client:
        found = client.jobs.retry(job)
    show.note(f"{job} is {found.status}.")


@app.command()
def events(
    job: str,
    after: Annotated[int, typer.Option(help="The id of the last event already seen.")] = 0,
    url: Url = None,
) -> None:
    """Follow what happens to a job, until its end."""
    with connect(url) as client:
        for event in client.jobs.get(job).events(after=after):
            show.out(show.event(event))


@app.command()
def metrics(
    job: str,
    names: Annotated[str, typer.Option(help="Separated by commas; default: all.")] = "",
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Show loss, accuracy and the other series of a job."""
    wanted = [name for name in names.split(",") if name]
    with connect(url) as client:
        found = client.jobs.get(job).metrics(wanted)
    show.as_json(found) if as_json else show.out(show.metrics(found))


@app.command()
def wait(job: str, url: Url = None) -> None:
    """Wait for the end of a job, with a progress bar."""
    with connect(url) as client:
        follow(client, client.jobs.get(job))


def workers(as_json: AsJson = False, url: Url = None) -> None:
    """List the workers and what they run."""
    with connect(url) as client:
        found = client.workers()
    show.as_json(found) if as_json else show.out(show.workers(found))


def train(
    file: Annotated[Path, typer.Argument(help="The job, as YAML or JSON. Look at /docs for its fields.")],
    follow_: Annotated[bool, typer.Option("--follow", "-f", help="Stay, with a progress bar, until its end.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the layers, and what is remarkable.")] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Submit a training job."""
    request = read_job(file)
    with connect(url) as client:
        if dry_run:
            planned = client.jobs.dry_run(request)
            show.as_json(planned) if as_json else show.out(show.dry_run(planned))
            return
        handle = client.jobs.submit(request)
        if follow_:
            follow(client, handle)
        elif as_json:
            show.as_json(handle.job)
        else:
            show.out(f"{handle.id} is {handle.job.status}. Follow it: gammabeta jobs wait {handle.id}")


def follow(client: Client, handle: JobHandle) -> None:
    """Wait with a progress bar; Ctrl-C leaves the job alone."""
    try:
        job = handle.wait(progress=True)
    except KeyboardInterrupt:
        show.note(f"The job goes on. Stop it: gammabeta jobs cancel {handle.id}")
        raise
    for warning in job.warnings:
        show.note(f"warning: {warning.message} [{warning.code}]")
    if job.version:
        show.out(f"{job.model} version {job.version} is published by {job.id}.")
    report(client, handle)


def report(client: Client, handle: JobHandle) -> None:
    """What a train job that succeeded has published: its scores, and the epoch of its weights."""
    job = handle.job
    if not job.model or not job.version:
        return
    show.out("", show.scores(client.models.version(job.model, job.version).metrics))
    if stopped := early_stop(handle):
        show.out(show.early_stop(stopped))


def early_stop(handle: JobHandle) -> Event | None:
    """The event of an early stop, of the newest attempt that had one. The job must have ended."""
    if not handle.job.request.get("training", {}).get("early_stopping"):
        return None
    found = [event for event in handle.events() if event.type == "stopped_early"]
    return found[-1] if found else None


def read_job(file: Path) -> dict[str, Any]:
    """A job from a YAML or JSON file (JSON is YAML)."""
    try:
        value = yaml.load(file.read_text(), Loader=_Loader)  # noqa: S506  a SafeLoader
    except OSError as exc:
        raise MalformedRequest(
            f"The job must be in a file that can be read. Received: {file}: {exc.strerror}."
        ) from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise MalformedRequest(f"{file} must be YAML or JSON. Received: {' '.join(str(exc).split())}.") from exc
    if not isinstance(value, dict):
        raise MalformedRequest(
            f"{file} must hold an object with dataset, model and network. Received: {type(value).__name__}."
        )
    return value
