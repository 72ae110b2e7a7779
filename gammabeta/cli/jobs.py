"""`gammabeta jobs`, `gammabeta train`, `gammabeta predict-dataset`, `gammabeta workers` and `gammabeta usage`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import RenderableType

from gammabeta.cli import show
from gammabeta.cli.options import AsJson, Limit, ListByDefault, Url, connect
from gammabeta.client.client import Client
from gammabeta.client.waiting import JobHandle
from gammabeta.errors import MalformedRequest
from gammabeta.schemas.datasets import Split
from gammabeta.schemas.jobs import AnswerFormat, DryRun, Event, Job, PredictDryRun


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers, which are JSON's: PyYAML takes 1e-3 for text, as it has no point."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789"))

app = typer.Typer(cls=ListByDefault, help="List, show, watch, pause, cancel and delete jobs.")


@app.command("list")
def list_(
    status: Annotated[str | None, typer.Option(help="queued, running, succeeded, …")] = None,
    kind: Annotated[str | None, typer.Option(help="train, predict or ingest.")] = None,
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
def delete(job: str, url: Url = None) -> None:
    """Delete a job that has ended, with its events, series and files; its version must be deleted before."""
    with connect(url) as client:
        client.jobs.delete(job)
    show.note(f"Deleted {job}.")


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


def usage(as_json: AsJson = False, url: Url = None) -> None:
    """Show how many bytes data sets, models and jobs take, and how many they may."""
    with connect(url) as client:
        found = client.usage()
    show.as_json(found) if as_json else show.out(show.usage(found))


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
            planned: DryRun | PredictDryRun = client.jobs.dry_run(request)
            show.as_json(planned) if as_json else show.out(_planned(planned))
            return
        handle = client.jobs.submit(request)
        if follow_:
            follow(client, handle)
        elif as_json:
            show.as_json(handle.job)
        else:
            show.out(f"{handle.id} is {handle.job.status}. Follow it: gammabeta jobs wait {handle.id}")


def _planned(planned: DryRun | PredictDryRun) -> RenderableType:
    return show.dry_run(planned) if isinstance(planned, DryRun) else show.predict_dry_run(planned)


def predict_dataset(
    model: str,
    dataset: str,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where to save the answers. Default: predictions.FORMAT, here."),
    ] = None,
    split: Annotated[Split | None, typer.Option(help="Default: test where there is one, else train.")] = None,
    format: Annotated[AnswerFormat | None, typer.Option(help="Default: from the ending of --output, or csv.")] = None,
    version: Annotated[
        str | None, typer.Option("--version", help="Default: the alias production, or else the newest.")
    ] = None,
    alias: Annotated[str | None, typer.Option(help="Predict with the version of this alias.")] = None,
    max_seconds: Annotated[int | None, typer.Option(help="The longest that an attempt may run.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait for the answers, and save them.")] = True,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Answer every row of a data set into a csv or Parquet file."""
    format = format or ("parquet" if output is not None and output.suffix.lower() == ".parquet" else "csv")
    _check_folder(output)
    with connect(url) as client:
        handle = client.predict_dataset(
            model, dataset, split=split, format=format, version=version, alias=alias, max_seconds=max_seconds
        )
        if not wait:
            show.as_json(handle.job) if as_json else show.out(
                f"{handle.id} is {handle.job.status}. Follow it: gammabeta jobs wait {handle.id}"
            )
            return
        _wait(handle, quiet=as_json)
        saved = handle.download(output)
    show.as_json(handle.job) if as_json else show.out(show.answers(handle.job, saved))


def _check_folder(output: Path | None) -> None:
    """Before hours are computed for a file that has no place."""
    if output is not None and not output.is_dir() and not output.absolute().parent.is_dir():
        raise MalformedRequest(f"--output must be in a folder that exists. Received: {output}. Make the folder first.")


@app.command()
def download(
    job: str,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file or a folder. Default: its own name, here.")
    ] = None,
    url: Url = None,
) -> None:
    """Save the file that a job has made: the answers of a prediction."""
    _check_folder(output)
    with connect(url) as client:
        handle = client.jobs.get(job)
        saved = handle.download(output)
    show.out(show.answers(handle.job, saved))


def follow(client: Client, handle: JobHandle) -> None:
    """Wait with a progress bar; Ctrl-C leaves the job alone."""
    job = _wait(handle)
    for warning in job.warnings:
        show.note(f"warning: {warning.message} [{warning.code}]")
    if job.version:
        show.out(f"{job.model} version {job.version} is published by {job.id}.")
    report(client, handle)


def _wait(handle: JobHandle, *, quiet: bool = False) -> Job:
    try:
        return handle.wait(progress=not quiet)
    except KeyboardInterrupt:
        show.note(f"The job goes on. Stop it: gammabeta jobs cancel {handle.id}")
        raise


def report(client: Client, handle: JobHandle) -> None:
    """What a job that succeeded has made: of a training its scores, and the epoch of its weights; of a prediction its
    file."""
    job = handle.job
    if job.result and "file" in job.result:
        show.out(show.answers(job), f"Save it: gammabeta jobs download {job.id}")
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
