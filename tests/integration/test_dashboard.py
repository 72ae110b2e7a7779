"""Dashboard and alerts on a real Prometheus, which scrapes a service and a worker as docker/prometheus.yml says."""

from __future__ import annotations

import json
import math
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import yaml

from gammabeta.schemas.jobs import JobState
from gammabeta.schemas.keys import KeyRequest, Scope
from gammabeta.store import keys
from gammabeta.store.tables import DEFAULT_PROJECT
from tests import metrics_page
from tests.integration.databases import Databases
from tests.integration.workshop import Workshop, until, workshop
from tests.trainings import blobs

DOCKER = Path(__file__).parents[2] / "docker"
ALERTS = Path(__file__).with_name("alerts_test.yml")
DASHBOARD = json.loads((DOCKER / "grafana/dashboards/gammabeta.json").read_text())
PANELS = [each for each in DASHBOARD["panels"] if each["type"] != "row"]
WITHOUT_DATA = {
    "Memory in use": "there is no GPU",
    "Memory in use, of all there is": "there is no GPU",
}
"""Panels that have nothing to show here, and why."""
VARIABLES = {"$__rate_interval": "1m", "$model": ".*"}
"""What Grafana puts in their places."""


class Query(NamedTuple):
    panel: str
    expr: str


def queries() -> list[Query]:
    """All of the dashboard, as Prometheus gets them."""
    return [Query(panel["title"], _filled(target["expr"])) for panel in PANELS for target in panel["targets"]]


def _filled(expr: str) -> str:
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    assert "$" not in expr, f"a variable that VARIABLES does not have: {expr}"
    return expr


class Prometheus:
    """Debian's, while it runs."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def _asked(self, path: str, **form: str) -> Any:
        answer = self._http.post(path, data=form) if form else self._http.get(path)
        assert answer.status_code == 200, f"{form}: {answer.text}"
        return answer.json()["data"]

    def values(self, expr: str) -> list[float]:
        """Of each series, if it is a number."""
        found = [float(each["value"][1]) for each in self._asked("/api/v1/query", query=expr)["result"]]
        return [each for each in found if math.isfinite(each)]

    def alerts(self) -> list[dict[str, Any]]:
        return [rule for group in self._asked("/api/v1/rules")["groups"] for rule in group["rules"]]

    def targets(self) -> dict[str, str]:
        """How each scrape went, by the address."""
        return {each["scrapeUrl"]: each["health"] for each in self._asked("/api/v1/targets")["activeTargets"]}


def adapted(targets: dict[str, str]) -> dict[str, Any]:
    """docker/prometheus.yml with addresses in the place of Docker's names, and in a hurry; else as it stands."""
    config: dict[str, Any] = yaml.safe_load((DOCKER / "prometheus.yml").read_text())
    config["global"] = dict.fromkeys(config["global"], "250ms")
    config["rule_files"] = [str(DOCKER / each) for each in config["rule_files"]]
    for scrape in config["scrape_configs"]:
        (names,) = [name for each in scrape.pop("dns_sd_configs") for name in each["names"]]
        scrape["static_configs"] = [{"targets": [targets.pop(names)]}]
    assert targets == {}
    return config


@contextmanager
def prometheus(home: Path, config: dict[str, Any]) -> Iterator[Prometheus]:
    """On any free port of loopback, until the end of the block."""
    (home / "prometheus.yml").write_text(yaml.safe_dump(config))
    log = home / "prometheus.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={home / 'prometheus.yml'}",
                f"--storage.tsdb.path={home / 'series'}",
                "--web.listen-address=127.0.0.1:0",
            ],
            stderr=errors,
        )
    try:
        address = until(lambda: re.search(r'"Listening on" address=(\S+)', log.read_text()), "Prometheus")[1]
        with httpx.Client(base_url=f"http://{address}", timeout=20) as http:
            yield Prometheus(http)
    finally:
        process.terminate()
        process.wait(20)


class Told(NamedTuple):
    """Where the programs are."""

    api: httpx.Client
    """With a key."""
    worker: str
    """Host and port of its metrics."""
    service: str


@contextmanager
def started(shop: Workshop) -> Iterator[Told]:
    """A worker, and a service that asks for keys."""
    with shop.db.write() as session:
        key = keys.create(session, DEFAULT_PROJECT, KeyRequest(name="test", scopes=(Scope.PREDICT,))).key
    program = shop.start(METRICS_PORT="0")  # its log is that of the service too
    shop.run("service", GAMMABETA_PORT="0", GAMMABETA_METRICS_PORT="0")
    url = until(lambda: re.search(r"running on (http://127\.0\.0\.1:\d+)", program.log), "the service")[1]
    addresses = until(lambda: _addresses(program.log), "the metrics of both")
    (worker,) = [each for each in addresses if "gammabeta_worker_" in httpx.get(f"http://{each}/metrics").text]
    (service,) = addresses - {worker}
    with httpx.Client(base_url=url, timeout=20, headers={"Authorization": f"Bearer {key}"}) as api:
        yield Told(api, worker, service)


