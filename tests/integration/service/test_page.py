"""The page at /ui, in a real browser."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sqlalchemy.orm import Session

from gammabeta.schemas.jobs import Lane
from gammabeta.schemas.keys import KeyRequest, Scope
from gammabeta.schemas.networks import LayersNetwork
from gammabeta.schemas.preprocessing import FittedTable, NumericColumn
from gammabeta.store import jobs, keys, publishing
from gammabeta.store.tables import DEFAULT_PROJECT
from service.runtime.engines import Refusal
from tests.integration.service import browser
from tests.integration.service.browser import Page
from tests.integration.service.conftest import Service, eventually

AGES = FittedTable(columns=(NumericColumn(name="age", fill=38.0),))
"""A column of the shelf's data sets."""
# Says nothing of where its rows lie, so that no engine is proved.
UNTOLD = FittedTable(columns=tuple(NumericColumn(name=name, fill=0.0, offset=0.0, scale=1.0) for name in "ab"))
BETWEEN_ACTIVATIONS = LayersNetwork.model_validate(
    {
        "layers": [
            *[{"type": "activation", "function": "relu"}, {"type": "batch_norm"}] * 4,
            {"type": "activation", "function": "relu"},
            {"type": "dense", "units": 2},
        ]
    }
)
# By its terms, what the row beneath a version says; the values of numbers as they are, not as they are rounded.
FACTS = """Object.fromEntries([...document.querySelectorAll(".served dt")].map((term) => [
  term.textContent,
  { said: term.nextSibling.textContent,
    exact: [...term.nextSibling.querySelectorAll(".exact")].map((each) => Number(each.title)),
    items: [...term.nextSibling.querySelectorAll("li")].map((each) => each.textContent),
    collapsed: term.nextSibling.querySelector("details:not([open])") !== null },
]))"""
ASKED = 'performance.getEntriesByType("resource").filter((each) => each.name.endsWith("/served")).length'
# What would have to be scrolled sideways, and which links and buttons are then not where one can click on them.
TOO_WIDE = """(() => {
  const places = [document.documentElement, ...document.querySelectorAll("header, .card")];
  const hidden = (control) => {
    control.scrollIntoView({ block: "center" });
    const { left, top, height } = control.getBoundingClientRect();
    return !control.contains(document.elementFromPoint(left + 3, top + Math.min(height, 16) / 2));
  };
  return [
    ...places.filter((each) => each.scrollWidth > each.clientWidth).map((each) => each.className || each.tagName),
    ...[...document.querySelectorAll(":is(a, button):not([hidden] *)")].filter(hidden).map((each) => each.textContent)];
})()"""
# What each cell of a model's row says that it is of, which it need not beneath a heading.
LABELS = """[...document.querySelectorAll("#models tr:first-child td")].map(
  (cell) => getComputedStyle(cell, "::before").content)"""
# Of the jobs by their kinds, where the links at the end of the row lead.
JOB_LINKS = """Object.fromEntries([...document.querySelectorAll("#jobs tr")].map((row) => [
  row.querySelector("a").textContent,
  [...row.querySelectorAll(".links a")].map((each) => each.getAttribute("href")),
]))"""
FOCUSED = """(() => {
  const control = document.activeElement;
  return [control.closest("tr")?.dataset.key, control.textContent, control.matches(":focus-visible")];
})()"""
LONG = "a" * 64
BUTTON = 'document.querySelector("#models button")'


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser.opened(tmp_path_factory.mktemp("profile")) as found:
        yield found


def open_version(page: Page, service: Service) -> dict[str, Any]:
    """Click on what serves the only version, and read what is shown then."""
    page.open(f"{service.url}/ui/")
    page.until(BUTTON)
    assert page.evaluate(f'{BUTTON}.click(), document.querySelector(".served").textContent') == "measuring…"
    page.until('document.querySelector(".served dl")')
    facts: dict[str, Any] = page.evaluate(FACTS)
    return facts


def served(service: Service, model: str) -> dict[str, Any]:
    said: dict[str, Any] = service.http.get(f"/v1/models/{model}/versions/1/served").json()
    return said


