"""`gammabeta datasets`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gammabeta.cli import show
from gammabeta.cli.options import AsJson, Limit, ListByDefault, Url, connect
from gammabeta.schemas.datasets import DatasetFormat

app = typer.Typer(cls=ListByDefault, help="Upload, list, show and delete data sets.")


@app.command()
def upload(
    file: Annotated[Path, typer.Argument(help="A csv or npz file, or a zip of images.")],
    name: Annotated[str | None, typer.Option(help="Default: the name of the file.")] = None,
    target: Annotated[str | None, typer.Option(help="csv: the column to predict.")] = None,
    test_fraction: Annotated[float | None, typer.Option(help="Draw a test split, 0.2 for instance.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of that draw.")] = None,
    categorical: Annotated[list[str] | None, typer.Option(help="csv: a column of categories; repeatable.")] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="csv: a column to leave out; repeatable.")] = None,
    test_of: Annotated[str | None, typer.Option(help="This file is the test split of that data set (ds_…).")] = None,
    format: Annotated[DatasetFormat | None, typer.Option(help="Default: from the ending.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait until the file was read.")] = True,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Send a file and wait until it was read."""
    with connect(url) as client:
        found = client.datasets.upload(
            file,
            name=name,
            target=target,
            test_fraction=test_fraction,
            seed=seed,
            categorical=categorical or (),
            ignore=ignore or (),
            test_of=test_of,
            format=format,
            wait=wait,
        )
    show.as_json(found) if as_json else show.out(show.dataset(found))


@app.command("list")
def list_(limit: Limit = 20, as_json: AsJson = False, url: Url = None) -> None:
    """List data sets, newest first."""
    with connect(url) as client:
        found = client.datasets.list(limit=limit)
    show.as_json(found) if as_json else show.out(show.datasets(found))


@app.command("show")
def show_(dataset: str, as_json: AsJson = False, url: Url = None) -> None:
    """Show a data set, by id or name."""
    with connect(url) as client:
        found = client.datasets.get(dataset)
    show.as_json(found) if as_json else show.out(show.dataset(found))


@app.command()
def delete(dataset: str, url: Url = None) -> None:
    """Delete a data set that no queued or running job uses; models trained on it stay."""
    with connect(url) as client:
        client.datasets.delete(dataset)
    show.note(f"Deleted {dataset}.")