def _addresses(log: str) -> set[str] | None:
    """Where metrics are told, once it is two."""
    lines = [json.loads(line) for line in log.splitlines()]
    found = {f"{line['host']}:{line['port']}" for line in lines if line["event"] == "metrics are told"}
    return found if len(found) == 2 else None


def predict(told: Told) -> None:
    rows = blobs(rows=8)[0].tolist()
    for count in (1, 8):
        answer = told.api.post("/v1/models/toy/predict", json={"instances": rows[:count]})
        assert answer.status_code == 200, answer.text


def train(shop: Workshop, dataset_id: str) -> None:
    assert shop.ended(shop.train(dataset_id, epochs=60)).state == JobState.SUCCEEDED


def in_vain(told: Told, scraping: Prometheus) -> set[str]:
    """The panels without data, in the end; meanwhile there are predictions to tell of."""
    missing = set(queries())

    def look() -> bool:
        predict(told)
        missing.difference_update({each for each in missing if scraping.values(each.expr)})
        return {each.panel for each in missing} <= WITHOUT_DATA.keys()

    try:
        until(look, "data in every panel")
    except AssertionError as waited:
        pytest.fail(f"{waited}: {sorted(missing)}")
    return {each.panel for each in missing}


def test_every_query_of_dashboard_and_alerts_is_answered(databases: Databases, tmp_path: Path) -> None:
    with workshop(tmp_path, databases.migrated("sqlite", tmp_path)) as shop, started(shop) as told:
        assert told.api.get("/metrics").status_code == 403  # Prometheus gets by without a key, at another port
        with prometheus(tmp_path, adapted({"service": told.service, "worker": told.worker})) as scraping:
            dataset_id = shop.ready_dataset()
            train(shop, dataset_id)
            ended = 'gammabeta_worker_attempt_seconds_count{kind="train"}'
            until(lambda: scraping.values(ended), "the first training to be told")
            train(shop, dataset_id)
            assert in_vain(told, scraping) == WITHOUT_DATA.keys()
            assert scraping.targets() == {f"http://{each}/metrics": "up" for each in (told.service, told.worker)}
            alerts = scraping.alerts()
            for alert in alerts:
                scraping.values(alert["query"])
            assert {(each["health"], each["state"]) for each in alerts} == {("ok", "inactive")}


@pytest.mark.parametrize("check", [["check", "config", str(DOCKER / "prometheus.yml")], ["test", "rules", str(ALERTS)]])
def test_promtool_has_nothing_against(check: list[str]) -> None:
    done = subprocess.run(["promtool", *check], capture_output=True, text=True, check=False)
    assert (done.returncode, "SUCCESS" in done.stdout) == (0, True), done.stdout + done.stderr


def test_each_alert_is_tested_to_come_and_not_to_come() -> None:
    names = _severities().keys()
    cases = [case for each in _loaded(ALERTS)["tests"] for case in each["alert_rule_test"]]
    assert names == {case["alertname"] for case in cases if case["exp_alerts"]}
    assert names == {case["alertname"] for case in cases if not case["exp_alerts"]}


def test_each_alert_is_on_the_page() -> None:
    told = re.findall(r"^\| `(\w+)` \| (page|ticket) \|", metrics_page.PAGE.read_text(), re.MULTILINE)
    assert dict(told) == _severities()


def _severities() -> dict[str, str]:
    rules = [rule for group in _loaded(DOCKER / "alerts.yml")["groups"] for rule in group["rules"]]
    return {rule["alert"]: rule["labels"]["severity"] for rule in rules}


def _loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_the_dashboard_belongs_to_no_installation() -> None:
    assert len({each["id"] for each in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert len({each["title"] for each in PANELS}) == len(PANELS)
    for panel in PANELS:
        assert {each["datasource"]["uid"] for each in (panel, *panel["targets"])} == {"${datasource}"}, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]
    assert not [each for each in queries() if re.search(r"instance=|\d+\.\d+\.\d+\.\d+", each.expr)]


def test_panels_lie_beside_each_other_and_not_on_each_other() -> None:
    cells = [
        (x, y)
        for place in (each["gridPos"] for each in DASHBOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert {x for x, _ in cells} == set(range(24))