def test_the_page_shows_the_engine_that_serves_and_the_measured_difference(
    start: Callable[..., Any], page: Page
) -> None:
    with start() as service:
        service.shelf.version("income")
        facts, said = open_version(page, service), served(service, "income")
    assert said["engine"] == "onnxruntime"
    assert facts["Engine"]["said"] == "ONNX Runtime"
    assert facts["Difference"]["exact"] == [said["max_difference"], said["tolerance"]]
    assert said["max_difference"] <= said["tolerance"]
    assert f"on {said['probe_rows']} rows" in facts["Difference"]["said"]
    assert facts["Labels"]["said"] == "the same in every row"
    assert facts["Batch norm"]["said"].startswith("1 of 1 folded into 1 layer")
    assert facts["Batch norm"]["items"] == [f"{each['layer']} into {each['into']}" for each in said["folded"]]
    assert facts["State"]["said"] == f"{said['digest']} recomputed now, as it was stored"
    assert not facts.keys() & {"Not folded", "Not serving", "Mismatch"}


def test_the_page_shows_which_engines_do_not_serve_and_why(start: Callable[..., Any], page: Page) -> None:
    with start() as service:
        service.shelf.version("untold", UNTOLD)
        facts, said = open_version(page, service), served(service, "untold")
    assert said["engine"] == "torch"
    assert facts["Engine"]["said"].startswith("torch – the network as it was trained")
    assert facts["Difference"]["exact"] == [said["max_difference"]] == [0]
    assert facts["Batch norm"]["said"] == "none of 1 folded"
    assert facts["Not folded"]["items"] == [f"{each['layer']}: {each['reason']}" for each in said["not_folded"]]
    reasons = [each["reason"] for each in said["not_serving"]]
    assert facts["Not serving"]["items"] == [f"ONNX Runtime: {reasons[0]}", f"torch, folded: {reasons[1]}"]
    assert "Labels" not in facts


def test_a_long_list_of_batch_norms_is_collapsed(start: Callable[..., Any], page: Page) -> None:
    with start() as service:
        service.shelf.version("between", network=BETWEEN_ACTIVATIONS)
        facts, said = open_version(page, service), served(service, "between")
    assert facts["Not folded"]["collapsed"]
    assert facts["Not folded"]["items"] == [f"{each['layer']}: {each['reason']}" for each in said["not_folded"]]
    assert len(said["not_folded"]) == 4


def test_a_number_has_no_labels_to_show(start: Callable[..., Any], page: Page) -> None:
    with start() as service:
        service.shelf.version("wage", classes=None)
        facts, said = open_version(page, service), served(service, "wage")
    assert facts["Difference"]["exact"] == [said["max_difference"], said["tolerance"]]
    assert "Labels" not in facts


def test_what_changed_in_memory_shows_on_the_page(start: Callable[..., Any], page: Page) -> None:
    with start() as service:
        service.shelf.version("touched")
        first, before = open_version(page, service), served(service, "touched")
        norm = next(each for each in _network(service).layers if hasattr(each, "moving_mean"))
        norm.moving_mean.add_(1)
        facts, after = open_version(page, service), served(service, "touched")
    assert (before["mismatch"], "Mismatch" in first) == (None, False)
    assert after["max_difference"] > after["tolerance"]
    assert facts["Difference"]["exact"] == [after["max_difference"], after["tolerance"]]
    assert facts["Mismatch"]["said"] == after["mismatch"]
    assert "Labels" not in facts
    assert facts["State"]["said"] == f"{after['digest']}recomputed now. Stored was {before['digest']}"


def test_a_version_that_cannot_be_served_shows_the_reason(start: Callable[..., Any], page: Page) -> None:
    with start() as service:
        service.shelf.version("senseless", variance=-1.0)
        page.open(f"{service.url}/ui/")
        page.until(BUTTON)
        page.evaluate(f"{BUTTON}.click()")
        shown = page.until('document.querySelector(".served .why")?.textContent')
        problem = service.http.get("/v1/models/senseless/versions/1/served").json()
    assert shown == f"artifact_corrupt: {problem['detail']}"


def test_a_version_is_measured_once_for_each_time_that_it_is_opened(start: Callable[..., Any], page: Page) -> None:
    with start() as service:
        service.shelf.version("income")
        open_version(page, service)
        service.shelf.version("later")
        page.until('document.querySelectorAll("#models button").length === 2')
        assert page.evaluate('document.querySelectorAll(".served dl").length') == 1
        above = 'document.querySelector(".served").closest("tr").previousSibling'
        assert page.evaluate(f'{above}.querySelector("th").textContent') == "income"
        assert page.evaluate(ASKED) == 1
        assert page.evaluate(f'{above}.querySelector("button").ariaExpanded') == "true"
        page.evaluate(f'{above}.querySelector("button").click()')
        assert page.evaluate('document.querySelector(".served")') is None
        assert page.evaluate(f"{BUTTON}.ariaExpanded") == "false"


