"""What Prometheus is told, put together when it asks: nothing is counted for it that was not counted before, but the
requests of `traffic.py`.

    /metrics ─► Sight, on the event loop ─► families ─► text, in a thread; at a port of its own too, see `exposition.py`
                  ├─ Traffic        requests by route
                  ├─ Statistics     of each version in memory
                  ├─ Census         of the queue, by the database, if it answers
                  └─ what is open: streams, connections

Labels are templates of routes, lanes, states, and names and numbers of versions that are in memory: nothing else that a
client can write. `docs/operations.md` has the table, and a test that holds both together.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from itertools import accumulate

import torch
from prometheus_client import ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

import gammabeta
from gammabeta.store.census import Census
from service.dependencies import Context
from service.runtime.counting import Spent, Statistics
from service.runtime.loading import LoadedVersion
from service.traffic import SECONDS, Kind, Seen

ROWS = tuple(2**power for power in range(13))
"""The bounds of the histogram of batches: 1 to 4,096 rows."""
VERSION = ("project", "model", "version")
NS = 1e-9
PATIENCE_SECONDS = 5.0
"""How long another thread waits for the event loop, which waits for the database for less."""


@dataclass(frozen=True, kw_only=True)
class Serving:
    """A version in memory."""

    project: str
    model: str
    version: str
    outcomes: dict[str, int]
    """Requests that were answered, refused, and that failed otherwise."""
    statistics: Statistics
    waiting: int
    """Rows in line."""

    @property
    def labels(self) -> tuple[str, str, str]:
        return self.project, self.model, self.version


@dataclass(frozen=True, kw_only=True)
class Sight:
    """What there is to tell at one moment."""

    requests: list[tuple[Kind, Seen]]
    versions: tuple[Serving, ...]
    versions_bytes: int
    versions_limit: int
    uploaded: int
    streams: int
    connections: int
    census: Census | None
    """None: the database does not answer."""


async def seen(context: Context, project: str | None = None) -> Sight:
    """On the event loop, as things are now: of versions, those of a project, or all. It takes no longer than the
    patience of the backlog."""
    census = await context.backlog.newest()
    held = context.models.held if project is None else context.models.held_of(project)
    return Sight(
        requests=context.traffic.seen,
        versions=tuple(map(_serving, held)),
        versions_bytes=context.models.bytes,
        versions_limit=context.settings.predict_memory_bytes,
        uploaded=context.traffic.uploaded,
        streams=context.tailer.streams,
        connections=context.database.connections,
        census=census,
    )


def seen_from_outside(
    context: Context, loop: asyncio.AbstractEventLoop, *, patience_seconds: float = PATIENCE_SECONDS
) -> Exposed | None:
    """The same for another thread. None: the event loop has no time, or has ended."""
    seeing = asyncio.run_coroutine_threadsafe(seen(context), loop)
    try:
        return Exposed(seeing.result(patience_seconds))
    except (TimeoutError, CancelledError):
        seeing.cancel()
        return None


def _serving(loaded: LoadedVersion) -> Serving:
    version, counted = loaded.version, loaded.statistics
    # Here and not beside the event loop: a refusal that was counted in part would make a counter go back.
    failed = counted.fail.count - counted.refused
    return Serving(
        project=loaded.project_id,
        model=version.model,
        version=version.version,
        outcomes={"answered": counted.success.count, "refused": counted.refused, "failed": failed},
        statistics=counted,
        waiting=loaded.line.rows,
    )


class Exposed(Collector):
    """The families of a sight, as prometheus-client's writers take them."""

    def __init__(self, sight: Sight) -> None:
        self._sight = sight

    def collect(self) -> Iterator[Metric]:
        sight = self._sight
        yield InfoMetricFamily(
            "gammabeta_build",
            "What runs here.",
            {"version": gammabeta.__version__, "python": platform.python_version(), "torch": torch.__version__},
        )
        yield from _requests(sight.requests)
        yield from _predictions(sight.versions)
        yield GaugeMetricFamily("gammabeta_versions_loaded", "Versions in memory.", len(sight.versions))
        yield GaugeMetricFamily(
            "gammabeta_versions_bytes", "What they take, shared weights counted once.", sight.versions_bytes
        )
        yield GaugeMetricFamily("gammabeta_versions_limit_bytes", "What they may take.", sight.versions_limit)
        yield CounterMetricFamily("gammabeta_upload_bytes", "Bytes of uploaded files.", sight.uploaded)
        yield GaugeMetricFamily("gammabeta_event_streams", "Event streams that are open.", sight.streams)
        yield GaugeMetricFamily(
            "gammabeta_database_connections", "Connections to the database that are in use.", sight.connections
        )
        yield from _queue(sight.census)
        yield from ProcessCollector(registry=None).collect()


