"""How the command line shows things: tables on standard output, errors as readable red lines on standard error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import BaseModel
from rich import box
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from gammabeta.cli import arguments
from gammabeta.client.arrays import StoredLayer, StoredState
from gammabeta.client.predicting import Prediction
from gammabeta.client.settings import ClientSettings
from gammabeta.schemas.batchnorm import ARRAYS, LayerState
from gammabeta.schemas.datasets import Dataset, Feature
from gammabeta.schemas.jobs import (
    DryRun,
    Event,
    Job,
    JobWarning,
    LayerRow,
    Message,
    Metrics,
    PredictDryRun,
    Progress,
)
from gammabeta.schemas.keys import Key
from gammabeta.schemas.models import Model, Version
from gammabeta.schemas.usage import Usage
from gammabeta.schemas.workers import Worker

FEW_CHANNELS = 16
"""Up to so many, each channel is shown; beyond, quantiles."""
FEW_CATEGORIES = 3
FEW_ROWS = 50
FEW_NAMES = 3
GAP = 4
SCORES = ("accuracy", "macro_f1", "mae", "rmse", "r2", "loss")
COLD = 0.05

_STATUS = {
    "active": "green",
    "expired": "yellow",
    "revoked": "red",
    "ready": "green",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
    "cancelling": "yellow",
    "paused": "yellow",
    "running": "cyan",
    "validating": "cyan",
}


def _console(*, stderr: bool = False) -> Console:
    # What is shown comes from users and services: nothing in it is markup.
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def out(*what: RenderableType) -> None:
    """On standard output."""
    console = _console()
    for each in what:
        console.print(each)


def heading(text: str) -> None:
    """The title of a step."""
    out("", Text(text, style="bold"))


def note(text: str) -> None:
    """On standard error, so that it never mixes with an answer."""
    _console(stderr=True).print(Text(text, style="dim"), soft_wrap=True)


def error(message: str) -> None:
    """A red line on standard error (one for each wrong field)."""
    _console(stderr=True).print(Text(message, style="red"), soft_wrap=True)


def as_json(value: BaseModel | Iterable[BaseModel]) -> None:
    """JSON on standard output, never wrapped or coloured."""
    plain = (
        value.model_dump(mode="json") if isinstance(value, BaseModel) else [v.model_dump(mode="json") for v in value]
    )
    json(plain)


def json(value: Any) -> None:
    options = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY
    print(orjson.dumps(value, option=options).decode())


def addresses(url: str, home: Path, version: str) -> RenderableType:
    """Where a service that has just started is."""
    rows = {"service": url, "page": f"{url}/ui", "API": f"{url}/docs", "data": str(home)}
    parts: list[RenderableType] = [
        "",
        Text(f"gammabeta {version} is up. Ctrl-C stops it.", style="bold"),
        _pairs(rows),
        "",
    ]
    if url != ClientSettings.model_fields["url"].default:
        parts += ["In other terminals:", Text(f"export GAMMABETA_URL={url}", no_wrap=True), ""]
    return Group(*parts)


def datasets(found: Sequence[Dataset]) -> RenderableType:
    table = _table("id", "name", "state", ">train", ">test", "target", nothing="No data sets yet", of=found)
    for each in found:
        train, test = (f"{each.splits[split]:,}" if split in each.splits else "–" for split in ("train", "test"))
        table.add_row(each.id, each.name, _status(each.state), train, test, _target(each))
    return table


def dataset(shown: Dataset) -> RenderableType:
    rows = {
        "id": shown.id,
        "name": shown.name,
        "state": _status(shown.state),
        "error": f"{shown.error.code}: {shown.error.message}" if shown.error else None,
        "file": f"{shown.format}, {_count(shown.bytes, 'byte')}, sha256 {shown.sha256[:12]}…",
        "rows": ", ".join(f"{count:,} {split}" for split, count in shown.splits.items()) or None,
        "target": _target(shown) or None,
        "created": _time(shown.created_at),
    }
    if not shown.features:
        return _pairs(rows)
    table = _table("feature", "kind", ">missing", "values")
    for feature in shown.features:
        table.add_row(feature.name, _kind(feature), f"{feature.missing:,}", _values(feature))
    return Group(_pairs(rows), "", table)


def _kind(feature: Feature) -> str:
    return f"{feature.kind} {' × '.join(map(str, feature.shape))}".rstrip()


def _values(feature: Feature) -> str:
    if feature.categories is not None:
        labels = [each.label for each in sorted(feature.categories, key=lambda each: -each.count)]
        rest = ["…"] if len(labels) > FEW_CATEGORIES else []
        return f"{_count(len(labels), 'category', 'categories')}: {', '.join(labels[:FEW_CATEGORIES] + rest)}"
    if feature.min is None or feature.max is None:
        return ""
    spread = "" if feature.mean is None or feature.std is None else f", mean {feature.mean:.4g}, std {feature.std:.4g}"
    return f"{feature.min:,.6g} to {feature.max:,.6g}{spread}"


def _target(shown: Dataset) -> str:
    if shown.target is None:
        return ""
    classes = shown.target.classes
    return f"{shown.target.name} ({shown.target.kind if classes is None else _count(len(classes), 'class', 'classes')})"


def jobs(found: Sequence[Job]) -> RenderableType:
    table = _table("id", "kind", "model", ">version", "status", ">done", nothing="No jobs yet", of=found)
    for each in found:
        done = f"{100 * each.progress.fraction:.0f}%" if each.progress and each.status == "running" else ""
        table.add_row(each.id, each.kind, each.model or "", each.version or "", _status(each.status), done)
    return table


def workers(found: Sequence[Worker]) -> RenderableType:
    """A table of slots for each."""
    if not found:
        return "No worker runs, so jobs wait. `gammabeta up` starts a service and a worker."
    return Group(*(part for each in found for part in _worker(each)))


def usage(found: Usage) -> RenderableType:
    used = found.bytes
    table = _table("", ">bytes")
    for name, size in {"data sets": used.datasets, "models": used.models, "jobs": used.jobs}.items():
        table.add_row(name, f"{size:,}")
    table.add_row(Text("together", style="bold"), f"{used.total:,}")
    if found.limit is not None:
        table.add_row("limit", f"{found.limit:,}")
    return table


def keys(found: Sequence[Key]) -> RenderableType:
    table = _table(
        "id", "name", "scopes", "project", "owner", "state", "expires", "last used", nothing="No keys yet", of=found
    )
    for each in found:
        owner = "" if each.owner == each.id else each.owner
        times = (_time(when) if when else "–" for when in (each.expires_at, each.last_used_at))
        table.add_row(each.id, each.name, " ".join(each.scopes), each.project, owner, _status(each.state), *times)
    return table


def _worker(shown: Worker) -> Iterable[RenderableType]:
    yield Text(shown.id, style="bold")
    heard = Text(f"last heard of {_time(shown.last_heartbeat)}", style="dim")
    yield Text.assemble(heard, ("  silent for longer than a lease", "yellow")) if shown.silent else heard
    table = _table("slot", "device", "job")
    for slot in shown.slots:
        table.add_row(slot.name, slot.device, slot.job or "–")
    yield table


def job(shown: Job) -> RenderableType:
    progress, rows = shown.progress, {"id": shown.id, "kind": shown.kind, "status": _status(shown.status)}
    deleted = (shown.result or {}).get("deleted_version")
    more = {
        "error": f"{shown.error.code}: {shown.error.message}" if shown.error else None,
        "queue": f"number {shown.queue_position}" if shown.queue_position else None,
        "progress": _progress(progress) if progress and progress.steps else None,
        "last epoch" if shown.status == "succeeded" else "metrics": "  ".join(
            f"{k} {v:.4f}" for k, v in progress.metrics.items()
        )
        or None
        if progress
        else None,
        "model": f"{shown.model} version {shown.version}" if shown.version else shown.model,
        "deleted": f"version {deleted}, which it made" if deleted else None,
        "dataset": shown.dataset,
        "device": shown.device,
        "attempt": str(shown.attempt),
        "created": _time(shown.created_at),
        "started": _time(shown.started_at),
        "finished": _time(shown.finished_at),
    }
    warnings = {f"warning {index}": remark(each) for index, each in enumerate(shown.warnings, start=1)}
    return _pairs(rows | more | warnings)


def _progress(progress: Progress) -> str:
    if not progress.epochs:
        return f"row {progress.step:,} of {progress.steps:,}"
    return f"epoch {progress.epoch} of {progress.epochs}, step {progress.step:,} of {progress.steps:,}"


def answers(shown: Job, saved: Path | None = None) -> RenderableType:
    """What a predict job has made, and where it was saved."""
    result = shown.result or {}
    metrics = result.get("metrics") or {}
    return _pairs(
        {
            "answers": f"{result['rows']:,} rows of {result['split']}, {_count(result['bytes'], 'byte')}, "
            f"sha256 {result['sha256'][:12]}…",
            "by": f"{result['model']} version {result['version']}",
            "metrics": "  ".join(f"{name} {metrics[name]:.4f}" for name in SCORES if name in metrics) or None,
            "file": None if saved is None else str(saved),
        }
    )


def predict_dry_run(shown: PredictDryRun) -> RenderableType:
    """What a predict job would do."""
    request = shown.request
    return _pairs(
        {
            "by": f"{request.model} version {request.version}",
            "rows": f"{shown.rows:,} of {request.split} of {request.dataset}",
            "columns": ", ".join(shown.columns),
            "not read": ", ".join(shown.unused) or None,
            "metrics": "yes" if shown.measured else "no: the model does not know the targets",
        }
    )


def remark(shown: JobWarning | Message) -> Text:
    """What is said, and the code by which the documentation has it."""
    return Text.assemble(shown.message, (f" [{shown.code}]", "dim"))


def event(shown: Event) -> RenderableType:
    data = "  ".join(f"{key} {value}" for key, value in shown.data.items() if value is not None)
    return Text.assemble(
        (f"{shown.created_at.astimezone(UTC):%H:%M:%S} UTC  ", "dim"), (f"{shown.type:<18}", "bold"), data
    )


def metrics(shown: Metrics) -> RenderableType:
    table = _table(
        "metric", ">points", ">first", ">last", ">lowest", ">highest", nothing="No metrics yet", of=shown.series
    )
    for series in shown.series:
        finite = [value for value in series.value if value is not None]
        if finite:
            numbers = (finite[0], finite[-1], min(finite), max(finite))
            table.add_row(series.name, f"{len(series.value):,}", *(f"{number:,.6g}" for number in numbers))
    return table


def dry_run(shown: DryRun) -> RenderableType:
    table = _table("layer", "type", "output", ">parameters")
    for row in shown.layers:
        table.add_row(row.name, row.type, " × ".join(map(str, row.output_shape)), f"{row.parameters:,}")
    norms = [Text(line, style="dim") for line in _norms(shown.layers)]
    counts = f"{_count(shown.parameters, 'parameter')}, {_count(shown.steps, 'step')}"
    total = f"{counts}, about {shown.memory_bytes / 2**20:,.1f} MiB"
    remarks = [
        Text.assemble((f"{each.severity}: ", "yellow" if each.severity == "warning" else "dim"), remark(each))
        for each in shown.messages
    ]
    return Group(table, *norms, total, *remarks)


def _norms(layers: Sequence[LayerRow]) -> Iterable[str]:
    """What batch norm will do, a line for all layers that do the same."""
    alike: dict[str, list[str]] = {}
    for row in layers:
        if "arguments" in row.details:
            alike.setdefault(_norm(row.details), []).append(row.name)
    for said, names in alike.items():
        more = f" and {len(names) - FEW_NAMES} more" if len(names) > FEW_NAMES else ""
        yield f"{', '.join(names[:FEW_NAMES])}{more}: {said}"


def _norm(details: dict[str, Any]) -> str:
    trains = details["arguments"].get("trainable", True)
    does = _updating(details) if trains else "frozen: normalizes with the moving statistics, and changes nothing"
    changed = arguments.changed(details["arguments"], without={"momentum", "trainable"})
    return f"{arguments.axes(details['axis'])}, {does}{changed and f'; {changed}'}"


def _updating(details: dict[str, Any]) -> str:
    values = _count(details["values_per_channel"], "value")
    return (
        f"momentum {details['momentum']:g} (torch: {details['torch_momentum']:.4g}), "
        f"moving variance: {details['variance_estimator']}, {values} per channel"
    )


def models(found: Sequence[Model]) -> RenderableType:
    table = _table("name", ">versions", "newest", "test", "aliases", nothing="No models yet", of=found)
    for each in found:
        newest = each.versions[0] if each.versions else None
        table.add_row(
            each.name,
            str(len(each.versions)),
            newest.version if newest else "",
            _scores(newest.metrics) if newest else "",
            _aliases(each),
        )
    return table


def model(shown: Model) -> RenderableType:
    table = _table("version", "test", "batch norm", "created")
    for each in shown.versions:
        digest = each.batchnorm_digest.removeprefix("sha256:")[:12]
        table.add_row(each.version, _scores(each.metrics), digest, _time(each.created_at))
    return Group(_pairs({"name": shown.name, "aliases": _aliases(shown) or None}), "", table)


def version(shown: Version) -> RenderableType:
    rows = {
        "model": f"{shown.model} version {shown.version}",
        "job": shown.job,
        "dataset": shown.dataset,
        "classes": ", ".join(shown.classes) if shown.classes else None,
        "layers": ", ".join(layer.name or layer.type for layer in shown.network.layers),
        "parameters": f"{shown.parameters:,}",
        "weights": f"sha256:{shown.weights_sha256}",
        "batch norm": shown.batchnorm_digest,
        "created": _time(shown.created_at),
    }
    return Group(_pairs(rows), "", scores(shown.metrics))


def scores(metrics: dict[str, dict[str, Any]]) -> RenderableType:
    """A row for each split of the data, a column for each score that is one number."""
    names = [name for name in SCORES if any(name in values for values in metrics.values())]
    table = _table("", *(f">{name}" for name in names))
    for split, values in metrics.items():
        table.add_row(split, *(_score(values.get(name)) for name in names))
    return table


def _score(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "–"


def early_stop(shown: Event) -> str:
    """After which epoch a job stopped, and of which epoch its weights are."""
    best = shown.data.get("best_epoch")
    rest = f"; the weights of epoch {best} were published" if best else ""
    return f"stopped early after epoch {shown.data.get('epoch')}{rest}"


def _scores(metrics: dict[str, dict[str, Any]]) -> str:
    numbers = {name: value for name, value in metrics.get("test", {}).items() if isinstance(value, int | float)}
    wanted = [name for name in SCORES if name in numbers][:2]
    return "  ".join(f"{name} {numbers[name]:.4f}" for name in wanted)


def _aliases(shown: Model) -> str:
    return ", ".join(f"{alias} → {number}" for alias, number in shown.aliases.items())


def batchnorm(state: StoredState, *, every_channel: bool = False) -> RenderableType:
    """A table for each layer: each channel where there are few, else quantiles."""
    if not state.layers:
        return "No batch norm in this network."
    return Group(*(part for layer in state.layers for part in _layer(layer, every_channel)), Text(state.digest, "dim"))


def _layer(layer: StoredLayer, every_channel: bool) -> Iterable[RenderableType]:
    yield Text.assemble((layer.name, "bold"), f"  {_count(layer.channels, 'channel')} on {arguments.axes(layer.axis)}")
    yield Text(
        f"epsilon {layer.epsilon:g}, momentum {layer.momentum:g} (torch: {1 - layer.momentum:.4g}), "
        f"{_count(layer.updates, 'update')}",
        style="dim",
    )
    changed = arguments.changed(layer.arguments, without={"epsilon", "momentum"})
    yield Text(f"moving variance: {layer.variance_estimator}{changed and f'; {changed}'}", style="dim")
    if layer.skipped:
        skipped = _count(layer.skipped, "batch was", "batches were")
        yield Text(f"{skipped} not finite, and moved nothing.", style="yellow")
    if layer.single:
        single = _count(layer.single, "batch", "batches")
        yield Text(f"{single} had one value per channel: the mean moved, the variance did not.", style="yellow")
    if layer.initial_weight > COLD and layer.arguments["trainable"]:
        what = "variance is still its" if layer.single else "statistics are still their"
        share = f"{layer.initial_weight:.0%} of the moving {what} initial value."
        yield Text(f"{share} {_remedy(layer)}", style="yellow")
    every = every_channel or layer.channels <= FEW_CHANNELS
    yield _channels(layer) if every else _quantiles(layer)
    yield ""


def _remedy(layer: LayerState) -> str:
    """Of moving statistics that are cold."""
    if layer.momentum == 1:
        return "Write a momentum below 1, such as 0.99."
    if layer.single and layer.single >= layer.updates:
        return "Train with more rows in a batch."
    return "Train longer, or with a smaller momentum."


def _channels(layer: LayerState) -> RenderableType:
    """Every channel, in as many blocks side by side as the terminal is wide."""
    heads = ["#", "gamma", "beta", "moving\nmean", "moving\nvariance"]
    cells = [[str(channel) for channel in range(layer.channels)]]
    cells += [_numbers(getattr(layer, name), layer.channels) for name in ARRAYS]
    widths = [max(map(len, [*head.split("\n"), *column])) for head, column in zip(heads, cells, strict=True)]
    blocks = min(max(1, (_console().width + GAP) // (sum(widths) + len(widths) - 1 + GAP)), -(-layer.channels // 8))
    length = -(-layer.channels // blocks)
    return Columns(
        [_block(heads, cells, widths, start, length) for start in range(0, layer.channels, length)], (0, GAP)
    )


def _block(heads: list[str], cells: list[list[str]], widths: list[int], start: int, length: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    for index, (head, width) in enumerate(zip(heads, widths, strict=True)):
        style = "" if index else "dim"
        table.add_column(head, justify="right", vertical="bottom", width=width, no_wrap=True, style=style)
    for row in zip(*(column[start : start + length] for column in cells), strict=True):
        table.add_row(*row)
    return table


def _numbers(array: NDArray[np.float32] | None, channels: int) -> list[str]:
    """With four decimals, so that they stand below each other, where these say enough."""
    if array is None:
        return ["–"] * channels
    largest = np.abs(array).max(initial=0)
    return [f"{value:.4f}" if 0.01 <= largest < 1_000 else f"{value:.4g}" for value in array]


def _quantiles(layer: LayerState) -> RenderableType:
    table = _table("", ">min", ">5%", ">median", ">95%", ">max")
    for name in ARRAYS:
        array = getattr(layer, name)
        if array is not None:
            found = np.quantile(array, [0, 0.05, 0.5, 0.95, 1])
            table.add_row(name, *(f"{value:.4g}" for value in found))
    return table


def prediction(shown: Prediction) -> RenderableType:
    """The first rows; the digest of the state that was used."""
    if shown.classes is None:
        table = _table(">row", ">value")
        for row, value in enumerate(shown.values[:FEW_ROWS]):
            table.add_row(str(row), f"{value:,.6g}")
    else:
        table = _table(">row", "label", ">score")
        for row, (label, scores) in enumerate(zip(shown.labels[:FEW_ROWS], shown.scores, strict=False)):
            table.add_row(str(row), label, f"{scores.max():.4f}")
    more = len(shown) - FEW_ROWS
    rest = [f"… and {_count(more, 'more row')}; --json has all"] if more > 0 else []
    return Group(table, *rest, Text(f"{shown.model} version {shown.version}, batch norm {shown.digest}", "dim"))


def _count(number: int, one: str, many: str = "") -> str:
    """`1 step`, `2 steps`; `many` is for those that take more than an s."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def _table(*heads: str, nothing: str = "", of: Sequence[object] | None = None) -> Table:
    """`>` before a head: a column of numbers, to the right."""
    empty = of is not None and not of
    table = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, caption=nothing if empty else None
    )
    for head in heads:
        right = head.startswith(">")
        table.add_column(head.removeprefix(">"), justify="right" if right else "left", overflow="fold")
    return table


def _pairs(rows: dict[str, Any]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for key, value in rows.items():
        if value is not None:
            grid.add_row(key, value)
    return grid


def _status(word: str) -> Text:
    return Text(word, style=_STATUS.get(word, ""))


def _time(moment: datetime | None) -> str | None:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if moment else None