def test_what_an_engine_said_reaches_the_page_as_text(start: Callable[..., Any], page: Page) -> None:
    markup = "<img src=x onerror=alert(1)><b>bold</b>"
    with start() as service:
        service.shelf.version("income")
        computing = _loaded(service).computing
        computing.prepared = replace(computing.prepared, refusals=(Refusal(markup, markup),))
        facts = open_version(page, service)
        assert page.evaluate('document.querySelectorAll(".served img, .served b").length') == 0
    assert facts["Not serving"]["items"] == [f"{markup}: {markup}"]


@pytest.mark.parametrize("width", [320, 400, 700, 1000, 1280, 1400])
def test_everything_is_reached_without_scrolling_sideways(start: Callable[..., Any], page: Page, width: int) -> None:
    with start() as service, page.wide(width):
        service.shelf.version(LONG, AGES)
        _dataset(service, LONG)
        _fail(service, _predict(service, LONG), message=LONG * 4)
        _succeed(service, _predict(service, LONG))
        open_version(page, service)
        page.until('document.querySelector("#version").textContent && document.querySelector("#state.good")')
        assert page.evaluate('document.querySelector("#jobs .why").textContent').endswith(LONG)
        assert page.evaluate(TOO_WIDE) == []


def test_a_cell_that_stands_beneath_no_heading_says_what_it_is_of(start: Callable[..., Any], page: Page) -> None:
    headings = ["Version", "Aliases", "Train", "Validation", "Test", "Batch norm"]
    with start() as service:
        service.shelf.version("income")
        with page.wide(400):
            open_version(page, service)
            assert [json.loads(each.partition(" / ")[0]) for each in page.evaluate(LABELS)[:-1]] == headings
        with page.wide(1400):
            assert set(page.evaluate(LABELS)) == {"none"}


@pytest.mark.parametrize("width", [400, 1400])
def test_a_screen_reader_says_of_every_version_which_model_it_is_of(
    start: Callable[..., Any], page: Page, width: int
) -> None:
    with start() as service, page.wide(width):
        for model in ("income", "income", "wage"):
            service.shelf.version(model)
        open_version(page, service)
        jobs, versions = page.spoken("rowheader")[:3], page.spoken("rowheader")[3:]
        assert all(each.startswith("train job_") for each in jobs)
        assert sorted(versions) == ["income", "income", "wage"]
        assert {"Job", "Model", "Version", "Data set", "Links"} <= set(page.spoken("columnheader"))
        assert page.spoken("table") == ["Jobs 3", "Models 2", "Data sets"]


@pytest.mark.parametrize(
    ("control", "taken_over"),
    [
        ('#jobs [href$="/metrics"]', False),
        ("#models button", False),
        ("#models .served a", True),
        ('#datasets [href$="/preview"]', False),
    ],
)
def test_a_table_that_is_built_anew_leaves_the_focus_where_it_was(
    start: Callable[..., Any], page: Page, control: str, taken_over: bool
) -> None:
    with start() as service:
        service.shelf.version("income")
        _dataset(service, "people")
        open_version(page, service)
        page.evaluate(f"(window.held = document.querySelector({json.dumps(control)})).focus()")
        key, text, visible = page.evaluate(FOCUSED)
        assert (bool(key), visible) == (True, True)
        _dataset(service, "later")
        service.shelf.version("later")
        page.until('["#models button", "#datasets tr"].every((each) => document.querySelectorAll(each).length === 2)')
        assert page.evaluate(FOCUSED) == [key, text, visible]
        assert page.evaluate("document.activeElement === held") == taken_over


def test_a_training_links_to_its_series_and_a_prediction_to_its_file(start: Callable[..., Any], page: Page) -> None:
    with start() as service:
        service.shelf.version("income", AGES)
        _dataset(service, "people")
        predicting = _predict(service, "income")
        page.open(f"{service.url}/ui/")
        page.until('document.querySelectorAll("#jobs tr").length === 3')
        before = page.evaluate(JOB_LINKS)
        content = _succeed(service, predicting)
        page.until('document.querySelectorAll("#jobs .good").length === 3')
        after = page.evaluate(JOB_LINKS)
        assert service.http.get(after["predict"][1]).content == content
    (events, metrics), (training,) = before["train"], before["ingest"]
    assert (events.rpartition("/")[2], metrics.rpartition("/")[2]) == ("events", "metrics")
    assert training.endswith("/events")
    assert before["predict"] == [f"/v1/jobs/{predicting}/events"]
    assert after == before | {"predict": [*before["predict"], f"/v1/jobs/{predicting}/files/predictions.csv"]}


