"""`gammabeta models`, `gammabeta predict` and `gammabeta batchnorm`."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any
from zipfile import BadZipFile

import numpy as np
import orjson
import typer
from numpy.typing import NDArray

from gammabeta.cli import show
from gammabeta.cli.options import AsJson, Limit, ListByDefault, Url, connect
from gammabeta.client.arrays import StoredState
from gammabeta.client.chunks import Rows
from gammabeta.client.client import Client
from gammabeta.errors import MalformedRequest
from gammabeta.schemas.preprocessing import FittedPreprocessing, FittedTable

app = typer.Typer(cls=ListByDefault, help="List, show and delete models, and move their aliases.")
batchnorm_app = typer.Typer(help="Look at the batch-norm state of a model.")

ZIP = b"PK\x03\x04"
IMAGES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
"""How PNG and JPEG files begin."""

AVersion = Annotated[str | None, typer.Option("--version", help="Default: the alias production, or else the newest.")]


@app.command("list")
def list_(limit: Limit = 20, as_json: AsJson = False, url: Url = None) -> None:
    """List models, newest first."""
    with connect(url) as client:
        found = client.models.list(limit=limit)
    show.as_json(found) if as_json else show.out(show.models(found))


@app.command("show")
def show_(
    model: str,
    number: Annotated[str | None, typer.Argument(metavar="VERSION", help="Default: all.", show_default=False)] = None,
    version: Annotated[str | None, typer.Option("--version", help="The same as VERSION.")] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Show a model and its versions, or one version."""
    if number and version:
        raise MalformedRequest(f"VERSION must be written once. Received: {number} and --version {version}.")
    version = number or version
    with connect(url) as client:
        if version is None:
            found = client.models.get(model)
            show.as_json(found) if as_json else show.out(show.model(found))
        else:
            one = client.models.version(model, version)
            show.as_json(one) if as_json else show.out(show.version(one))


@app.command()
def alias(model: str, alias: str, version: str, url: Url = None) -> None:
    """Let an alias name a version: gammabeta models alias digits production 3."""
    with connect(url) as client:
        moved = client.models.alias(model, alias, version)
    show.note(f"{moved.alias} of {moved.model} is version {moved.version}.")


@app.command()
def delete(
    model: str,
    version: Annotated[str | None, typer.Argument(help="Default: all, and so the model.", show_default=False)] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before all versions go.")] = False,
    url: Url = None,
) -> None:
    """Delete a version, or a model with all its versions. What has an alias, or is used by a job, is refused."""
    with connect(url) as client:
        if version is None and not yes:
            count = len(client.models.get(model).versions)
            typer.confirm(f"Delete {model} with all its versions ({count})?", abort=True, err=True)
        client.models.delete(model, version)
    show.note(f"Deleted {model}." if version is None else f"Deleted version {version} of {model}.")