def _requests(seen: list[tuple[Kind, Seen]]) -> Iterator[Metric]:
    count = CounterMetricFamily("gammabeta_http_requests", "Requests.", labels=Kind._fields)
    seconds = HistogramMetricFamily(
        "gammabeta_http_request_seconds",
        "From its first byte here to the last of the answer.",
        labels=("route", "method"),
    )
    together: dict[tuple[str, str], Seen] = {}
    for kind, each in seen:
        count.add_metric(kind, each.count)
        both = together.setdefault(kind[:2], Seen())
        both.seconds += each.seconds
        both.buckets = [a + b for a, b in zip(both.buckets, each.buckets, strict=True)]
    for labels, both in together.items():
        seconds.add_metric(labels, _cumulated(SECONDS, both.buckets), both.seconds)
    yield count
    yield seconds


STAGES: dict[str, Callable[[Statistics], Spent]] = {
    "input": lambda counted: counted.compute_input,
    "queue": lambda counted: counted.queue,
    "compute": lambda counted: counted.compute_infer,
    "output": lambda counted: counted.compute_output,
}


def _predictions(versions: tuple[Serving, ...]) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "gammabeta_predict_requests", "Predictions, since the version was loaded.", labels=(*VERSION, "outcome")
    )
    rows = CounterMetricFamily("gammabeta_predict_rows", "Rows that were answered.", labels=VERSION)
    seconds = SummaryMetricFamily(
        "gammabeta_predict_stage_seconds", "What the time of predictions went into.", labels=(*VERSION, "stage")
    )
    batches = HistogramMetricFamily(
        "gammabeta_predict_batch_rows", "Rows that the network computed at once.", labels=VERSION
    )
    waiting = GaugeMetricFamily("gammabeta_predict_waiting_rows", "Rows in line for the network.", labels=VERSION)
    for each in versions:
        labels, counted = each.labels, each.statistics
        for outcome, number in each.outcomes.items():
            requests.add_metric((*labels, outcome), number)
        rows.add_metric(labels, counted.rows)
        for stage, of in STAGES.items():
            spent = of(counted)
            seconds.add_metric((*labels, stage), spent.count, spent.ns * NS)
        batches.add_metric(labels, *_by_rows([(size, spent.count) for size, spent in list(counted.batches.items())]))
        waiting.add_metric(labels, each.waiting)
    yield from (requests, rows, seconds, batches, waiting)


def _by_rows(batches: list[tuple[int, int]]) -> tuple[list[tuple[str, float]], int]:
    """Of batches by their rows: the buckets, and the rows in all."""
    below = [sum(count for rows, count in batches if rows <= bound) for bound in ROWS]
    every = sum(count for _, count in batches)
    return _named(ROWS, [*below, every]), sum(rows * count for rows, count in batches)


def _cumulated(bounds: Iterable[float], buckets: Iterable[int]) -> list[tuple[str, float]]:
    return _named(bounds, accumulate(buckets))


def _named(bounds: Iterable[float], counts: Iterable[float]) -> list[tuple[str, float]]:
    return list(zip((*map(floatToGoString, bounds), "+Inf"), counts, strict=True))


def _queue(census: Census | None) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "gammabeta_database_up", "Whether the database answers in time: 1 or 0.", int(census is not None)
    )
    jobs = GaugeMetricFamily("gammabeta_jobs", "Jobs that wait and jobs that run.", labels=("state", "lane"))
    oldest = GaugeMetricFamily(
        "gammabeta_jobs_oldest_seconds", "For how long the first of those that wait could have run.", labels=("lane",)
    )
    if census is not None:
        for (state, lane), count in census.jobs.items():
            jobs.add_metric((state.value, lane.value), count)
        for lane, seconds in census.oldest_seconds.items():
            oldest.add_metric((lane.value,), seconds)
    yield from (jobs, oldest)
