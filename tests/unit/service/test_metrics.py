from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain
from pydantic import TypeAdapter, ValidationError

from gammabeta import exposition
from gammabeta.schemas.base import NAME_PATTERN, Name
from gammabeta.schemas.jobs import JobState, Lane
from gammabeta.store.census import Census
from service.metrics import VERSION, Exposed, Serving, Sight, seen_from_outside
from service.runtime.counting import Spent, Statistics
from service.traffic import SECONDS, Kind, Seen
from tests import metrics_page

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
CENSUS = Census(
    jobs={(JobState.QUEUED, Lane.TRAIN): 7, (JobState.RUNNING, Lane.LIGHT): 1},
    oldest_seconds={Lane.TRAIN: 61.5, Lane.LIGHT: 0.0},
)


def statistics(*batches: tuple[int, int]) -> Statistics:
    """Of batches, as rows and how often."""
    found = Statistics(queue=Spent(5, 2_000_000_000), rows=21)
    for rows, count in batches:
        found.batches[rows] = Spent(count, 1)
    return found


def serving(model: str, version: str, counted: Statistics, *, project: str = "team") -> Serving:
    outcomes = {"answered": 5, "refused": 2, "failed": 1}
    return Serving(project=project, model=model, version=version, outcomes=outcomes, statistics=counted, waiting=9)


def sight(**changed: Any) -> Sight:
    whole: dict[str, Any] = {
        "requests": [(Kind("/healthz", "GET", "2xx"), Seen(seconds=0.5, buckets=[1] * (len(SECONDS) + 1)))],
        "versions": (serving("digits", "3", statistics((1, 4), (64, 2))),),
        "versions_bytes": 10,
        "versions_limit": 20,
        "uploaded": 30,
        "streams": 2,
        "connections": 1,
        "census": CENSUS,
    }
    return Sight(**whole | changed)


def values(told: Sight) -> dict[tuple[str, ...], float]:
    """Of each sample, by its name and the values of its labels in the order of their names."""
    text, _ = exposition.written(Exposed(told), None)
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in plain(text.decode())
        for sample in family.samples
    }


def test_names_types_and_labels_are_those_of_the_page() -> None:
    assert metrics_page.exposed(Exposed(sight()).collect()) == metrics_page.rows("The service")


def test_models_of_one_name_in_two_projects_are_two_series() -> None:
    both = tuple(serving("digits", "3", statistics((1, 4)), project=each) for each in ("a", "b"))
    rows = [name for name in values(sight(versions=both)) if name[0] == "gammabeta_predict_rows_total"]
    assert rows == [("gammabeta_predict_rows_total", "digits", each, "3") for each in ("a", "b")]


def test_stages_are_told_in_seconds() -> None:
    found = values(sight())
    assert found["gammabeta_predict_stage_seconds_sum", "digits", "team", "queue", "3"] == 2
    assert found["gammabeta_predict_stage_seconds_count", "digits", "team", "queue", "3"] == 5


def test_batches_are_told_by_their_rows() -> None:
    found = values(sight(versions=(serving("m", "1", statistics((1, 4), (5, 2), (9_000, 1))),)))
    buckets = {
        bound: found["gammabeta_predict_batch_rows_bucket", bound, "m", "team", "1"]
        for bound in ("1.0", "4.0", "8.0", "4096.0", "+Inf")
    }
    assert buckets == {"1.0": 4, "4.0": 4, "8.0": 6, "4096.0": 6, "+Inf": 7}
    assert found["gammabeta_predict_batch_rows_sum", "m", "team", "1"] == 4 + 10 + 9_000


def test_times_of_a_route_are_told_whatever_their_status() -> None:
    both = [
        (Kind("/x", "GET", status), Seen(seconds=1.5, buckets=[1] * (len(SECONDS) + 1))) for status in ("2xx", "4xx")
    ]
    found = values(sight(requests=both))
    assert found["gammabeta_http_request_seconds_count", "GET", "/x"] == 2 * (len(SECONDS) + 1)
    assert found["gammabeta_http_request_seconds_sum", "GET", "/x"] == 3
    assert found["gammabeta_http_requests_total", "GET", "/x", "4xx"] == len(SECONDS) + 1


def test_without_the_database_its_numbers_are_left_out_and_no_others() -> None:
    whole, rest = values(sight()), values(sight(census=None))
    assert (whole["gammabeta_database_up",], rest["gammabeta_database_up",]) == (1, 0)
    gone = {name for name, *_ in whole.keys() - rest.keys()}
    assert gone == {"gammabeta_jobs", "gammabeta_jobs_oldest_seconds"}


def test_an_event_loop_without_time_costs_a_scrape_and_no_more() -> None:
    loop, busy = asyncio.new_event_loop(), threading.Event()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    loop.call_soon_threadsafe(busy.wait)
    nobody: Any = None
    assert seen_from_outside(nobody, loop, patience_seconds=0.01) is None
    busy.set()
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(10)  # what was given up comes to its end before
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


numbers = st.integers(0, 2**62)
spent = st.builds(Spent, numbers, numbers)
counted = st.builds(
    Statistics,
    success=spent,
    fail=spent,
    queue=spent,
    compute_input=spent,
    rows=numbers,
    refused=numbers,
    batches=st.dictionaries(st.integers(1, 65_536), spent),
)
servings = st.builds(
    Serving,
    project=st.from_regex(NAME_PATTERN, fullmatch=True),
    model=st.from_regex(NAME_PATTERN, fullmatch=True),
    version=numbers.map(str),
    outcomes=st.dictionaries(st.sampled_from(["answered", "refused", "failed"]), numbers),
    statistics=counted,
    waiting=numbers,
)


@given(
    st.lists(servings, max_size=3, unique_by=lambda each: each.labels),
    st.one_of(st.none(), st.text(), st.sampled_from([OPENMETRICS, "text/plain; version=1.0.0"])),
)
def test_whatever_was_counted_and_whoever_asks_it_can_be_parsed(versions: list[Serving], accept: str | None) -> None:
    told = sight(versions=tuple(versions))
    text, media_type = exposition.written(Exposed(told), accept)
    parse = openmetrics if media_type.startswith("application/openmetrics-text") else plain
    families = {family.name: family for family in parse(text.decode())}
    rows = families.get("gammabeta_predict_rows")
    found = {tuple(map(each.labels.get, VERSION)): each.value for each in rows.samples} if rows else {}
    assert found == {each.labels: float(each.statistics.rows) for each in versions}


@pytest.mark.parametrize("accept", ["application/openmetrics-text; version=x", "text/plain;version=1..2"])
def test_a_version_that_is_none_gets_the_plain_text(accept: str) -> None:
    assert exposition.written(Exposed(sight()), accept)[1].startswith("text/plain; version=0.0.4")


@pytest.mark.parametrize("name", ["a\nb 1", 'a"} 1', "a\\", "\x1b[31mred", "a\u2028b", "é", "a" * 65])
def test_names_of_models_cannot_say_anything_to_who_reads_metrics(name: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Name).validate_python(name)