@batchnorm_app.command("show")
def show_batchnorm(
    model: str,
    version: AVersion = None,
    every_channel: Annotated[bool, typer.Option("--all", help="Every channel, however many there are.")] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Show gamma, beta, moving mean and moving variance of each layer, and its arguments."""
    with connect(url) as client:
        state = client.models.batchnorm(model, version)
    show.json(_plain(state)) if as_json else show.out(show.batchnorm(state, every_channel=every_channel))


def _plain(state: StoredState) -> dict[str, Any]:
    return {"digest": state.digest, "layers": [vars(layer) for layer in state.layers]}


def predict(
    model: str,
    input: Annotated[
        str, typer.Option("--input", "-i", help="JSON rows, a csv, an npz with x or x_test, or an image. '-': stdin.")
    ],
    version: AVersion = None,
    alias: Annotated[str | None, typer.Option(help="Predict with the version of this alias.")] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Predict rows of raw values."""
    with connect(url) as client:
        rows = _rows(lambda: _preprocessing(client, model, version, alias), input)
        found = client.predict(model, rows, version=version, alias=alias)
    if as_json:
        show.json({name: value for name, value in vars(found).items() if name == "classes" or len(value)})
    else:
        show.out(show.prediction(found))


def _preprocessing(client: Client, model: str, version: str | None, alias: str | None) -> FittedPreprocessing:
    named = client.models.get(model).aliases.get(alias) if alias else None
    return client.models.version(model, version or named).preprocessing


def _rows(fitted: Callable[[], FittedPreprocessing], source: str) -> Rows:
    data = _read(source)
    if source.lower().endswith(".csv"):
        return _csv_rows(fitted(), data)
    if data.startswith(ZIP):
        return _npz_rows(data)
    if data.startswith(IMAGES):
        return [data]
    rows = _json_rows(data)
    if rows and all(isinstance(row, dict) for row in rows):
        _note_absent(fitted(), {name for row in rows for name in row})
    return rows


def _read(source: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as exc:
        raise MalformedRequest(f"--input must be a file that can be read. Received: {source}: {exc.strerror}.") from exc


def _json_rows(data: bytes) -> list[Any]:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        raise MalformedRequest(
            f"--input must be JSON, an npz, PNG or JPEG file, or a file that ends with .csv. Received: {exc}."
        ) from exc
    rows = value.get("instances") if isinstance(value, dict) else value
    if not isinstance(rows, list):
        raise MalformedRequest('--input must hold a list of rows, or {"instances": [rows]}.')
    return rows


def _npz_rows(data: bytes) -> NDArray[Any]:
    """The array `x`, or else `x_test`: [N, …]."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            for name in ("x", "x_test"):
                if name in arrays.files:
                    return np.asarray(arrays[name])
            received = ", ".join(arrays.files) or "no arrays"
    except (ValueError, OSError, BadZipFile) as exc:
        raise MalformedRequest(f"--input must be an npz file as numpy.savez writes it. Received: {exc}.") from exc
    raise MalformedRequest(f"An npz file must have its rows in an array x, or x_test. Received: {received}.")


def _csv_rows(fitted: FittedPreprocessing, data: bytes) -> list[dict[str, Any]]:
    """Rows by column name: numbers where the model has a numeric column, and nothing where a cell is empty."""
    if not isinstance(fitted, FittedTable):
        raise MalformedRequest(f"A csv file goes with a model of columns. This one takes {fitted.kind}s: send JSON.")
    kinds = {column.name: column.kind for column in fitted.columns}
    reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig", errors="replace")))
    header = reader.fieldnames or ()
    if not kinds.keys() & set(header):
        raise MalformedRequest(
            f"A csv file must have columns of the model in its first line: {', '.join(kinds)}. Received: "
            f"{', '.join(header) or 'nothing'}. Separate them with commas."
        )
    if unused := [name for name in header if name not in kinds]:
        show.note(f"Columns that the model does not read: {', '.join(unused)}.")
    _note_absent(fitted, header)
    return [_record(row, kinds, reader.line_num) for row in reader]


def _record(row: Mapping[Any, Any], kinds: Mapping[str, str], line: int) -> dict[str, Any]:
    if None in row or None in row.values():  # so the reader marks cells without a column, and columns without a cell
        raise MalformedRequest(
            f"Each row of a csv file must have as many cells as the first line. Look at line {line}."
        )
    return {name: _cell(text, kinds[name]) for name, text in row.items() if name in kinds}


def _note_absent(fitted: FittedPreprocessing, present: Collection[str]) -> None:
    if isinstance(fitted, FittedTable):
        absent = [column.name for column in fitted.columns if column.name not in present]
        if absent:
            show.note(f"Columns that no row has, which count as missing values: {', '.join(absent)}.")


def _cell(text: str, kind: str) -> str | float | None:
    if not text.strip():
        return None
    try:
        return float(text) if kind == "numeric" else text
    except ValueError:
        return text  # the service says which row and column must be a number
