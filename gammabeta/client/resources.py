"""What a service has: data sets, jobs, models and keys."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, overload
from urllib.parse import quote
from uuid import uuid4
from zipfile import BadZipFile, ZipFile

import orjson
from numpy.typing import ArrayLike
from pydantic import BaseModel

from gammabeta.client.arrays import StoredState, npz_file, state_of
from gammabeta.client.connection import Body, Connection, Params, not_understood, parse
from gammabeta.client.waiting import JobHandle, ask, polled
from gammabeta.errors import DatasetInvalid, InvalidRequest
from gammabeta.schemas.datasets import Dataset, DatasetFormat, Preview
from gammabeta.schemas.jobs import DryRun, Job, PredictDatasetRequest, PredictDryRun, TrainRequest
from gammabeta.schemas.keys import Key, NewKey, Scope
from gammabeta.schemas.models import Alias, BatchNormAnswer, Model, Served, Version
from gammabeta.schemas.problems import shortened
from gammabeta.schemas.usage import Usage
from gammabeta.schemas.workers import Worker

Data: TypeAlias = str | Path | bytes | tuple[ArrayLike, ArrayLike] | Mapping[str, ArrayLike]
"""A file, its bytes, `(x, y)`, or arrays by the names that an npz of the service has (`x_train`, `y_train`, …)."""
Submission: TypeAlias = TrainRequest | PredictDatasetRequest
Order: TypeAlias = Literal["asc", "desc"]

NOT_OF_CSV: dict[DatasetFormat, str] = {
    "npz": "the arrays of an npz file are named x and y",
    "image_zip": "the classes of images are the names of their folders",
}
"""What stands in for the options of csv in the other formats."""
PAGE = 100
JSON = {"Content-Type": "application/json"}

EntryT = TypeVar("EntryT", bound=BaseModel)


class Datasets:
    """Data sets: `client.datasets`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def upload(
        self,
        data: Data,
        *,
        name: str | None = None,
        format: DatasetFormat | None = None,
        target: str | None = None,
        test_fraction: float | None = None,
        seed: int | None = None,
        categorical: Sequence[str] = (),
        ignore: Sequence[str] = (),
        test_of: str | None = None,
        wait: bool = True,
        timeout: float | None = None,
    ) -> Dataset:
        """Send a data set.

        Args:
            data: a path (streamed from disk), the bytes of a file, `(x, y)`, or a dict of arrays.
            name: None: the name of the file.
            format: None: from the file's ending or its first bytes.
            target: csv: the column to predict.
            test_fraction: draw a test split by `seed`, where the file has none.
            categorical: csv: columns that hold categories although they look like numbers.
            ignore: csv: columns to leave out.
            test_of: the id of a data set whose test split this file is; `name` is then not used.
            wait: until it was read.

        Raises:
            DatasetInvalid: the file was read and refused (with `wait`).
            TimeoutError: it was not read within `timeout` seconds (with `wait`).
        """
        format = format or _format_of(data)
        if format in NOT_OF_CSV:
            _refuse_options_of_csv(NOT_OF_CSV[format], target=target, categorical=categorical, ignore=ignore)
        params: Params = {
            "name": None if test_of else name or _name_of(data),
            "format": format,
            "target": target,
            "test_fraction": test_fraction,
            "seed": seed,
            "categorical": ",".join(categorical) or None,
            "ignore": ",".join(ignore) or None,
            "split": "test" if test_of else None,
            "of": test_of,
        }
        with _body_of(data) as body:
            # An upload that broke off may be sent again under its key: the service keeps the first that was whole.
            response = self._connection.request(
                "POST", "/v1/datasets", params=params, body=body, headers=_keyed(None), repeatable=True
            )
        dataset = parse(Dataset, response)
        if not wait:
            return dataset
        ready = self.wait(dataset.id, timeout=timeout)
        if test_of is not None:
            self._raise_refusal_of_second_file(ready.id)
        return ready

    def _raise_refusal_of_second_file(self, dataset: str) -> None:
        """The data set is `ready` as it was before a bad second file; why that was refused stands in its job."""
        newest = _listed(self._connection, Job, "/v1/jobs", {"kind": "ingest"}, PAGE)
        error = next((job.error for job in newest if job.dataset == dataset), None)
        if error is not None:
            raise DatasetInvalid(error.code, error.message)

    def wait(self, dataset: str, *, timeout: float | None = None) -> Dataset:
        """Wait until the file was read. Raises DatasetInvalid where it was refused."""
        for seen in polled(self._connection, lambda: self.get(dataset), timeout):
            if seen.state == "ready":
                return seen
            if seen.state == "failed":
                raise DatasetInvalid(
                    *((seen.error.code, seen.error.message) if seen.error else ("failed", "no reason"))
                )
        raise TimeoutError(f"Dataset {dataset} must be read within {timeout:g} seconds. Received: still validating.")

    def get(self, dataset: str) -> Dataset:
        """By id or name."""
        return self._connection.read(Dataset, _path("datasets", dataset))

    def list(self, *, limit: int | None = PAGE, order: Order = "desc") -> list[Dataset]:
        return [*_listed(self._connection, Dataset, "/v1/datasets", {"order": order}, limit)]

    def preview(self, dataset: str, *, rows: int = 20) -> Preview:
        return self._connection.read(Preview, f"{_path('datasets', dataset)}/preview", params={"rows": rows})

    def delete(self, dataset: str) -> None:
        self._connection.request("DELETE", _path("datasets", dataset))