def _dataset(service: Service, name: str) -> None:
    service.shelf.dataset(name, np.array([[40.0, 0.0], [50.0, 1.0]]), np.array([0, 1]))


def _predict(service: Service, model: str) -> str:
    """A job in the queue, which answers the only data set."""
    (dataset,) = service.http.get("/v1/datasets").json()["data"]
    answer = service.http.post("/v1/jobs", json={"kind": "predict", "model": model, "dataset": dataset["id"]})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def _attempt(session: Session, job_id: str) -> dict[str, Any]:
    """The next job of the queue, as a worker would have it."""
    claim = jobs.claim(session, worker_id="w", lane=Lane.TRAIN, free=1, ttl_ms=60_000, device="NVIDIA H200 NVL")
    assert claim is not None
    assert claim.job_id == job_id
    return {"job_id": job_id, "fence": claim.fence}


def _fail(service: Service, job_id: str, *, message: str) -> None:
    with service.shelf.database.write() as session:
        attempt = _attempt(session, job_id)
        jobs.stop(session, **attempt, outcome=jobs.Outcome.FAILURE, reason="diverged", message=message)


def _succeed(service: Service, job_id: str) -> bytes:
    """The bytes of the file that the job has then."""
    content = b"row,label\n0,>50K\n"
    path = service.shelf.scratch / "answers"
    path.write_bytes(content)
    sha256, size = service.shelf.blobs.put_file(path)
    file = f"/v1/jobs/{job_id}/files/predictions.csv"
    with service.shelf.database.write() as session:
        attempt = _attempt(session, job_id)
        publishing.publish_file(session, **attempt, result={"file": file, "rows": 1, "bytes": size, "sha256": sha256})
    return content


def _loaded(service: Service) -> Any:
    """The one version, once it is in memory."""
    (model,) = service.http.get("/v1/models").json()["data"]
    served(service, model["name"])
    (loaded,) = service.server.app.api.state.context.models._loaded.values()
    return loaded


def _network(service: Service) -> Any:
    return _loaded(service).network


ENTRY = 'document.querySelector("#entry:not([hidden])")'
"""The field for a key, where it is shown."""
ENTERED = 'document.getElementById("key").value = "%s", document.getElementById("entry").requestSubmit()'
"""A key, typed and sent."""


def test_a_key_is_asked_for_and_kept_in_the_tab_alone(page: Page, start: Callable[..., Any]) -> None:
    with start() as service:
        shelf, scopes = service.shelf, (Scope.READ,)
        shelf.version("guarded", AGES)
        with shelf.database.write() as session:
            made = keys.create(session, DEFAULT_PROJECT, KeyRequest(name="page", scopes=scopes))
        eventually(lambda: service.http.get("/v1/jobs").status_code == 401)
        page.open(f"{service.url}/ui/")
        page.until(ENTRY)
        for width in (320, 720, 1_280):
            with page.wide(width):
                assert page.evaluate(TOO_WIDE) == []
        page.evaluate(ENTERED % f"{made.key}"[:-1])
        page.until('document.querySelector("#state").title.includes("mistyped")')
        page.evaluate(ENTERED % made.key)
        page.until('document.querySelector("#models")?.textContent.includes("guarded")')
        assert page.until('document.getElementById("version").textContent')
        assert page.evaluate(ENTRY) is None
        assert page.evaluate('[document.getElementById("key").value, localStorage.length, document.cookie]') == [
            "",
            0,
            "",
        ]
        page.open(f"{service.url}/ui/")
        page.until('document.querySelector("#models")?.textContent.includes("guarded")')


def test_links_lead_on_with_the_key(page: Page, start: Callable[..., Any]) -> None:
    with start() as service:
        service.shelf.version("guarded", AGES)
        with service.shelf.database.write() as session:
            made = keys.create(session, DEFAULT_PROJECT, KeyRequest(name="page", scopes=(Scope.READ,)))
        eventually(lambda: service.http.get("/v1/jobs").status_code == 401)
        page.open(f"{service.url}/ui/")
        page.until(ENTRY)
        page.evaluate(ENTERED % made.key)
        page.until("document.querySelector('#models a[href$=\"/versions/1\"]')")
        # What is opened in a tab of its own.
        opened = """new Promise((done) => {
          const make = URL.createObjectURL;
          URL.createObjectURL = (blob) => {
            blob.text().then((text) => done([blob.type, JSON.parse(text).model]));
            return make(blob);
          };
          document.querySelector('#models a[href$="/versions/1"]').click();
        })"""
        assert page.evaluate(opened) == ["application/json", "guarded"]