class Jobs:
    """Jobs: `client.jobs`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def submit(self, request: Submission | Mapping[str, Any], *, idempotency_key: str | None = None) -> JobHandle:
        """Put a job into the queue. Without a key one is made, so that a submission whose answer was lost is not run
        twice."""
        response = self._connection.request(
            "POST", "/v1/jobs", body=_json(request), headers=JSON | _keyed(idempotency_key), repeatable=True
        )
        return JobHandle(self._connection, parse(Job, response))

    @overload
    def dry_run(self, request: TrainRequest) -> DryRun: ...

    @overload
    def dry_run(self, request: PredictDatasetRequest) -> PredictDryRun: ...

    @overload
    def dry_run(self, request: Mapping[str, Any]) -> DryRun | Any: ...

    def dry_run(self, request: Submission | Mapping[str, Any]) -> DryRun | PredictDryRun:
        """What a submission would do: the resolved request; of a training the layer table and remarks, of a prediction
        its rows and columns."""
        response = self._connection.request(
            "POST", "/v1/jobs", params={"dry_run": True}, body=_json(request), headers=JSON, repeatable=True
        )
        kind = request.get("kind") if isinstance(request, Mapping) else request.kind
        return parse(PredictDryRun, response) if kind == "predict" else parse(DryRun, response)

    def get(self, job: str) -> JobHandle:
        return JobHandle(self._connection, self._connection.read(Job, _path("jobs", job)))

    def list(
        self,
        *,
        status: str | None = None,
        kind: str | None = None,
        model: str | None = None,
        metadata: Mapping[str, str] | None = None,
        limit: int | None = PAGE,
        order: Order = "desc",
    ) -> list[Job]:
        marks = {f"metadata[{key}]": value for key, value in (metadata or {}).items()}
        params: Params = {"status": status, "kind": kind, "model": model, "order": order, **marks}
        return [*_listed(self._connection, Job, "/v1/jobs", params, limit)]

    def cancel(self, job: str) -> Job:
        return self._ask(job, "cancel")

    def pause(self, job: str) -> Job:
        return self._ask(job, "pause")

    def resume(self, job: str) -> Job:
        return self._ask(job, "resume")

    def retry(self, job: str) -> Job:
        return self._ask(job, "retry")

    def delete(self, job: str) -> None:
        """One that has ended, with its events, series and files. The version that it made must be deleted before."""
        self._connection.request("DELETE", _path("jobs", job))

    def _ask(self, job: str, verb: str) -> Job:
        return ask(self._connection, _path("jobs", job), verb)


class Models:
    """Models, versions, aliases and their batch-norm states: `client.models`.

    Where a version can be left out, it is what a prediction would use: the alias `production`, or else the newest.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get(self, name: str) -> Model:
        return self._connection.read(Model, _path("models", name))

    def list(self, *, limit: int | None = PAGE, order: Order = "desc") -> list[Model]:
        return [*_listed(self._connection, Model, "/v1/models", {"order": order}, limit, key="name")]

    def version(self, name: str, version: str | int | None = None) -> Version:
        return self._connection.read(Version, self._version_path(name, version))

    def batchnorm(self, name: str, version: str | int | None = None) -> StoredState:
        """gamma, beta, moving mean and variance of every layer as float32 arrays, checked against their digest, with
        its arguments."""
        return state_of(self._connection.read(BatchNormAnswer, f"{self._version_path(name, version)}/batchnorm"))

    def served(self, name: str, version: str | int | None = None) -> Served:
        """What is in the memory of the process that answers, its digest computed now."""
        return self._connection.read(Served, f"{self._version_path(name, version)}/served")

    def alias(self, name: str, alias: str, version: str | int) -> Alias:
        """Let the alias name this version, at once for every later prediction."""
        path = f"{_path('models', name)}/aliases/{quote(alias, safe='')}"
        return parse(
            Alias, self._connection.request("PUT", path, body=_dumped({"version": str(version)}), headers=JSON)
        )

    def remove_alias(self, name: str, alias: str) -> None:
        """Forget the alias; its version stays."""
        self._connection.request("DELETE", f"{_path('models', name)}/aliases/{quote(alias, safe='')}")

    def delete(self, name: str, version: str | int | None = None) -> None:
        """A version, or without one the model with all its versions. One with an alias, or that a job which has not
        ended uses, is refused."""
        path = _path("models", name)
        if version is not None:  # whatever it is, it does not stand for the default
            path += f"/versions/{quote(str(version), safe='')}"
        self._connection.request("DELETE", path)

    def _version_path(self, name: str, version: str | int | None) -> str:
        return f"{_path('models', name)}/versions/{quote(str(version or self._default(name)), safe='')}"

    def _default(self, name: str) -> str:
        model = self.get(name)
        return model.aliases.get("production") or model.versions[0].version


class Keys:
    """API keys: `client.keys`. They ask for a key with the scope `admin`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(
        self, name: str, scopes: Sequence[Scope | str], *, expires: str | None = None, owner: str | None = None
    ) -> NewKey:
        """Make a key; `key` of the answer is shown this once.

        Args:
            scopes: some of `read`, `train`, `predict` and `admin`.
            expires: after how long it stops working, such as `90d`, `12h` or `30m`. None: never.
            owner: whose jobs are counted together. None: each key is its own.
        """
        request = {"name": name, "scopes": [str(scope) for scope in scopes], "expires": expires, "owner": owner}
        return parse(NewKey, self._connection.request("POST", "/v1/keys", body=_dumped(request), headers=JSON))

    def list(self) -> list[Key]:
        """All of them, the newest first, those too that do not work any more."""
        return [*_listed(self._connection, Key, "/v1/keys", {}, None)]

    def revoke(self, key: str) -> None:
        """End a key for ever, by its id."""
        self._connection.request("DELETE", _path("keys", key))


def usage(connection: Connection) -> Usage:
    """What the project of the key has stored."""
    return connection.read(Usage, "/v1/usage")


def workers(connection: Connection) -> list[Worker]:
    """All workers, which come on one page."""
    return [*_listed(connection, Worker, "/v1/workers", {}, None)]


def _listed(
    connection: Connection, shape: type[EntryT], path: str, params: Params, limit: int | None, *, key: str = "id"
) -> Iterator[EntryT]:
    """The entries of all pages, up to `limit`."""
    after: str | None = None
    left = limit
    while left is None or left > 0:
        size = PAGE if left is None else min(PAGE, left)
        response = connection.request("GET", path, params={**params, "limit": size, "after": after})
        try:
            page = orjson.loads(response.content)
            entries = [shape.model_validate(entry) for entry in page["data"]]
            more = bool(page["has_more"])
        except (ValueError, KeyError, TypeError) as exc:
            raise not_understood(response, f"{type(exc).__name__} {exc}") from exc
        yield from entries
        if not more or not entries:
            return
        after = page.get("last_id") or str(getattr(entries[-1], key))
        left = None if left is None else left - len(entries)


def _path(kind: str, name: str) -> str:
    return f"/v1/{kind}/{quote(name, safe='')}"


def _keyed(key: str | None) -> dict[str, str]:
    return {"Idempotency-Key": key or uuid4().hex}


def _json(request: Submission | Mapping[str, Any]) -> bytes:
    return _dumped(dict(request) if isinstance(request, Mapping) else request.model_dump(mode="json"))


def _dumped(value: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(value, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY)
    except orjson.JSONEncodeError as exc:
        raise InvalidRequest.of("body", f"must be what JSON can hold ({exc})", shortened(value)) from exc


def _plain(value: Any) -> Any:
    """A spec inside a dict, as JSON can hold it."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(type(value).__name__)


def _body_of(data: Data) -> AbstractContextManager[Body]:
    match data:
        case bytes():
            return nullcontext(data)
        case str() | Path():
            return nullcontext(_existing(Path(data)))
        case (x, y):
            return npz_file({"x": x, "y": y})
        case Mapping():
            return npz_file(data)
    raise InvalidRequest.of(
        "data", "must be a path, bytes, (x, y) or a dict of arrays. Write (x, y), for instance.", type(data).__name__
    )


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise InvalidRequest.of("data", "must be a file that exists. Look at its path.", str(path))
    return path


def _name_of(data: Data) -> str:
    if not isinstance(data, str | Path):
        raise InvalidRequest.of("name", 'is required where no file gives one. Write name="digits", for instance.')
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(data).stem).lstrip("._-")[:64] or "dataset"


def _refuse_options_of_csv(instead: str, **options: str | Sequence[str] | None) -> None:
    for name, value in options.items():
        if value:
            raise InvalidRequest.of(name, f"is for csv files. Leave it out: {instead}", value)


def _format_of(data: Data) -> DatasetFormat:
    if isinstance(data, bytes):
        return _format_of_bytes(data)
    if not isinstance(data, str | Path):
        return "npz"
    match Path(data).suffix.lower():
        case ".csv":
            return "csv"
        case ".npz":
            return "npz"
        case ".zip":
            return "image_zip"
    formats = '"csv", "npz" or "image_zip"'
    raise InvalidRequest.of("format", f"must be {formats} where the file's name does not say it.", str(data))


def _format_of_bytes(data: bytes) -> DatasetFormat:
    """An npz file is a zip too, of arrays alone. A zip that cannot be read is sent, and the service says why not."""
    if not data.startswith(b"PK"):
        return "csv"
    try:
        with ZipFile(BytesIO(data)) as archive:
            return "npz" if all(name.endswith(".npy") for name in archive.namelist()) else "image_zip"
    except BadZipFile:
        return "npz"
